"""All overrides, once Odoo has read its configuration."""

import functools

from . import bus, cron, monitoring


@functools.lru_cache(maxsize=None)
def announce() -> None:
    """Tell the administrator, once, what was patched and where it will listen."""
    bus.announce()
    cron.announce()
    monitoring.announce()
