"""Where the listeners of the scheduled actions count, for whoever tells the metrics.

The threaded server makes it, and with workers the master, before it forks. The evented
worker, which is executed and not forked, finds it with its parent, as far as there is
``/proc``.
"""

from __future__ import annotations

import logging
import os

import odoo

from ..listening.metrics import Slots

_logger = logging.getLogger(__name__)

#: The environment variable by which a master tells its evented worker the file.
VARIABLE = "BUS_ALT_CONNECTION_METRICS"


def find() -> Slots | None:
    """Return the slots of this server; None if there can be none."""
    try:
        if not odoo.evented:
            # of ourselves before a restart, which executes the same process anew
            os.environ.pop(VARIABLE, None)
            made = Slots()
            os.environ[VARIABLE] = f"/proc/{os.getpid()}/fd/{made.fileno()}"
            return made
        path = os.environ.get(VARIABLE, "")
        # and not with whoever has started that
        return Slots(path) if path.startswith(f"/proc/{os.getppid()}/") else None
    except OSError as error:
        _logger.warning("There are no metrics of the scheduled actions: %s", error)
        return None


#: Those of this server.
shared = find()
