"""What the bus and the scheduled actions share: where to listen, and how to know.

Both LISTEN on a connection of the same settings, beside Odoo's pool, and have it
watched by canaries that are sent by the road of Odoo's own queries.
"""

import logging
import os

from psycopg2 import sql
from psycopg2.extensions import parse_dsn

import odoo
from odoo.tools import config

from odoo.addons.bus.models import bus as odoo_bus

from .. import settings
from ..listener import CANARY_CHANNEL, IDENTITY, Listener
from ..reach import Road

_logger = logging.getLogger(__name__)


#: Whether this process holds the websockets, and so has something to tell the
#: administrator: with workers, that is the evented one.
holds_websockets = odoo.evented or not config["workers"]


def load_settings():
    """Return the settings, or None if they are wrong; tell the administrator.

    :rtype: settings.Settings
    """
    # the option is called "config" from 19.0 on, before that it is an attribute
    config_file = config.get("config") or getattr(config, "rcfile", "odoo.conf")
    try:
        found = settings.load(config.get, os.environ, config_file)
    except settings.SettingsError as error:
        for problem in error.problems if holds_websockets else ():
            _logger.error(
                "%s Until it is corrected, live messages are read from the table.",
                problem,
            )
        return None
    if holds_websockets and not found.own_endpoint:
        _logger.warning(
            "None of db_listen_host, db_listen_port and db_listen_dsn is set: Odoo "
            "listens through db_host, as without this addon. If that is a connection "
            "pooler, point them to PostgreSQL itself."
        )
    return found


#: The settings of this process (:class:`~..settings.Settings`); None if they are wrong.
listen_settings = load_settings()


def road(database):
    """Return the road of Odoo's own queries to a database: through the pooler.

    But beside Odoo's pool. That opens connections while it holds a lock which every
    cursor of the process needs, without a deadline; and what we do must never keep
    Odoo waiting.

    :rtype: reach.Road
    """

    def get_params():
        info = dict(odoo.sql_db.connection_info_for(database)[1])
        params = parse_dsn(info.pop("dsn", ""))
        params.update({key: str(value) for key, value in info.items()})
        params["dbname"] = params.pop("database", params.get("dbname", database))
        return {**settings.CONNECTION_DEFAULTS, **params}

    return Road(get_params)


def make_listener(**kwargs):
    """Return a listener by these settings.

    :param kwargs: as for :class:`~..listener.Listener`
    """
    sender = road(config.get("db_system") or settings.DEFAULT_DATABASE)
    notify = getattr(odoo_bus, "ODOO_NOTIFY_FUNCTION", None) or "pg_notify"

    def send_canary(payload):
        """Send a notification to ourselves, by the road on which Odoo sends its own."""
        query = sql.SQL("{}, {}(%s, %s)").format(
            sql.SQL(IDENTITY), sql.Identifier(notify)
        )
        [row] = sender.query(query, (CANARY_CHANNEL, payload))
        return row[:2]

    return Listener(
        listen_settings.connection_params,
        send_canary=send_canary,
        max_age=listen_settings.max_age,
        **kwargs,
    )
