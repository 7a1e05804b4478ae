"""What setup/bench measures: one module for each part, and the report."""

import sys

from provision import ROOT

# The tests' clients, faults and figures, of which the parts make use; and what of the
# addon needs no Odoo.
sys.path += [str(ROOT / "tests" / "e2e"), str(ROOT)]
