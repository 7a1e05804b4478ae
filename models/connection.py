"""What the bus and the scheduled actions share: where to listen, and how to know.

Both LISTEN on a connection of the same settings, beside Odoo's pool, and have it
watched by canaries that are sent by the road of Odoo's own queries.
"""

import functools
import logging
import os

from psycopg2 import sql
from psycopg2.extensions import parse_dsn

import odoo
from odoo.tools import config

from odoo.addons.bus.models import bus as odoo_bus

from .. import series, settings
from ..listener import CANARY_CHANNEL, Listener
from ..reach import IDENTITY, Road

_logger = logging.getLogger(__name__)


def holds_websockets():
    """Return whether this process holds the websockets: with workers, the evented one.

    It is the one that has something to tell the administrator.
    """
    return odoo.evented or not config["workers"]


def load_settings():
    """Read the settings.

    :rtype: settings.Settings
    :raise settings.SettingsError: if they are wrong
    """
    return settings.load(config.get, os.environ, series.config_file())


@functools.lru_cache(maxsize=None)
def listen_settings():
    """Return the settings of this process (:class:`~..settings.Settings`).

    They are read once, when they are first asked for: not before Odoo has read its
    configuration. None if they are wrong; the administrator is told.
    """
    try:
        found = load_settings()
    except settings.SettingsError as error:
        for problem in error.problems if holds_websockets() else ():
            _logger.error(
                "%s Until it is corrected, live messages are read from the table.",
                problem,
            )
        return None
    if holds_websockets() and not found.own_endpoint:
        _logger.warning(
            "%s If that is a connection pooler, point them to PostgreSQL itself.",
            settings.NO_ENDPOINT,
        )
    return found


def road(database):
    """Return the road of Odoo's own queries to a database: through the pooler.

    But beside Odoo's pool. That opens connections while it holds a lock which every
    cursor of the process needs, without a deadline; and what we do must never keep
    Odoo waiting.

    :rtype: reach.Road
    """

    return Road(lambda: road_params(database))


def road_params(database):
    """Return the libpq connection parameters (dict) of that road."""
    info = dict(odoo.sql_db.connection_info_for(database)[1])
    params = parse_dsn(info.pop("dsn", ""))
    params.update({key: str(value) for key, value in info.items()})
    params["dbname"] = params.pop("database", params.get("dbname", database))
    return {**settings.CONNECTION_DEFAULTS, **params}


def notify_database():
    """Return the name of the database on which Odoo sends its notifications."""
    return config.get("db_system") or settings.DEFAULT_DATABASE


def notify_query():
    """Return the query that sends a notification as Odoo does, to itself."""
    function = getattr(odoo_bus, "ODOO_NOTIFY_FUNCTION", None) or "pg_notify"
    return sql.SQL("{}, {}(%s, %s)").format(sql.SQL(IDENTITY), sql.Identifier(function))


def make_listener(**kwargs):
    """Return a listener by these settings.

    :param kwargs: as for :class:`~..listener.Listener`
    """
    sender = road(notify_database())

    def send_canary(payload):
        """Send a notification to ourselves, by the road on which Odoo sends its own."""
        [row] = sender.query(notify_query(), (CANARY_CHANNEL, payload))
        return row[:2]

    return Listener(
        listen_settings().connection_params,
        send_canary=send_canary,
        max_age=listen_settings().max_age,
        **kwargs,
    )
