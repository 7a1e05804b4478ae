"""Opening connections, with a deadline for every step.

psycopg2's connections wait without end where it matters: for a server that accepts and
stays silent, for the answer to a query over a link that is gone; and in Odoo's evented
process ``connect_timeout`` does not act at all. Odoo's pool opens its connections while
it holds a lock that every cursor of the process needs.

So this module opens asynchronous connections beside the pool, and turns their crank
itself. It works the same in a thread and in a gevent greenlet.
"""

from __future__ import annotations

import selectors
import time
from typing import Any, Callable

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ
from psycopg2.extensions import connection as Connection

from . import dns
from .display import describe, is_host, one_line

#: Seconds for one attempt at one server, where the connection parameters have no (or an
#: endless) ``connect_timeout``; for the look-up of a name; and for a query.
DEFAULT_TIMEOUT = 5.0

#: Seconds by which whatever waits may be late where others compute. Beyond that the
#: process has stood still: it could send nothing, and under gevent the time is over
#: before an answer is looked for.
LATE = 1.0

#: What libpq takes if there is none.
DEFAULT_PORT = "5432"

#: Seconds for which an attempt that is not answered is continued before it is made
#: anew; doubled each time, up to PostgreSQL's default of ``authentication_timeout``, by
#: which a backend that waits for something there has ended: of these it has three then.
CONTINUED_FOR, CONTINUED_FOR_LONGEST = 10.0, 60.0


class ConnectionFailed(OSError):
    """No server was suitable; the text tells what each of them answered.

    :param answers: for each where it is, if that is known, and why it does not do
    """

    def __init__(self, answers: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(": ".join(filter(None, each)) for each in answers))
        self.answers = answers


class ConnectionLost(OSError):
    """A connection has ended; the text is the reason, if one was given."""


class Unanswered(TimeoutError):
    """The other side was reached, and has not answered in time."""


#: What cannot be had; ValueError is about a parameter, or about an error message of the
#: server that is not in UTF-8.
REFUSALS = (psycopg2.Error, OSError, ValueError)


def wait(conn: Connection, event: int, timeout: float) -> bool:
    """Wait for an event (of :mod:`selectors`); return whether it came.

    The selector is a new one each time because libpq may change the socket between two
    steps of connecting.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(conn, event)
        return bool(selector.select(max(timeout, 0)))


def complete(conn: Connection, timeout: float) -> None:
    """Wait for at most ``timeout`` seconds until what was begun on ``conn`` is done.

    If the process stands still meanwhile, the time begins anew, once.

    :raise TimeoutError: if it is not; :class:`Unanswered` if only an answer is missing
    :raise psycopg2.Error: if it failed
    """
    deadline = time.monotonic() + timeout
    may_extend = True
    state = conn.poll()
    while state != POLL_OK:
        event = selectors.EVENT_READ if state == POLL_READ else selectors.EVENT_WRITE
        if state == POLL_READ and conn.info.ssl_in_use and not wait(conn, event, 0):
            # What TLS has read from the socket no selector sees. One poll() leaves half
            # of a record at the most: libpq makes room for 8 KB, a record has 16 KB.
            # (So does libpq 15; 17.11 leaves nothing.)
            state = conn.poll()
            if state != POLL_READ:
                continue
        is_there = wait(conn, event, deadline - time.monotonic())
        now = time.monotonic()
        if may_extend and now - deadline > LATE:
            may_extend = False
            deadline = now + timeout
        elif not is_there:
            kind = Unanswered if state == POLL_READ else TimeoutError
            raise kind(f"no answer within {timeout:.0f} s")
        state = conn.poll()


def query(
    conn: Connection, text: Any, args: Any = None, timeout: float = DEFAULT_TIMEOUT
) -> list[tuple]:
    """Execute a query in autocommit; return the rows of its (last) result, if any.

    :param timeout: seconds
    :raise TimeoutError: if there is no answer by then
    :raise psycopg2.Error: if it failed
    """
    with conn.cursor() as cr:
        cr.execute(text, args)
        complete(conn, timeout)
        return cr.fetchall() if cr.description else []


class Connector:
    """Opens connections to the first address of a list that will have us.

    It begins with the one that had us last, so that a dead one before it costs its
    deadline once. An attempt that a server has accepted and not answered is continued
    by the next one: it may have a backend there, and shall not get another one.

    :param get_params: returns libpq connection parameters, with lists as libpq takes
        them; called for each attempt
    :param prepare: called with a new connection; what it raises of :data:`REFUSALS`
        makes the server unsuitable
    """

    def __init__(
        self,
        get_params: Callable[[], dict],
        prepare: Callable[[Connection], Any] = lambda conn: None,
    ) -> None:
        self._get_params = get_params
        self._prepare = prepare
        # the address that had us last, and whether another one is to be tried first
        self._last: dict | None = None
        self._is_another_first = False
        # by parameters: the connection, and when it was begun (monotonic)
        self._unanswered: dict[frozenset, tuple[Connection, float]] = {}
        self._continued_for = CONTINUED_FOR

    def connect(self) -> tuple[Connection, Any]:
        """Return a new asynchronous connection, and what ``prepare`` returned.

        :raise ConnectionFailed: if there is none to be had
        """
        found, answers = [], []
        for server in single_servers(self._get_params()):
            try:
                # one that is named twice is one, also for begin_with_another()
                found += [each for each in addresses(server) if each not in found]
            except OSError as error:
                answers.append((describe(server), one_line(error)))
        if self._last in found:
            first = found.index(self._last) + self._is_another_first
            found = found[first:] + found[:first]
        for address in found:
            try:
                opened = self._open(address)
            except REFUSALS as error:
                answers.append((describe(address), one_line(error)))
            else:
                self._last, self._is_another_first = address, False
                self._continued_for = CONTINUED_FOR
                self.close()
                return opened
        raise ConnectionFailed(answers)

    def begin_with_another(self) -> None:
        """Try the address after the one that had us last first."""
        self._is_another_first = True

    def close(self) -> None:
        """Give up the attempts that are under way."""
        while self._unanswered:
            self._unanswered.popitem()[1][0].close()

    def _open(self, params: dict) -> tuple[Connection, Any]:
        # UTF8, so that PostgreSQL has nothing to convert of what strangers send; only
        # from a database in SQL_ASCII it ends the connection by what is not UTF-8
        params = {**params, "client_encoding": "UTF8"}
        key = frozenset(params.items())
        conn, begun = self._unanswered.pop(key, (None, time.monotonic()))
        if conn is None:
            conn = psycopg2.connect(async_=1, **params)
        try:
            complete(conn, _timeout(params))
        except Unanswered:
            if time.monotonic() - begun < self._continued_for:
                self._unanswered[key] = conn, begun
            else:
                longer = 2 * self._continued_for
                self._continued_for = min(longer, CONTINUED_FOR_LONGEST)
                conn.close()
            raise
        except BaseException:
            conn.close()
            raise
        try:
            return conn, self._prepare(conn)
        except BaseException:
            conn.close()
            raise


def _timeout(params: dict) -> float:
    """Return the seconds for one step of connecting."""
    timeout = int(params.get("connect_timeout") or 0)
    return timeout if timeout > 0 else DEFAULT_TIMEOUT


def single_servers(params: dict) -> list[dict]:
    """Split parameters with comma lists, as libpq takes them, into one per server.

    libpq would try the servers in turn by itself, but without a deadline for each
    of them in asynchronous mode: a silent first host would keep us from the second.
    """
    lists = {
        keyword: [part.strip() for part in str(params[keyword]).split(",")]
        for keyword in ("host", "hostaddr", "port")
        if params.get(keyword)
    }
    if not is_host(params.get("host") or ""):
        # one of Odoo's own options, which nobody has checked: its parts may be those of
        # a password
        lists["host"] = [params["host"]]
    if "port" in lists:
        # in a list, PGPORT does not count
        lists["port"] = [port or DEFAULT_PORT for port in lists["port"]]
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


def addresses(params: dict) -> list[dict]:
    """Return the parameters of one server with each address of its host.

    A name may have several, of which each deserves its own deadline. ``host`` is kept:
    certificates and ``.pgpass`` go by it.

    :raise OSError: if the name cannot be resolved, or not in time
    """
    host = params.get("host", "")
    if "hostaddr" in params or not dns.is_name(host):
        return [params]
    found = dns.resolver.addresses(host, _timeout(params))
    return [{**params, "hostaddr": address} for address in found]
