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

import collections
import ipaddress
import logging
import math
import random
import selectors
import socket
import time
import uuid
from contextlib import suppress

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, quote_ident

from .canary import CanarySender, Deaf, Watch
from .settings import describe
from .state import State
from .throttle import Throttle

_logger = logging.getLogger(__name__)

#: Seconds for one attempt at one server, and for each of the few statements that
#: follow, where the connection parameters have no (or an endless) ``connect_timeout``.
DEFAULT_TIMEOUT = 5

#: ``idle_session_timeout`` came with PostgreSQL 14.
IDLE_SESSION_TIMEOUT_SINCE = 140000

#: The channel of the canaries, of all instances. Nobody else listens on it, so that
#: they reach no stock Odoo.
CANARY_CHANNEL = "bus_alt_connection"

#: Selects what tells one server and database from any other: no two were started in
#: the same microsecond.
IDENTITY = (
    "SELECT to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC',"
    " 'YYYY-MM-DD HH24:MI:SS.US'), current_database()"
)


class Stopped(Exception):
    """:meth:`Listener.stop` was called."""


class ConnectionFailed(Exception):
    """No server could be listened on; the text tells what each of them answered."""


class ConnectionLost(Exception):
    """The listening connection ended; the text is the reason, if one was given."""


class Unsuitable(Exception):
    """The server accepts connections, but notifications do not come from it."""


#: Why one server cannot be listened on; ValueError is about a parameter, or about an
#: error message of the server that is not in UTF-8.
REFUSALS = (psycopg2.Error, TimeoutError, ValueError, Unsuitable)

#: What may keep us from listening; anything else is logged with its traceback.
FORESEEN = (*REFUSALS, ConnectionFailed, ConnectionLost, Deaf)


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
    :param str meanwhile: a sentence for the log: how it goes on while nobody listens
    :param state.State state: what to keep up to date
    :param send_canary: sends a payload on :data:`CANARY_CHANNEL` as Odoo sends its
        notifications, commits, and returns what :data:`IDENTITY` selects there. Called
        in a thread of its own, as it may hang. None: the connection is not watched.
    :param float max_age: seconds after which the connection is replaced; 0: never
    """

    def __init__(
        self,
        get_params,
        channel,
        on_notifications,
        on_listening,
        meanwhile="",
        state=None,
        send_canary=None,
        max_age=0,
    ):
        self._get_params = get_params
        self._channel = channel
        self._on_notifications = on_notifications
        self._on_listening = on_listening
        self._meanwhile = meanwhile
        self._state = state or State()
        self._max_age = max_age
        self._stopped = False
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._watch = self._sender = None
        if send_canary:
            self._sender = CanarySender(send_canary, self._canary_sent)
            self._watch = Watch(self._sender.request, uuid.uuid4().hex)
        # canaries that were sent, from the sender's thread
        self._sent = collections.deque()
        # whether a notification of our own has come by the present connection
        self._is_proven = False
        # the connection that listens while its successor is being opened
        self._predecessor = None
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
                self._listen(backoff)
            except Stopped:
                break
            except (ConnectionLost, Deaf) as error:
                self._state.reconnects += 1
                self._log_failure("Lost the connection that listens on", error)
            except Exception as error:
                self._log_failure("Cannot listen on", error)
            self._pause(backoff.delay())
        if self._sender:
            self._sender.stop()

    def stop(self):
        """Make :meth:`run` return, from whatever it waits for."""
        self._stopped = True
        self._wake()

    def _wake(self):
        self._wake_sender.send(b".")

    def _canary_sent(self, canary):
        """Take note of it, in the sender's thread."""
        self._sent.append(canary)
        self._wake()

    def _log_failure(self, what, error):
        """Log why nobody listens: a new reason at once, else once a minute."""
        failure = _one_line(error)
        if failure != self._last_failure:
            self._failed_log.reset()
            self._last_failure = failure
        self._failed_log.log(
            logging.WARNING if isinstance(error, ConnectionLost) else logging.ERROR,
            '%s "%s": %s. %s',
            what,
            self._channel,
            failure.rstrip("."),
            self._meanwhile,
            exc_info=not isinstance(error, FORESEEN),
        )
        self._state.unproven(failure)

    # ------------------------------------------------------------------
    # Connecting
    # ------------------------------------------------------------------

    def _connect(self):
        """Return a new connection that listens, to the first server that is suitable.

        :return: the connection, and the identity of the server and database
        :raise ConnectionFailed: if there is none
        """
        errors = []
        for params in single_servers(self._get_params()):
            try:
                for address in _addresses(params):
                    try:
                        return self._open(address)
                    except REFUSALS as error:
                        errors.append(f"{describe(address)}: {_one_line(error)}")
            except (OSError, UnicodeError) as error:
                errors.append(f"{describe(params)}: {error}")
        raise ConnectionFailed("; ".join(errors))

    def _open(self, params):
        """Return a new connection to one server, which listens; each step in time."""
        timeout = int(params.get("connect_timeout") or 0)
        # UTF8, so that PostgreSQL never fails to convert what strangers send
        conn = psycopg2.connect(async_=1, **{**params, "client_encoding": "UTF8"})
        try:
            self._complete(conn, timeout if timeout > 0 else DEFAULT_TIMEOUT)
            return conn, self._start_listening(conn)
        except BaseException:
            conn.close()
            raise

    def _start_listening(self, conn):
        """Make sure that this is PostgreSQL itself and a primary, and LISTEN.

        :return: the identity of the server and database, as by :data:`IDENTITY`
        :raise Unsuitable: if it is not; then LISTEN is not sent. A transaction pooler
            would drop it, and deliver notifications to whichever client uses that
            server connection next.
        """
        backend_pid, is_standby = self._query(
            conn, "SELECT pg_backend_pid(), pg_is_in_recovery()"
        )
        # A pooler invents the process id of the handshake (PgBouncer in
        # src/proto.c, Supavisor in db_handler.ex); PostgreSQL sends its own.
        if backend_pid != conn.get_backend_pid():
            raise Unsuitable(
                "this is a connection pooler, which loses LISTEN. Point db_listen_host "
                "and db_listen_port to PostgreSQL itself."
            )
        if is_standby:
            raise Unsuitable(
                "this is a standby, to which no NOTIFY comes. Point db_listen_host to "
                "the primary, or to the list of all servers."
            )
        server = self._query(conn, IDENTITY)
        if conn.server_version >= IDLE_SESSION_TIMEOUT_SINCE:
            # an idle connection is what we are
            self._query(conn, "SET idle_session_timeout = 0")
        if self._watch:
            self._query(conn, "LISTEN " + quote_ident(CANARY_CHANNEL, conn))
        self._query(conn, "LISTEN " + quote_ident(self._channel, conn))
        return server

    # ------------------------------------------------------------------
    # Listening
    # ------------------------------------------------------------------

    def _listen(self, backoff):
        """Connect, and pass notifications on until the connection is lost.

        :raise ConnectionFailed: if there is none to be had
        :raise ConnectionLost: when it ends
        :raise Deaf: when notifications do not come by it
        """
        conn, server = self._connect()
        since = time.monotonic()
        try:
            self._welcome(conn, server)
            while True:
                self._consume(conn, self._renewal_time())
                conn = self._renew(conn)
        finally:
            conn.close()
            backoff.held_for(time.monotonic() - since)

    def _welcome(self, conn, server):
        """Begin to use a connection that listens, of which nothing is proven yet."""
        self._is_proven = False
        if self._watch:
            self._watch.restart(time.monotonic(), server)
        else:
            self._prove(conn)
        self._call(self._on_listening)

    def _prove(self, conn):
        """Note that notifications come by this connection."""
        if not (self._is_proven and self._state.is_listening):
            self._is_proven = True
            self._last_failure = None
            _logger.info(
                'Listening on "%s": %s, PostgreSQL %s, backend pid %d.',
                self._channel,
                describe(conn.get_dsn_parameters()),
                conn.get_parameter_status("server_version"),
                conn.get_backend_pid(),
            )
        self._state.proven()

    def _consume(self, conn, until):
        """Pass notifications on until then (``time.monotonic()``)."""
        with self._selector(conn) as selector:
            while True:
                # taken first, so that a canary that has come by now was also read
                now = time.monotonic()
                self._receive(conn)
                if now >= until:
                    return
                wait = min(until - now, self._check(now))
                self._select(selector, None if wait == math.inf else wait)

    def _receive(self, conn):
        """Read what has come by a connection that listens, and pass it on.

        :raise ConnectionLost: if it has ended
        """
        while True:
            try:
                conn.poll()
                is_closed = conn.fileno() < 0
            except psycopg2.Error as error:
                # PostgreSQL's reason came as a notice in an earlier poll()
                reason = conn.notices[-1] if conn.notices else error
                raise ConnectionLost(_one_line(reason)) from error
            if is_closed:
                raise ConnectionLost("libpq has closed it")
            if not conn.notifies:
                return
            # and once more, because the rest of what was read from the socket may
            # wait in the buffers of TLS and libpq, where no selector sees it
            notifies, conn.notifies = conn.notifies, []
            self._pass_on(conn, notifies)

    def _pass_on(self, conn, notifies):
        """Tell the watch and Odoo what has come."""
        if self._watch and conn is not self._predecessor:
            canaries = {n.payload for n in notifies if n.channel == CANARY_CHANNEL}
            self._watch.heard(time.monotonic(), canaries)
            if self._watch.is_proven:
                self._prove(conn)
        payloads = [n.payload for n in notifies if n.channel == self._channel]
        if payloads:
            self._call(self._on_notifications, payloads)

    def _check(self, now):
        """Make sure that notifications do come.

        :return: seconds after which to check again
        :raise Deaf: if they do not
        """
        if not self._watch:
            return math.inf
        while self._sent:
            self._watch.sent(self._sent.popleft())
        wait = self._watch.check(now)
        if self._watch.is_expired(now) and self._state.is_listening:
            reason = "no NOTIFY could be sent through db_host to check it"
            _logger.warning(
                'Nothing came by the connection that listens on "%s" for %.0f s, and'
                " %s. %s",
                self._channel,
                self._watch.EXPIRY,
                reason,
                self._meanwhile,
            )
            self._state.unproven(reason)
        return wait

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
    # Renewing
    # ------------------------------------------------------------------

    def _renewal_time(self):
        """Return when to renew a connection; jitter keeps the instances apart."""
        if not self._max_age:
            return math.inf
        return time.monotonic() + self._max_age * random.uniform(0.9, 1.1)

    def _renew(self, conn):
        """Return a successor of ``conn``, which is closed once that listens.

        If there is none to be had, ``conn`` serves on. In either case :meth:`_wait`
        reads from it meanwhile.
        """
        self._predecessor = conn
        try:
            successor, server = self._connect()
        except ConnectionFailed as error:
            _logger.warning(
                "Cannot renew the listening connection, keep the old one: %s", error
            )
            return conn
        finally:
            self._predecessor = None
        self._welcome(successor, server)
        conn.close()
        return successor

    # ------------------------------------------------------------------
    # Waiting
    # ------------------------------------------------------------------

    def _query(self, conn, query):
        """Execute ``query``; return the first row of its result, if it has one."""
        with conn.cursor() as cr:
            cr.execute(query)
            self._complete(conn, DEFAULT_TIMEOUT)
            return cr.fetchone() if cr.description else None

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

    def _pause(self, seconds):
        """Wait for so long, or until stopped.

        By the socket's own timeout: a selector is a file descriptor more, which a
        process that has run out of them does not get.
        """
        end = time.monotonic() + seconds
        while not self._stopped and time.monotonic() < end:
            self._wake_receiver.settimeout(max(end - time.monotonic(), 0.001))
            with suppress(socket.timeout):
                self._wake_receiver.recv(4096)
        self._wake_receiver.settimeout(None)

    def _wait(self, conn, event, timeout):
        """Wait for ``event`` on ``conn``.

        The selector is a new one each time because libpq may change the socket
        between two steps of connecting.

        :return: whether the event came within ``timeout`` seconds
        :raise Stopped: if :meth:`stop` was called
        :raise ConnectionLost: if a connection that listens meanwhile has ended
        """
        deadline = time.monotonic() + timeout
        with self._selector(self._predecessor) as selector:
            selector.register(conn, event)
            while True:
                left = max(deadline - time.monotonic(), 0)
                ready = self._select(selector, left)
                if self._predecessor in ready:
                    self._receive(self._predecessor)
                if conn in ready:
                    return True
                if time.monotonic() >= deadline:
                    return False

    def _selector(self, conn):
        """Return a selector for what wakes us, and for input on ``conn`` if any."""
        selector = selectors.DefaultSelector()
        selector.register(self._wake_receiver, selectors.EVENT_READ)
        if conn is not None:
            selector.register(conn, selectors.EVENT_READ)
        return selector

    def _select(self, selector, timeout):
        """Return what is ready, other than what wakes us.

        :param timeout: seconds (float), or None for no limit
        :raise Stopped: if :meth:`stop` was called
        """
        ready = {key.fileobj for key, _events in selector.select(timeout)}
        if self._wake_receiver in ready:
            self._wake_receiver.recv(4096)
        if self._stopped:
            raise Stopped
        return ready


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
    if isinstance(text, UnicodeDecodeError):
        text = text.object.decode(errors="replace")
    return " ".join(str(text).split()) or repr(text)
