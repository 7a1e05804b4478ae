"""The connection that listens: opened, proven, kept, and opened again when lost.

It is a module of its own, on psycopg2 and the standard library alone, so that it can
be read, tested and measured without Odoo, and so that whatever else has to LISTEN can
use it.

Why the connection is an asynchronous one, of which we turn the crank ourselves:

- every step has a deadline. A server that accepts and stays silent would otherwise
  hold us for ever; libpq's ``connect_timeout`` and psycopg2's cooperative mode (in
  Odoo's evented process) know no deadline together;
- every wait can be interrupted, so that a shutdown never waits for the network;
- the same code runs in a thread and in a gevent greenlet.

One thread owns a :class:`Listener` and runs :meth:`Listener.run`; any other may call
:meth:`Listener.stop`.
"""

import ipaddress
import logging
import random
import selectors
import socket
import time
from contextlib import closing

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, quote_ident

from .settings import describe
from .throttle import Throttle

_logger = logging.getLogger(__name__)

#: Seconds for one attempt at one server, and for each of the few statements that
#: follow, where the connection parameters have no (or an endless) ``connect_timeout``.
DEFAULT_TIMEOUT = 5

#: ``idle_session_timeout`` came with PostgreSQL 14.
IDLE_SESSION_TIMEOUT_SINCE = 140000


class Stopped(Exception):
    """:meth:`Listener.stop` was called."""


class ConnectionFailed(Exception):
    """No server could be reached; the text tells what each of them answered."""


class ConnectionLost(Exception):
    """The listening connection ended; the text is the reason, if one was given."""


class PoolerFound(Exception):
    """The server is a connection pooler: a LISTEN there would be lost, or worse."""


#: What may keep us from listening; anything else is logged with its traceback.
FORESEEN = (ConnectionFailed, PoolerFound, psycopg2.Error, TimeoutError)


class Backoff:
    """How long to wait before the next attempt.

    The first retry is at once (most losses are a restart or a terminated backend),
    then 0.5 s, doubling up to 15 s: well below the 50 s for which Odoo replays
    messages to a websocket that has not seen any yet. ±20 % of jitter, so that the
    instances of a cluster do not come back all at once.

    Only a connection that held for as long as the longest wait resets it: else one
    that is accepted and dropped again would be retried without a pause.
    """

    FIRST = 0.5
    CAP = 15.0
    JITTER = 0.2
    HEALTHY_AFTER = CAP

    def __init__(self):
        self._failures = 0

    def delay(self):
        """Return the seconds to wait after one more failure."""
        self._failures += 1
        if self._failures == 1:
            return 0.0
        # the exponent is bounded because a float overflows after three days of trying
        wait = min(self.FIRST * 2 ** min(self._failures - 2, 16), self.CAP)
        return wait * random.uniform(1 - self.JITTER, 1 + self.JITTER)

    def held_for(self, seconds):
        """Tell how long the connection held that was lost now."""
        if seconds >= self.HEALTHY_AFTER:
            self._failures = 0


class Listener:
    """LISTEN on one channel, for as long as the process lives.

    :param get_params: callable that returns the libpq connection parameters (dict);
        called for each attempt
    :param str channel: the channel
    :param on_notifications: called with the payloads (non-empty list of str), in the
        order in which PostgreSQL sent them
    :param on_listening: called after each LISTEN: whatever was notified before may
        have been missed
    """

    def __init__(self, get_params, channel, on_notifications, on_listening):
        self._get_params = get_params
        self._channel = channel
        self._on_notifications = on_notifications
        self._on_listening = on_listening
        self._stopped = False
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._failed_log = Throttle(_logger)
        self._last_failure = None
        self._callback_log = Throttle(_logger)

    # ------------------------------------------------------------------
    # To be called
    # ------------------------------------------------------------------

    def run(self):
        """Connect, listen, and start over when the connection is lost, until stopped.

        Raises nothing: whatever goes wrong is logged and tried again.
        """
        backoff = Backoff()
        while not self._stopped:
            try:
                with closing(self._connect()) as conn:
                    self._listen(conn)
                    listening_since = time.monotonic()
                    try:
                        self._consume(conn)
                    finally:
                        backoff.held_for(time.monotonic() - listening_since)
            except Stopped:
                return
            except ConnectionLost as error:
                _logger.warning(
                    'Lost the connection that listens on "%s": %s. Reconnecting.',
                    self._channel,
                    error,
                )
            except Exception as error:
                self._log_failure(error)
            try:
                self._wait(None, 0, backoff.delay())
            except Stopped:
                return

    def stop(self):
        """Make :meth:`run` return, from whatever it waits for."""
        self._stopped = True
        self._wake_sender.send(b".")

    # ------------------------------------------------------------------
    # Connecting
    # ------------------------------------------------------------------

    def _connect(self):
        """Return a new connection to the first server that accepts one.

        :rtype: psycopg2.extensions.connection
        :raise ConnectionFailed: if there is none
        """
        errors = []
        for params in single_servers(self._get_params()):
            try:
                for address in _addresses(params):
                    try:
                        return self._open(address)
                    except (psycopg2.Error, TimeoutError) as error:
                        errors.append(f"{describe(address)}: {_one_line(error)}")
            except (OSError, UnicodeError) as error:
                errors.append(f"{describe(params)}: {error}")
        raise ConnectionFailed("; ".join(errors))

    def _open(self, params):
        """Return a new connection to one server, within its ``connect_timeout``."""
        timeout = int(params.get("connect_timeout") or 0) or DEFAULT_TIMEOUT
        conn = psycopg2.connect(async_=1, **params)
        try:
            self._complete(conn, timeout)
        except BaseException:
            conn.close()
            raise
        return conn

    def _listen(self, conn):
        """Make sure that this is PostgreSQL itself, and LISTEN.

        :raise PoolerFound: if it is not; then LISTEN is not sent. A transaction
            pooler would drop it, and deliver notifications to whichever client uses
            that server connection next.
        """
        backend_pid = self._query(conn, "SELECT pg_backend_pid()")
        # A pooler invents the process id of the handshake (PgBouncer in
        # src/proto.c, Supavisor in db_handler.ex); PostgreSQL sends its own.
        if backend_pid != conn.get_backend_pid():
            raise PoolerFound(
                f"{describe(conn.get_dsn_parameters())} is a connection pooler, which "
                "loses LISTEN. Point db_listen_host and db_listen_port to PostgreSQL "
                "itself."
            )
        if conn.server_version >= IDLE_SESSION_TIMEOUT_SINCE:
            # an idle connection is what we are
            self._query(conn, "SET idle_session_timeout = 0")
        self._query(conn, "LISTEN " + quote_ident(self._channel, conn))
        _logger.info(
            'Listening on "%s": %s, PostgreSQL %s, backend pid %d.',
            self._channel,
            describe(conn.get_dsn_parameters()),
            conn.get_parameter_status("server_version"),
            backend_pid,
        )
        self._last_failure = None
        self._call(self._on_listening)

    def _log_failure(self, error):
        """Log why there is no connection: a new reason at once, else once a minute."""
        failure = _one_line(error)
        if failure != self._last_failure:
            self._failed_log.reset()
            self._last_failure = failure
        self._failed_log.log(
            logging.ERROR,
            'Cannot listen on "%s", will keep trying: %s',
            self._channel,
            failure,
            exc_info=not isinstance(error, FORESEEN),
        )

    # ------------------------------------------------------------------
    # Listening
    # ------------------------------------------------------------------

    def _consume(self, conn):
        """Pass notifications on until the connection is lost.

        :raise ConnectionLost: then
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            selector.register(conn, selectors.EVENT_READ)
            while True:
                # first of all, since notifications also come with a query's reply
                payloads = [
                    notify.payload
                    for notify in conn.notifies
                    if notify.channel == self._channel
                ]
                conn.notifies = []
                if payloads:
                    self._call(self._on_notifications, payloads)
                selector.select()
                if self._stopped:
                    raise Stopped
                try:
                    conn.poll()
                except psycopg2.Error as error:
                    # PostgreSQL's reason came as a notice in an earlier poll()
                    reason = conn.notices[-1] if conn.notices else error
                    raise ConnectionLost(_one_line(reason)) from error

    def _call(self, callback, *args):
        """Call back; what the other side does wrong must not cost the connection."""
        try:
            callback(*args)
        except Exception:
            self._callback_log.log(
                logging.ERROR,
                'A notification on "%s" could not be handled',
                self._channel,
                exc_info=True,
            )

    # ------------------------------------------------------------------
    # Waiting
    # ------------------------------------------------------------------

    def _query(self, conn, query):
        """Execute ``query``; return the first value of its result, if it has one."""
        with conn.cursor() as cr:
            cr.execute(query)
            self._complete(conn, DEFAULT_TIMEOUT)
            return cr.fetchone()[0] if cr.description else None

    def _complete(self, conn, timeout):
        """Wait until what was begun on ``conn`` is done.

        :param float timeout: seconds
        :raise TimeoutError: if it is not done by then
        :raise psycopg2.Error: if it failed
        """
        deadline = time.monotonic() + timeout
        state = conn.poll()
        while state != POLL_OK:
            event = (
                selectors.EVENT_READ if state == POLL_READ else selectors.EVENT_WRITE
            )
            if not self._wait(conn, event, deadline - time.monotonic()):
                raise TimeoutError(f"no answer within {timeout} s")
            state = conn.poll()

    def _wait(self, conn, event, timeout):
        """Wait for ``event`` on ``conn``, or for nothing if that is None.

        The selector is a new one each time because libpq may change the socket
        between two steps of connecting.

        :return: whether the event came within ``timeout`` seconds
        :raise Stopped: if :meth:`stop` was called
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            if conn is not None:
                selector.register(conn, event)
            ready = selector.select(max(timeout, 0))
        if self._stopped:
            raise Stopped
        return bool(ready)


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
                keyword: parts[index if len(parts) > 1 else 0]
                for keyword, parts in lists.items()
                if parts[index if len(parts) > 1 else 0]
            },
        }
        for index in range(count)
    ]


def _addresses(params):
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


def _one_line(text):
    """Return a message of libpq or PostgreSQL, which has several lines, as one."""
    return " ".join(str(text).split()) or repr(text)
