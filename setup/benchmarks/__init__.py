"""What setup/bench measures: one module for each part, and the report."""

import sys

from provision import ROOT

# The tests' clients, faults and figures, of which the parts make use.
sys.path.append(str(ROOT / "e2e"))
