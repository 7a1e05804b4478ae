"""Will live messages flow with this configuration? What ``odoo bus_check`` finds out.

It walks both roads as the server would: by the same configuration, with the same
connections, and by a notification of our own from the one to the other. Nothing is
written to any database.
"""

import contextlib
import difflib
import os
import re
import selectors
import statistics
import time
from collections import namedtuple

from psycopg2.extensions import quote_ident

import odoo
from odoo.tools import config

from . import reach, series, settings
from .canary import TOKEN_PREFIX, mismatch
from .listener import CANARY_CHANNEL
from .models import bus, connection, cron
from .reach import ConnectionFailed, one_line

OK, WARNING, FAILED = STATUSES = ("OK", "WARNING", "FAILED")

Line = namedtuple("Line", "name status text advice details")
Line.__doc__ = """What was found out about one thing.

- ``name``: what thing (str)
- ``status``: :data:`OK`, :data:`WARNING` or :data:`FAILED`
- ``text``: what was found
- ``advice``: what to do about it, in one sentence; empty if nothing
- ``details``: the same for programs (dict)
"""

#: How often a notification is sent from one road to the other.
ROUND_TRIPS = 20

#: Seconds for one of them to arrive. It takes a millisecond.
ROUND_TRIP_TIMEOUT = 4.0

#: How many of a pooler's server connections are searched for stray LISTENs, at most;
#: and how many of them if it does not tell how many it has.
MAX_SEARCHED, SEARCHED_BLINDLY = 20, 4

#: Seconds for the pooler to find one of them for us, or to take it back. All that are
#: searched are held meanwhile, and nobody who wants to send is to wait for long.
SEARCH_TIMEOUT = 0.5

#: What options of ours are taken for that are misspelt; and those of a proposal for the
#: OCA addon (server-tools 3692), which some run.
OUR_PREFIXES = ("db_listen", "dblisten", "listen_db_", "imdispatch", "cron_db_")

#: How alike (0 to 1) a name must be to one of ours to be taken for that. Odoo's own
#: ``db_password`` and ``db_listen_password`` are at 0.76.
ALIKE = 0.85


class Road(namedtuple("Road", "conn server")):
    """A connection that leads somewhere.

    - ``conn``: an asynchronous psycopg2 connection in autocommit
    - ``server``: the :class:`~.reach.Server`
    """

    def __str__(self):
        return describe(self.conn)


def check():
    """Find out everything.

    :return: list of :class:`Line`
    """
    found, problems = load_settings()
    lines = [check_odoo(), check_server_wide(), check_settings(found, problems)]
    lines += check_names(config.options, os.environ)
    with contextlib.ExitStack() as roads:
        notify, of_notify = check_notify_road(roads)
        listen, of_listen = check_listen_road(roads, found, notify)
        lines += [of_notify, of_listen]
        if notify and listen:
            lines.append(check_round_trip(notify, listen))
        if notify and notify.server.is_pooled and of_notify.status != FAILED:
            lines.append(check_stray_listens(notify))
    lines.append(check_cron(bool(listen)))
    return lines


def worst(lines):
    """Return the worst status of these lines."""
    return max((line.status for line in lines), key=STATUSES.index)


def line(name, status, text, advice="", **details):
    return Line(name, status, text, advice, details)


# ----------------------------------------------------------------------
# The configuration
# ----------------------------------------------------------------------


def check_odoo():
    """Whether this Odoo is one that we know."""
    missing = bus.missing()
    text = f"{odoo.release.version}: its bus dispatcher is"
    if missing:
        return line(
            "Odoo",
            FAILED,
            f"{text} not as expected: no {', '.join(missing)}",
            "The addon leaves it alone here; look for a version that knows this Odoo.",
            version=odoo.release.version,
            missing=missing,
        )
    return line(
        "Odoo", OK, f"{text} one that we override", version=odoo.release.version
    )


def check_server_wide():
    """Whether the addon is loaded by the server."""
    modules = series.server_wide_modules()
    name = __package__.rpartition(".")[2]
    forgotten = [n for n in series.SERVER_WIDE_MODULES_TO_KEEP if n not in modules]
    advice = ""
    if name not in modules:
        advice = (
            f"Add {name} to it: otherwise it must be installed in a database, and works"
            " from when that is first used, but not for cron workers that run already."
        )
    elif forgotten:
        advice = f"Stock Odoo has {', '.join(forgotten)} in it, too: was that intended?"
    return line(
        "loading",
        WARNING if advice else OK,
        f"server_wide_modules = {','.join(modules)}",
        advice,
        server_wide_modules=modules,
    )


def load_settings():
    """Return the settings, or None and the list of problems."""
    try:
        return connection.load_settings(), []
    except settings.SettingsError as error:
        return None, error.problems


def check_settings(found, problems):
    """Whether the options can be used."""
    if problems:
        return line(
            "settings",
            FAILED,
            " ".join(problems),
            "Until it is corrected, live messages are read from the table.",
        )
    sources = sorted(found.sources.values())
    if not found.own_endpoint:
        file = series.config_file()
        is_readable = os.access(file, os.R_OK)
        return line(
            "settings",
            WARNING,
            settings.NO_ENDPOINT + ("" if is_readable else f" {file} cannot be read."),
            "If that is a connection pooler, point them to PostgreSQL itself.",
            sources=sources,
        )
    return line("settings", OK, by_place(sources), sources=sources)


def by_place(sources):
    """Say what is set where, each place once.

    :param sources: each as "name (place)"
    """
    names = {}
    for source in sources:
        name, place = source.split(" ", 1)
        names.setdefault(place, []).append(name)
    return "; ".join(f"{', '.join(names[place])} {place}" for place in names)


def check_names(options, environ):
    """Find options that look like ours and are not, so that nobody reads them.

    :param options: the names of the options in odoo.conf, Odoo's own among them
    :param environ: mapping of environment variables
    :return: list of lines, one for each
    """
    known = {
        name for option in settings.OPTIONS for name in (option.name, option.legacy)
    }
    known.discard(None)
    lines = []
    for name in sorted(options):
        meant = looks_like(name, known)
        if meant:
            lines.append(misspelt(name, f"in {series.config_file()}", meant))
    for variable, value in sorted(environ.items()):
        name = variable.lower()
        if name.startswith("odoo_"):
            meant = looks_like(name[len("odoo_") :], known)
        else:
            # Kubernetes' variables for a service that is called "db-listen"
            is_link = value.startswith("tcp://")
            meant = name if name in known and not is_link else None
        if meant:
            lines.append(
                misspelt(variable, "in the environment", f"ODOO_{meant.upper()}")
            )
    return lines


def looks_like(name, known):
    """Return the option of ours that was meant by a name, or None."""
    name = name.lower()
    if name in known:
        return None
    cutoff = 0 if name.startswith(OUR_PREFIXES) else ALIKE
    # "cron_db_host" is our "db_listen_host" as well, and no other option of ours
    alike = name.replace("cron_db_", "db_listen_")
    return next(iter(difflib.get_close_matches(alike, sorted(known), 1, cutoff)), None)


def misspelt(name, where, meant):
    return line(
        "settings",
        WARNING,
        f"{name} ({where}) is not read by anybody",
        f"If {meant} is meant, call it so; otherwise remove it.",
        option=name,
        meant=meant,
    )


# ----------------------------------------------------------------------
# The two roads
# ----------------------------------------------------------------------


def open_road(roads, params):
    """Return a :class:`Road` that is closed with ``roads`` (ExitStack).

    :raise ConnectionFailed: if there is none
    """
    conn, server = reach.connect(params, reach.examine)
    roads.callback(conn.close)
    return Road(conn, server)


def describe(conn):
    """Say where a connection leads to, and by what."""
    tls = conn.info.ssl_attribute("protocol") if conn.info.ssl_in_use else "no TLS"
    where = settings.describe(conn.get_dsn_parameters())
    return f"{where}, {tls}: PostgreSQL {reach.server_version(conn)}"


def details(road):
    """Return the same for programs (dict)."""
    params = road.conn.get_dsn_parameters()
    return {
        **{key: params.get(key) for key in ("host", "port", "dbname", "user")},
        "server_version": reach.server_version(road.conn),
        "tls": road.conn.info.ssl_in_use,
        "pooled": road.server.is_pooled,
        "standby": road.server.is_standby,
    }


def check_notify_road(roads):
    """The road by which Odoo sends its notifications, and everything else.

    :return: the :class:`Road` or None, and its line
    """
    name = "NOTIFY road"
    try:
        road = open_road(roads, connection.road_params(connection.notify_database()))
    except ConnectionFailed as error:
        return None, line(
            name,
            FAILED,
            str(error),
            "Odoo cannot work without it: correct db_host etc.",
        )
    found = details(road)
    if road.server.is_standby:
        return road, line(
            name,
            FAILED,
            f"{road}, a standby",
            "Nothing can be sent or written there: point db_host to the primary.",
            **found,
        )
    if not road.server.is_pooled:
        return road, line(
            name, OK, f"{road}, direct: without a pooler Odoo needs no addon", **found
        )
    pooler = ask_pooler(road)
    found.update(pooler)
    text = f"{road}, through "
    if not pooler:
        text += "a connection pooler (whose mode Odoo's role is not told)"
    else:
        text += "{pooler} with pool_mode {pool_mode}".format(**pooler)
    if pooler.get("pool_mode") == "statement":
        advice = "Odoo needs transactions: set pool_mode = transaction."
        return road, line(name, FAILED, text, advice, **found)
    return road, line(name, OK, text, **found)


def ask_pooler(road):
    """Return what PgBouncer tells of itself and of the pool of a road (dict).

    It tells its ``admin_users`` and ``stats_users`` only; empty for anybody else.
    """
    params = road.conn.get_dsn_parameters()
    # of that very server, if there is a list
    params = {**connection.road_params("pgbouncer"), **params, "dbname": "pgbouncer"}
    # KeyError: another pooler's console, with other columns; no pool is a ValueError
    with contextlib.suppress(ConnectionFailed, KeyError, *reach.REFUSALS):
        console, _none = reach.connect(params)
        with contextlib.closing(console):
            [[version]] = reach.query(console, "SHOW VERSION")
            pools = [
                pool
                for pool in show_pools(console)
                if pool["database"] == road.conn.info.dbname
            ]
            # of our role, unless the pooler connects as another one for it
            pool = min(pools, key=lambda pool: pool["user"] != road.conn.info.user)
            servers = ("sv_active", "sv_idle", "sv_used")
            return {
                "pooler": version,
                "pool_mode": pool["pool_mode"],
                "servers": sum(int(pool[key]) for key in servers),
            }
    return {}


def show_pools(console):
    """Return the pools, as told by PgBouncer's console (list of dicts)."""
    with console.cursor() as cr:
        cr.execute("SHOW POOLS")
        reach.complete(console, reach.DEFAULT_TIMEOUT)
        names = [column.name for column in cr.description]
        return [dict(zip(names, row)) for row in cr.fetchall()]


def check_listen_road(roads, found, notify):
    """The road by which Odoo will listen.

    :param found: the settings, or None
    :param notify: the :class:`Road` of Odoo's notifications, or None
    :return: the :class:`Road` to the server that Odoo will stay with or None, and the
        line
    """
    name = "LISTEN road"
    if found is None:
        return None, line(name, FAILED, "none, as the settings are wrong")
    suitable, texts, advices, servers = [], [], [], []
    for params in listening_servers(found.connection_params()):
        try:
            road = open_road(roads, params)
        except ConnectionFailed as error:
            texts.append(str(error))
            is_at_pooler = notify and notify.server.is_pooled and not found.own_endpoint
            advices.append(AT_POOLER if is_at_pooler else advice_for(str(error)))
            servers.append({"error": str(error)})
            continue
        pooled = "pooled" if road.server.is_pooled else "direct"
        kind = "standby" if road.server.is_standby else "primary"
        texts.append(f"{road}, {pooled}, {kind}")
        servers.append(details(road))
        if not road.server.unsuitable:
            suitable.append(road)
        elif road.server.is_pooled:
            advices.append(road.server.unsuitable)
        else:
            standby = road.server.unsuitable
    best = next(iter(suitable), None)
    if notify:
        there = notify.server.identity
        # it leaves any other server after some seconds
        best = next((r for r in suitable if r.server.identity == there), best)
        advices += [
            mismatch(road.server.identity, best.server.identity)
            for road in suitable
            if road.server.identity != best.server.identity
        ]
    if best is None and not advices:
        # beside a primary it is as it should be
        advices.append(standby)
    status = FAILED if best is None else WARNING if advices else OK
    text, advice = "; ".join(texts), " ".join(dict.fromkeys(advices))
    return best, line(name, status, text, advice, servers=servers)


def listening_servers(params):
    """Yield the parameters for each server that the settings name, by each address.

    :param dict params: libpq connection parameters
    """
    # what this asks of a server is found out here, for each of them
    params.pop("target_session_attrs", None)
    for server in reach.single_servers(params):
        try:
            yield from reach.addresses(server)
        except (OSError, UnicodeError):
            # so that the attempt to connect says why
            yield server


#: What to do about a pooler that does not even let the listening role in.
AT_POOLER = (
    "That is where db_host and db_port lead, a connection pooler: point db_listen_host"
    " and db_listen_port to PostgreSQL itself."
)

#: What to do about a connection that cannot be had, by what PostgreSQL says.
ADVICES = {
    "too many (connections|clients)|remaining connection slots": (
        "All connections that PostgreSQL or the role may have are in use: raise"
        " max_connections or the role's CONNECTION LIMIT."
    ),
    "pg_hba.conf|permission denied for database": (
        "Correct db_listen_user or db_listen_name, or let that role in there by"
        " pg_hba.conf and GRANT CONNECT."
    ),
    "authentication failed|no password": (
        "Correct db_listen_user and db_listen_password."
    ),
    "database .* does not exist": "Correct db_listen_name.",
    "": "Correct db_listen_host and db_listen_port, or have that server answer.",
}


def advice_for(error):
    """Return what to do about a connection that cannot be had.

    :param str error: why it cannot
    """
    return next(a for pattern, a in ADVICES.items() if re.search(pattern, error))


# ----------------------------------------------------------------------
# From the one to the other
# ----------------------------------------------------------------------


def check_round_trip(notify, listen):
    """Whether what is sent by one road arrives by the other, as with a real message."""
    name = "round trip"
    if notify.server.identity != listen.server.identity:
        text = mismatch(listen.server.identity, notify.server.identity)
        return line(name, FAILED, text)
    times = []
    try:
        for channel in (CANARY_CHANNEL, bus.CHANNEL):
            reach.query(listen.conn, "LISTEN " + quote_ident(channel, listen.conn))
        for _number in range(ROUND_TRIPS):
            times.append(round_trip(notify.conn, listen.conn))
    except reach.REFUSALS as error:
        return line(
            name,
            FAILED,
            f"{len(times)} of {ROUND_TRIPS} notifications arrived: {one_line(error)}",
            "Live messages will be read from the table; see the two roads above.",
            sent=len(times) + 1,
            arrived=len(times),
        )
    middle, most = statistics.median(times), max(times)
    return line(
        name,
        OK,
        f"{len(times)} of {ROUND_TRIPS} notifications arrived, after"
        f" {middle * 1000:.1f} ms (median), {most * 1000:.1f} ms (worst)",
        sent=ROUND_TRIPS,
        arrived=len(times),
        median_seconds=middle,
        worst_seconds=most,
    )


def round_trip(sender, listener):
    """Send a notification; return the seconds until it has arrived.

    :raise TimeoutError: if it does not
    :raise psycopg2.Error: if a connection fails
    """
    token = f"{TOKEN_PREFIX}check-{os.urandom(8).hex()}"
    start = time.monotonic()
    reach.query(sender, connection.notify_query(), (CANARY_CHANNEL, token))
    while True:
        arrived = {notify.payload for notify in listener.notifies}
        listener.notifies.clear()
        now = time.monotonic()
        if token in arrived:
            return now - start
        left = start + ROUND_TRIP_TIMEOUT - now
        if not reach.wait(listener, selectors.EVENT_READ, left):
            raise TimeoutError(f"one did not within {ROUND_TRIP_TIMEOUT:.0f} s")
        listener.poll()


def check_stray_listens(notify):
    """Whether the pooler's server connections hold a LISTEN that somebody has lost.

    Each of them delivers notifications to whoever happens to use it at that moment.
    They are looked into all at once, in transactions, as a pooler would give us the
    same one again and again.
    """
    name = "stray LISTENs"
    count = ask_pooler(notify).get("servers", SEARCHED_BLINDLY)
    found, error = {}, None
    with contextlib.ExitStack() as held:
        # one at least, as it may have none just now
        for _number in range(min(max(count, 1), MAX_SEARCHED)):
            try:
                backend_pid, channels = hold_server_connection(held)
            except (ConnectionFailed, *reach.REFUSALS) as refusal:
                # the others are in use, most likely
                error = refusal
                break
            found[backend_pid] = channels
    if not found:
        return line(
            name,
            WARNING,
            "none of the pooler's server connections could be searched: "
            + one_line(error),
            "They may all be in use: try again when there is less to do.",
        )
    strays = {pid: channels for pid, channels in found.items() if channels}
    text = f"on {len(strays)} of {len(found)} server connections of the pooler"
    text += "".join(
        f", backend pid {pid}: {', '.join(channels)}"
        for pid, channels in strays.items()
    )
    advice = (
        "When no Odoo without this addon is running behind it any more, execute"
        " RECONNECT on PgBouncer's console."
    )
    return line(
        name,
        WARNING if strays else OK,
        text,
        advice if strays else "",
        searched=len(found),
        strays=strays,
    )


def hold_server_connection(held):
    """Begin a transaction through the pooler, which is rolled back with ``held``.

    :return: the process id of the backend, and the channels that it listens on
    :raise ConnectionFailed: if the pooler cannot be reached
    :raise TimeoutError: if it has no server connection to spare
    """
    conn, _none = reach.connect(connection.road_params(connection.notify_database()))
    held.callback(release, conn)
    reach.query(conn, "BEGIN", timeout=SEARCH_TIMEOUT)
    [row] = reach.query(
        conn, "SELECT pg_backend_pid(), ARRAY(SELECT pg_listening_channels())"
    )
    return row


def release(conn):
    """End a transaction, if there is one, and close the connection.

    PgBouncer closes its server connection if it is left in the middle of one.
    """
    with contextlib.suppress(*reach.REFUSALS):
        reach.query(conn, "ROLLBACK", timeout=SEARCH_TIMEOUT)
    conn.close()


# ----------------------------------------------------------------------
# Scheduled actions
# ----------------------------------------------------------------------


def check_cron(is_listening):
    """What becomes of triggered scheduled actions.

    :param bool is_listening: whether there is a server to listen on
    """
    name, count = "cron", config["max_cron_threads"]
    if count < 1:
        return line(name, OK, "this server runs no scheduled actions", workers=count)
    workers = f"{count} cron worker{'s' if count > 1 else ''}"
    if cron.missing():
        return line(
            name,
            WARNING,
            f"{workers}, left alone on this Odoo: triggered scheduled actions may start"
            " a minute late",
            workers=count,
        )
    if not is_listening:
        return line(
            name,
            WARNING,
            f"{workers} cannot listen: triggered scheduled actions may start a minute"
            " late",
            "See the LISTEN road.",
            workers=count,
        )
    return line(
        name,
        OK,
        f"{workers} will listen by the LISTEN road, too: with the bus that makes"
        f" {count + 1} connections to PostgreSQL itself",
        workers=count,
    )
