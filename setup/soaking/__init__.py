"""What setup/soak does: the traffic, the faults, and what must hold meanwhile."""

import sys

from provision import ROOT

# The tests' clients and proxies, of which the parts make use.
sys.path += [str(ROOT / "tests" / "e2e"), str(ROOT)]
