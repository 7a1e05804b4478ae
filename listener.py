"""The connection that listens: opened, proven, kept, and opened again when lost.

It is a module of its own, on psycopg2 and the standard library alone, so that it can
be read, tested and measured without Odoo, and so that whatever else has to LISTEN can
use it.

It is an asynchronous connection (:mod:`reach`), so that every wait has a deadline and a
shutdown can interrupt it.

One thread owns a :class:`Listener` and runs :meth:`Listener.run`; any other may call
:meth:`Listener.stop`.
"""

import collections
import logging
import math
import random
import selectors
import socket
import time
import uuid
from contextlib import suppress

import psycopg2
from psycopg2.extensions import quote_ident

from . import reach
from .canary import TOKEN_PREFIX, CanarySender, Deaf, Watch
from .reach import REFUSALS, ConnectionFailed, Unsuitable, one_line
from .settings import describe
from .state import FALLBACK, State
from .throttle import Throttle

_logger = logging.getLogger(__name__)

#: Seconds that a renewal may take, while the old connection is not checked. It begins
#: just after that was proven, and the next canary is due 2.5 s later: no time is lost.
RENEWAL_TIMEOUT = 3

#: ``idle_session_timeout`` came with PostgreSQL 14.
IDLE_SESSION_TIMEOUT_SINCE = 140000

#: The channel of the canaries, of all instances. Nobody else listens on it, so that
#: they reach no stock Odoo.
CANARY_CHANNEL = "bus_alt_connection"


class Stopped(Exception):
    """:meth:`Listener.stop` was called."""


class ConnectionLost(Exception):
    """The listening connection ended; the text is the reason, if one was given."""


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
        notifications, commits, and returns what :data:`reach.IDENTITY` selects there.
        Called in a thread of its own, as it may hang. None: the connection is not
        watched.
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
        self._sender = None
        if send_canary:
            self._sender = CanarySender(send_canary, self._canary_sent)
        # canaries that were sent, from the sender's thread
        self._sent = collections.deque()
        # the Watch of each connection that listens: of one, and while that is being
        # renewed also of its successor
        self._watches = {}
        # the connection that listens while its successor is being opened and proven
        self._predecessor = None
        self._renewal_deadline = math.inf
        # the server to begin with, of a list
        self._first = 0
        # whether the log says that we listen
        self._is_announced = False
        self._failed_log = Throttle(_logger)
        self._expired_log = Throttle(_logger)
        self._renewal_log = Throttle(_logger)
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
        failure = one_line(error)
        if failure != self._last_failure:
            self._failed_log.reset()
            self._last_failure = failure
        self._is_announced &= not self._failed_log.log(
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
        """Return a new connection that listens, and its watch.

        :raise ConnectionFailed: if there is none to be had
        """
        conn, server = reach.connect(
            self._get_params(), self._start_listening, self._wait, self._first
        )
        watch = None
        if self._sender:
            name = uuid.uuid4().hex
            watch = Watch(self._sender.request, name, server, time.monotonic())
        return conn, watch

    def _start_listening(self, conn):
        """Make sure that this is PostgreSQL itself and a primary, and LISTEN.

        :return: the identity of the server and database, as by :data:`reach.IDENTITY`
        :raise Unsuitable: if it is not; then LISTEN is not sent. A transaction pooler
            would drop it, and deliver notifications to whichever client uses that
            server connection next.
        """

        server = reach.examine(conn, self._wait)
        if server.unsuitable:
            raise Unsuitable(server.unsuitable)

        def query(text):
            reach.query(conn, text, wait=self._wait)

        if conn.server_version >= IDLE_SESSION_TIMEOUT_SINCE:
            # an idle connection is what we are
            query("SET idle_session_timeout = 0")
        if self._sender:
            query("LISTEN " + quote_ident(CANARY_CHANNEL, conn))
        query("LISTEN " + quote_ident(self._channel, conn))
        return server.identity

    # ------------------------------------------------------------------
    # Listening
    # ------------------------------------------------------------------

    def _listen(self, backoff):
        """Connect, and pass notifications on until the connection is lost.

        :raise ConnectionFailed: if there is none to be had
        :raise ConnectionLost: when it ends
        :raise Deaf: when notifications do not come by it
        """
        conn, watch = self._connect()
        self._watches = {conn: watch}
        since = time.monotonic()
        try:
            if not watch:
                self._prove(conn)
            self._call(self._on_listening)
            while True:
                self._consume(conn, self._renewal_time())
                conn = self._renew(conn)
        except Deaf:
            # another server of the list may be the one
            self._first += 1
            raise
        finally:
            for conn in self._watches:
                conn.close()
            self._watches = {}
            backoff.held_for(time.monotonic() - since)

    def _prove(self, conn):
        """Note that notifications come by this connection."""
        if not self._is_announced:
            self._is_announced = True
            self._last_failure = None
            _logger.info(
                'Listening on "%s": %s, PostgreSQL %s, backend pid %d.',
                self._channel,
                describe(conn.get_dsn_parameters()),
                reach.server_version(conn),
                conn.get_backend_pid(),
            )
        self._state.proven()

    def _consume(self, conn, until):
        """Pass notifications on until then (``time.monotonic()``).

        And until one has just come: a connection that may have died is not to be
        renewed, but found out.
        """
        watch = self._watches[conn]
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            selector.register(conn, selectors.EVENT_READ)
            while True:
                # taken first, so that a canary that has come by now was also read
                now = time.monotonic()
                self._receive(conn)
                if now >= until and (not watch or watch.heard_lately(now)):
                    return
                wait = self._check(watch, now)
                if now < until:
                    wait = min(wait, until - now)
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
                raise ConnectionLost(one_line(reason)) from error
            if is_closed:
                raise ConnectionLost("libpq has closed it")
            if not conn.notifies:
                return
            notifies, conn.notifies = conn.notifies, []
            self._pass_on(conn, notifies)
            if self._stopped:
                raise Stopped
            if not conn.info.ssl_in_use:
                return
            # The rest of what was read from the socket may wait in the buffers of TLS,
            # where no selector sees it. But a flood must not keep the other greenlets
            # of the process waiting.
            time.sleep(0)

    def _pass_on(self, conn, notifies):
        """Tell the watch and Odoo what has come."""
        watch = self._watches.get(conn)
        if watch:
            watch.heard(time.monotonic(), {notify.payload for notify in notifies})
            if watch.is_proven:
                self._prove(conn)
        payloads = [
            notify.payload
            for notify in notifies
            if notify.channel == self._channel
            # ODOO_NOTIFY_FUNCTION may know no other channel
            and not notify.payload.startswith(TOKEN_PREFIX)
        ]
        if payloads:
            self._call(self._on_notifications, payloads)

    def _check(self, watch, now):
        """Make sure that notifications do come.

        :return: seconds after which to check again
        :raise Deaf: if they do not
        """
        if not watch:
            return math.inf
        while self._sent:
            canary = self._sent.popleft()
            for other in self._watches.values():
                other.sent(canary)
        wait = watch.check(now)
        if watch.is_expired(now) and self._state.name != FALLBACK:
            reason = f"nothing came for {watch.EXPIRY:.0f} s"
            self._is_announced &= not self._expired_log.log(
                logging.WARNING,
                'By the connection that listens on "%s" %s, not even a NOTIFY of our'
                " own. %s",
                self._channel,
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
        """Return a successor of ``conn`` that is proven, and close ``conn`` then.

        If there is none to be had, ``conn`` serves on. In either case it does so
        meanwhile: :meth:`_wait` reads from it.
        """
        self._predecessor = conn
        self._renewal_deadline = time.monotonic() + RENEWAL_TIMEOUT
        successor = None
        try:
            successor, watch = self._connect()
            self._watches[successor] = watch
            self._await_proof(successor, watch)
        except (ConnectionFailed, ConnectionLost, Deaf, TimeoutError) as error:
            if successor is not None:
                self._watches.pop(successor)
                successor.close()
            self._renewal_log.log(
                logging.WARNING,
                "Cannot renew the listening connection, keep the old one: %s",
                one_line(error),
            )
            return conn
        finally:
            self._predecessor = None
        self._watches.pop(conn)
        conn.close()
        self._call(self._on_listening)
        return successor

    def _await_proof(self, conn, watch):
        """Wait until a canary has come by ``conn``.

        :raise TimeoutError: if it does not in time
        """
        while watch and not watch.is_proven:
            if time.monotonic() > self._renewal_deadline:
                raise TimeoutError("the new one did not get a NOTIFY in time")
            wait = self._check(watch, time.monotonic())
            self._wait(conn, selectors.EVENT_READ, min(wait, 0.1))
            self._receive(conn)

    # ------------------------------------------------------------------
    # Waiting
    # ------------------------------------------------------------------

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
        """Wait for ``event`` on ``conn``, as :func:`reach.wait`.

        :raise Stopped: if :meth:`stop` was called
        :raise ConnectionLost: if the connection that listens meanwhile has ended
        :raise TimeoutError: if a renewal has taken too long
        """
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            selector.register(conn, event)
            if self._predecessor is not None:
                selector.register(self._predecessor, selectors.EVENT_READ)
                deadline = min(deadline, self._renewal_deadline)
            while True:
                left = max(deadline - time.monotonic(), 0)
                ready = self._select(selector, left)
                if self._predecessor is not None and self._predecessor in ready:
                    self._receive(self._predecessor)
                if conn in ready:
                    return True
                if time.monotonic() >= deadline:
                    return False

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
