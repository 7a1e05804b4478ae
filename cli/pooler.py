"""What ``odoo bus_check`` asks of PgBouncer, where Odoo's role may ask its console."""

from __future__ import annotations

import contextlib
from typing import Iterator

from psycopg2.extensions import connection as Connection

from odoo.tools import config

from ..listening import connecting
from ..listening.connecting import Connector
from ..listening.poller import Poller
from ..models import roads, series
from .line import FAILED, NOT_TRIED, OK, WARNING, Line

#: What ``setup/pgbouncer.ini`` recommends (seconds); 15 and 600 if unset.
SERVER_LOGIN_RETRY, SERVER_IDLE_TIMEOUT = 1, 30


def check_pooler(conn: Connection) -> Line:
    """What of its settings costs connections, or time after an outage.

    :param conn: one that goes through it
    """
    try:
        version, pools, values, databases = ask_console(conn)
        [[version]] = (row.values() for row in version)
        values = {row["key"]: row["value"] for row in values}
        modes = {pool["database"]: pool["pool_mode"] for pool in pools}
        # Of several processes at one port, this may be another one than conn's.
        mode = modes.get(conn.info.dbname, values["pool_mode"])
        retry = float(values["server_login_retry"])
        idle = float(values["server_idle_timeout"])
        size = pool_size(values, databases)
    except (KeyError, *connecting.REFUSALS):
        text = "PgBouncer tells its admin_users and stats_users alone how it is set"
        return Line("pooler", NOT_TRIED, text)
    text = (
        f"{version}, pool_mode {mode}, server_login_retry {retry:.0f},"
        f" server_idle_timeout {idle:.0f}, {size} server connections for a database"
    )
    advices = list(_advise(mode, retry, idle, size))
    status = FAILED if mode == "statement" else WARNING if advices else OK
    return Line("pooler", status, text, " ".join(advices))


def _advise(mode: str, retry: float, idle: float, size: int) -> Iterator[str]:
    """Yield what to do about the settings, in whole sentences."""
    if mode == "statement":
        yield "Odoo needs transactions: set pool_mode = transaction."
    if retry > 2 * SERVER_LOGIN_RETRY:
        yield (
            f"Nothing gets through for up to {retry:.0f} s after PostgreSQL was away:"
            f" set server_login_retry = {SERVER_LOGIN_RETRY}."
        )
    if not 0 < idle < Poller.SAFETY_INTERVAL:
        yield (
            "Each database in use keeps a server connection for good, as its bus table"
            f" is read every {Poller.SAFETY_INTERVAL:.0f} s: set server_idle_timeout ="
            f" {SERVER_IDLE_TIMEOUT}."
        )
    needed = config["workers"] + config["max_cron_threads"] + 2
    if config["workers"] and size < needed:
        yield (
            "After the update of a module each worker may hold a transaction and wait"
            " for another: let default_pool_size and reserve_pool_size be"
            f" {needed} together."
        )


def pool_size(values: dict, databases: list[dict]) -> int:
    """Return how many server connections the smallest of our databases may have.

    Without ``-d``: how many the largest of all may have, as it may be ours.
    """
    default = int(values["default_pool_size"]) + int(values["reserve_pool_size"])
    sizes = {
        # the latter's name until 1.23, and since then
        row["name"]: int(row["pool_size"])
        + int(row.get("reserve_pool") or row.get("reserve_pool_size") or 0)
        for row in databases
    }
    ours = [sizes.get(name, default) for name in series.list_option("db_name")]
    return min(ours) if ours else max(default, *sizes.values())


def ask_console(conn: Connection) -> list[list[dict]]:
    """Return what PgBouncer tells of its version, pools, settings and databases.

    :raise ConnectionFailed: if it does not tell us
    :raise psycopg2.Error: if it is another pooler
    """
    params = conn.get_dsn_parameters()
    # of that very server, if there is a list
    params = {**roads.road_params("pgbouncer"), **params, "dbname": "pgbouncer"}
    console, _none = Connector(lambda: params).connect()

    def show(query: str) -> list[dict]:
        with console.cursor() as cr:
            cr.execute(query)
            connecting.complete(console, connecting.DEFAULT_TIMEOUT)
            names = [column.name for column in cr.description]
            return [dict(zip(names, row)) for row in cr.fetchall()]

    with contextlib.closing(console):
        queries = ("SHOW VERSION", "SHOW POOLS", "SHOW CONFIG", "SHOW DATABASES")
        return list(map(show, queries))
