from .models import series

if series.COMMANDS_ARE_IMPORTED:
    from . import cli


def post_load():
    """Override Odoo, now that it has read its configuration."""
    from .models import patches

    patches.announce()


if series.MAY_SKIP_POST_LOAD:
    series.call_when_loaded(__name__.rpartition(".")[2], post_load)
