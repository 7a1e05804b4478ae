"""What a connection leads to: which server, and whether one can LISTEN there."""

from __future__ import annotations

from collections import namedtuple

from psycopg2.extensions import connection as Connection

from .connecting import query
from .display import describe

#: Why a server that answers is none to LISTEN on.
POOLED = "this is a connection pooler, which loses LISTEN unless it pools sessions"
STANDBY = "this is a standby, to which no NOTIFY comes"
ANOTHER = (
    "this is another server than the one behind db_host: what is sent there does not"
    " arrive here"
)

#: Selects what tells one server and database from any other: no two were started in
#: the same microsecond.
IDENTITY = (
    "SELECT to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC',"
    " 'YYYY-MM-DD HH24:MI:SS.US'), current_database()"
)


Server = namedtuple("Server", "identity is_pooled is_standby")
Server.__doc__ = """What a connection leads to.

- ``identity``: the server and the database, as by :data:`IDENTITY`
- ``is_pooled``: whether there is a connection pooler in between
- ``is_standby``: whether it is in recovery
"""


def examine(conn: Connection) -> Server:
    """Ask a connection what it leads to.

    :raise TimeoutError: if there is no answer in time
    :raise psycopg2.Error: if it failed
    """
    [(started, database, backend_pid, is_standby)] = query(
        conn, f"{IDENTITY}, pg_backend_pid(), pg_is_in_recovery()"
    )
    # A pooler invents the process id of the handshake (PgBouncer in src/proto.c,
    # Supavisor in db_handler.ex); PostgreSQL sends its own.
    is_pooled = backend_pid != conn.get_backend_pid()
    return Server((started, database), is_pooled, is_standby)


def describe_server(conn: Connection) -> str:
    """Say where a connection leads to, and by what."""
    tls = conn.info.ssl_attribute("protocol") if conn.info.ssl_in_use else "no TLS"
    # without what Debian adds to it
    version = conn.get_parameter_status("server_version").split()[0]
    return f"{describe(conn.get_dsn_parameters())}, {tls}, PostgreSQL {version}"


def mismatch(here: tuple[str, str], there: tuple[str, str]) -> str:
    """Say what is wrong if one listens here, and what is sent goes there.

    :param here: identity of a server and its database, as by :data:`IDENTITY`
    :param there: another one
    """
    (server, database), (sent_server, sent_database) = here, there
    if server != sent_server:
        return ANOTHER
    return f'it listens on "{database}", but Odoo sends on "{sent_database}"'
