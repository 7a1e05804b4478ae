"""Reaching a server, with a deadline for every step.

psycopg2's connections wait without end where it matters: for a server that accepts and
stays silent, for the answer to a query over a link that is gone; and in Odoo's evented
process ``connect_timeout`` does not act at all. Odoo's pool opens its connections while
it holds a lock that every cursor of the process needs.

So this module opens asynchronous connections beside the pool, and turns their crank
itself. It works the same in a thread and in a gevent greenlet.
"""

import ipaddress
import re
import selectors
import socket
import time
from collections import namedtuple

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ

from .settings import describe

#: Seconds for one attempt at one server, where the connection parameters have no (or an
#: endless) ``connect_timeout``, and for a query.
DEFAULT_TIMEOUT = 5


class ConnectionFailed(Exception):
    """No server was suitable; the text tells what each of them answered."""


class Unsuitable(Exception):
    """The server accepts connections, but is not one for our purpose."""


#: Why one server is passed over; ValueError is about a parameter, or about an error
#: message of the server that is not in UTF-8.
REFUSALS = (psycopg2.Error, TimeoutError, ValueError, Unsuitable)


def wait(conn, event, timeout):
    """Wait for ``event`` on ``conn``; return whether it came within so many seconds.

    The selector is a new one each time because libpq may change the socket between two
    steps of connecting.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(conn, event)
        return bool(selector.select(max(timeout, 0)))


def connect(params, prepare=None, wait=wait, first=0):
    """Return a new connection to the first server that will have us.

    :param dict params: libpq connection parameters, with lists as libpq takes them
    :param prepare: called with the connection; what it raises of :data:`REFUSALS` makes
        the server unsuitable
    :param wait: what to wait with, as :func:`wait`
    :param int first: the number of the server to begin with
    :return: an asynchronous psycopg2 connection, and what ``prepare`` returned
    :raise ConnectionFailed: if there is none
    """
    errors = []
    servers = single_servers(params)
    first %= len(servers)
    for server in servers[first:] + servers[:first]:
        try:
            for address in addresses(server):
                try:
                    return _open(address, prepare, wait)
                except REFUSALS as error:
                    errors.append(f"{describe(address)}: {one_line(error)}")
        except (OSError, UnicodeError) as error:
            errors.append(f"{describe(server)}: {error}")
    raise ConnectionFailed("; ".join(errors))


def _open(params, prepare, wait):
    timeout = int(params.get("connect_timeout") or 0)
    # UTF8, so that PostgreSQL never fails to convert what strangers send
    conn = psycopg2.connect(async_=1, **{**params, "client_encoding": "UTF8"})
    try:
        complete(conn, timeout if timeout > 0 else DEFAULT_TIMEOUT, wait)
        return conn, prepare and prepare(conn)
    except BaseException:
        conn.close()
        raise


def complete(conn, timeout, wait=wait):
    """Wait until what was begun on ``conn`` is done.

    :param float timeout: seconds
    :raise TimeoutError: if it is not done by then
    :raise psycopg2.Error: if it failed
    """
    deadline = time.monotonic() + timeout
    state = conn.poll()
    while state != POLL_OK:
        event = selectors.EVENT_READ if state == POLL_READ else selectors.EVENT_WRITE
        if not wait(conn, event, deadline - time.monotonic()):
            raise TimeoutError(f"no answer within {timeout} s")
        state = conn.poll()


def query(conn, text, args=None, wait=wait, timeout=DEFAULT_TIMEOUT):
    """Execute a query in autocommit; return the rows of its result (list), if any.

    :param float timeout: seconds
    :raise TimeoutError: if there is no answer by then
    :raise psycopg2.Error: if it failed
    """
    with conn.cursor() as cr:
        cr.execute(text, args)
        complete(conn, timeout, wait)
        return cr.fetchall() if cr.description else []


#: Selects what tells one server and database from any other: no two were started in
#: the same microsecond.
IDENTITY = (
    "SELECT to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC',"
    " 'YYYY-MM-DD HH24:MI:SS.US'), current_database()"
)


class Server(namedtuple("Server", "identity is_pooled is_standby")):
    """What a connection leads to.

    - ``identity``: the server and the database, as by :data:`IDENTITY`
    - ``is_pooled``: whether there is a connection pooler in between
    - ``is_standby``: whether it is in recovery
    """

    @property
    def unsuitable(self):
        """Why it is not one to LISTEN on, and what to do about it; None if it is."""
        if self.is_pooled:
            return (
                "this is a connection pooler, which loses LISTEN. Point db_listen_host "
                "and db_listen_port to PostgreSQL itself."
            )
        if self.is_standby:
            return (
                "this is a standby, to which no NOTIFY comes. Point db_listen_host to "
                "the primary, or to the list of all servers."
            )
        return None


def examine(conn, wait=wait):
    """Ask a connection what it leads to.

    :rtype: Server
    :raise TimeoutError: if there is no answer in time
    :raise psycopg2.Error: if it failed
    """
    [(started, database, backend_pid, is_standby)] = query(
        conn, f"{IDENTITY}, pg_backend_pid(), pg_is_in_recovery()", wait=wait
    )
    # A pooler invents the process id of the handshake (PgBouncer in src/proto.c,
    # Supavisor in db_handler.ex); PostgreSQL sends its own.
    is_pooled = backend_pid != conn.get_backend_pid()
    return Server((started, database), is_pooled, is_standby)


def server_version(conn):
    """Return the version of PostgreSQL, without what Debian adds to it."""
    return conn.get_parameter_status("server_version").split()[0]


class Road:
    """A connection that is opened when it is needed, and again after an error.

    :param get_params: callable that returns the libpq connection parameters (dict)
    """

    def __init__(self, get_params):
        self._get_params = get_params
        self._conn = None

    def query(self, text, args=None):
        """Execute a query in autocommit.

        :return: the rows of its result (list)
        :raise ConnectionFailed: if there is no connection to be had
        :raise TimeoutError: if there is no answer in time
        :raise psycopg2.Error: if it failed
        """
        if self._conn is None:
            self._conn, _none = connect(self._get_params())
        try:
            return query(self._conn, text, args)
        except BaseException:
            self.close()
            raise

    def close(self):
        """Close the connection if there is one."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None


def single_servers(params):
    """Split parameters with comma lists, as libpq takes them, into one per server.

    libpq would try the servers in turn by itself, but without a deadline for each
    of them in asynchronous mode: a silent first host would keep us from the second.

    :param dict params: libpq connection parameters
    :return: list of dicts
    """
    lists = {
        keyword: [part.strip() for part in str(params[keyword]).split(",")]
        for keyword in ("host", "hostaddr", "port")
        if params.get(keyword)
    }
    rest = {key: value for key, value in params.items() if key not in lists}
    count = max((len(lists[k]) for k in ("host", "hostaddr") if k in lists), default=1)
    return [
        {
            **rest,
            **{
                keyword: parts[min(index, len(parts) - 1)]
                for keyword, parts in lists.items()
                if parts[min(index, len(parts) - 1)]
            },
        }
        for index in range(count)
    ]


def addresses(params):
    """Yield the parameters of one server with each address of its host.

    libpq resolves names in a call that blocks; in Odoo's evented process that would
    stop every websocket, whereas Python's resolver is a cooperative one there. And a
    name may have several addresses, of which each deserves its own deadline. ``host``
    is kept: certificates and ``.pgpass`` go by it.

    :raise OSError: if the name cannot be resolved
    """
    host = params.get("host", "")
    if not host or host[0] in "/@" or "hostaddr" in params or _is_address(host):
        yield params
        return
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    for address in dict.fromkeys(sockaddr[0] for *_, sockaddr in found):
        yield {**params, "hostaddr": address}


def _is_address(host):
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def one_line(text):
    """Return a message of libpq or PostgreSQL, which has several lines, as one.

    Without what stands between a colon and an "@": libpq quotes a URI that was put into
    another option, and with it the password, which may have blanks.
    """
    if isinstance(text, UnicodeDecodeError):
        text = text.object.decode(errors="replace")
    line = " ".join(str(text).split()) or repr(text)
    return re.sub(r':(?! )[^"]*@', ":***@", line)
