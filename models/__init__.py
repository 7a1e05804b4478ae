from . import connection
from . import bus
from . import cron
from . import health


def announce():
    """Tell the administrator, in the log, what was patched and where it will listen."""
    bus.announce()
    cron.announce()
    health.announce()
