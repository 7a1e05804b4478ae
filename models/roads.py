"""The two roads by Odoo's settings: where to listen, and how to know that it arrives.

The bus and the scheduled actions LISTEN on connections of the same settings, beside
Odoo's pool. What we ask and send goes the way of Odoo's own queries.
"""

from __future__ import annotations

import functools
import logging
import os

from psycopg2 import sql
from psycopg2.extensions import make_dsn, parse_dsn

import odoo
from odoo.tools import config

from odoo.addons.bus.models import bus as odoo_bus

from ..listening import options, settings
from ..listening.road import Road
from ..listening.server import IDENTITY
from . import series

_logger = logging.getLogger(__name__)


def holds_websockets() -> bool:
    """Return whether this process holds the websockets: with workers, the evented one.

    It is the one that has something to tell the administrator.
    """
    return odoo.evented or not config["workers"]


def load_settings() -> settings.Settings:
    """Read the settings; raise ``SettingsError`` if they are wrong."""
    return settings.load(series.get_option, os.environ, series.config_file())


def misspelt_options() -> list[tuple[str, str, str]]:
    """As :func:`..listening.options.find_misspelt`."""
    return options.find_misspelt(config.options, os.environ, series.config_file())


@functools.lru_cache(maxsize=None)
def listen_settings() -> settings.Settings | None:
    """Return the settings of this process, or None if they are wrong, and tell so.

    They are read once, when they are first asked for: not before Odoo has read its
    configuration.
    """
    try:
        return load_settings()
    except settings.SettingsError as error:
        for problem in error.problems:
            _logger.error(
                "%s Until it is corrected, live messages are read from the table, and"
                " triggered scheduled actions may start a minute late.",
                problem,
            )
        return None


def road(database: str) -> Road:
    """Return the road of Odoo's own queries to a database: through the pooler.

    But beside Odoo's pool. That opens connections while it holds a lock which every
    cursor of the process needs, without a deadline; and what we do must never keep
    Odoo waiting.
    """
    return Road(lambda: road_params(database))


def road_params(database: str) -> dict[str, str]:
    """Return the libpq connection parameters of that road."""
    info = odoo.sql_db.connection_info_for(database)[1]
    params = parse_dsn(make_dsn(**info))
    return {**settings.CONNECTION_DEFAULTS, "dbname": database, **params}


def notify_database() -> str:
    """Return the name of the database on which Odoo sends its notifications."""
    found = options.set_value(series.get_option("db_system"))
    return found or settings.DEFAULT_DATABASE


def notify_query() -> sql.Composable:
    """Return the query that sends a notification as Odoo does, to itself."""
    function = getattr(odoo_bus, "ODOO_NOTIFY_FUNCTION", None) or "pg_notify"
    return sql.SQL("{}, {}(%s, %s)").format(sql.SQL(IDENTITY), sql.Identifier(function))
