from . import cli
from . import series


def post_load():
    """Override Odoo, now that it has read its configuration."""
    from . import controllers, models

    models.announce()


if series.MAY_SKIP_POST_LOAD:
    from . import controllers, models
