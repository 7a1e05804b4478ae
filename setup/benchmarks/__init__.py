"""What setup/bench measures: one module for each part, and the report."""
