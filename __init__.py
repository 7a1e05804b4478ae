import functools

from .models import series


@functools.lru_cache(maxsize=None)
def post_load():
    """Override Odoo, now that it has read its configuration; tell so, once."""
    from .models import bus, cron, monitoring

    for each in (bus, cron, monitoring):
        each.announce()


if series.COMMANDS_ARE_IMPORTED:
    from . import cli

    # 17.0 and 18.0 take what is imported for loaded, and never call its post_load
    series.call_when_loaded("bus_alt_connection", post_load)
