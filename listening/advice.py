"""What to do about a listening connection that cannot be had, by what was answered.

One table for the log and for ``bus_check``. It goes by the words of PostgreSQL, libpq
and PgBouncer, as psycopg2 passes no SQLSTATE of an attempt to connect on. What is not
in it was not understood (a server may speak another language), and gets no advice. The
host is doubted only if nobody has answered there.
"""

from __future__ import annotations

import re
from typing import Iterable

from .canary import NOT_SENT
from .server import ANOTHER, POOLED, STANDBY

#: A standby, also in the words of libpq (``target_session_attrs``).
IS_STANDBY = f"{STANDBY}|session is read-only|server is in hot standby mode"
NO_PRIMARY = "None of them is a primary just now."

TO_POSTGRESQL = "Point db_listen_host and db_listen_port to PostgreSQL itself."
AT_DB_HOST = f"If that is a connection pooler, as behind db_host: {TO_POSTGRESQL}"
UNREACHABLE = "Correct db_listen_host and db_listen_port, or have that server answer."
PORT_UNSET = "db_listen_port is unset, and so it is db_port."

TO_DB_HOST = "That is the road by which Odoo sends: it goes by db_host and db_port."

_LET_IN = "Let the role db_listen_user in there, to db_listen_name, by pg_hba.conf"
_SSLMODE = "(unset, it is db_sslmode, which may be meant for the pooler alone)"
_TLS, _NO_TLS = "SSL encryption|SSL on", "no encryption|SSL off"

#: By a pattern of the message. The first one counts.
ADVICES = {
    # what follows there is not about the server to LISTEN on
    NOT_SENT: TO_DB_HOST,
    POOLED: TO_POSTGRESQL,
    IS_STANDBY: "Point db_listen_host to the primary, or to the list of all servers.",
    ANOTHER: (
        "Point db_listen_host and db_listen_port to the PostgreSQL that db_host leads"
        " to."
    ),
    "but Odoo sends on": "Set db_listen_name to that.",
    # of PgBouncer, and never of PostgreSQL
    "SASL authentication failed|no such (?:user|database)|max_client_conn"
    "|unsupported startup parameter|SSL required|server_login_retry|query_wait_timeout"
    "|pgbouncer cannot connect": (
        f"That is the answer of PgBouncer, a connection pooler. {TO_POSTGRESQL}"
    ),
    "does not support SSL, but SSL was required": (
        f"Set db_listen_sslmode {_SSLMODE} to prefer, or switch TLS on in PostgreSQL."
    ),
    "certificate verify failed|root certificate|does not match host name": (
        f"Correct db_listen_sslmode {_SSLMODE}, or have libpq know the authority of"
        " the server's certificate (~/.postgresql/root.crt) and the host's name in it."
    ),
    # libpq may have tried both; then neither is the matter
    rf"^(?!.*(?:{_TLS})).*pg_hba\.conf.*(?:{_NO_TLS})": (
        f"{_LET_IN}; if it may with TLS only, set db_listen_sslmode {_SSLMODE} to"
        " require."
    ),
    rf"^(?!.*(?:{_NO_TLS})).*pg_hba\.conf.*(?:{_TLS})": (
        f"{_LET_IN}; if it may without TLS only, set db_listen_sslmode {_SSLMODE} to"
        " disable."
    ),
    r"pg_hba\.conf": f"{_LET_IN}.",
    "(?:Peer|Ident) authentication failed": (
        "By the local socket it is the user of the system who counts: let"
        " db_listen_user in there by pg_hba.conf, or set db_listen_host to an address."
    ),
    "authentication failed|no password supplied": (
        "Correct db_listen_user and db_listen_password."
    ),
    "role .* (?:does not exist|is not permitted to log in)": (
        "Correct db_listen_user, or create that role, with LOGIN."
    ),
    "permission denied for database": (
        "Correct db_listen_name, or GRANT CONNECT on that database to db_listen_user."
    ),
    "database .* (?:does not exist|is not currently accepting connections)": (
        "Correct db_listen_name."
    ),
    "too many connections for role": (
        "Raise the CONNECTION LIMIT of the role db_listen_user: for each server it is"
        " one for the bus, one for each cron worker, and one more."
    ),
    "too many connections for database|too many clients|connection slots": (
        "All connections that PostgreSQL allows are in use: raise max_connections, or"
        " the database's CONNECTION LIMIT."
    ),
    "Connection refused|timeout expired|^no answer within|No route to host"
    "|Network is unreachable|No such file or directory|could not translate host name"
    "|the name (?:cannot be|was not) resolved": UNREACHABLE,
}


def advise(reasons: list[str], options: Iterable[str], own_endpoint: bool) -> str:
    """Return what to do, in whole sentences; empty if that is not known.

    :param reasons: why each of the servers does not do, as the errors say
    :param options: the names of our options that are set
    :param own_endpoint: whether they lead elsewhere than db_host and db_port
    """
    advices, is_port_set = [], {"db_listen_port", "db_listen_dsn"} & set(options)
    if len(reasons) > 1:
        # in a list a standby is as it should be
        reasons = [reason for reason in reasons if not is_standby(reason)]
        advices += [] if reasons else [NO_PRIMARY]
    for reason in reasons:
        found = (a for pattern, a in ADVICES.items() if re.search(pattern, reason))
        advice = next(found, "")
        advices.append(advice)
        if advice == UNREACHABLE and not is_port_set:
            advices.append(PORT_UNSET)
        if advice and "FATAL" in reason and not own_endpoint:
            is_said = advice == TO_DB_HOST or TO_POSTGRESQL in advice
            advices += [] if is_said else [AT_DB_HOST]
    if "db_listen_dsn" in options and any("db_listen_" in each for each in advices):
        advices.append("All of that is in db_listen_dsn here.")
    return " ".join(filter(None, dict.fromkeys(advices)))


def is_standby(reason: str) -> bool:
    """Whether that is why a server does not do."""
    return bool(re.search(IS_STANDBY, reason))
