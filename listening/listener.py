"""The connection that listens: opened, proven, kept, and opened again when lost.

It is an asynchronous connection (:mod:`.connecting`), so that every wait has a
deadline. One thread owns a :class:`Listener` and runs :meth:`Listener.run`; any other
may call :meth:`Listener.stop`.

Notifications that come while there is no connection are lost, and so are those that a
deaf one does not hear. Hence ``on_listening`` after each LISTEN: whoever listens looks
then at what the notifications are about. That holds for the renewal, too, which is no
more than closing and opening.
"""

from __future__ import annotations

import itertools
import random
import selectors
import socket
import threading
import time
from typing import Any, Callable, Union

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import quote_ident

from . import canary, server
from .backoff import Backoff
from .canary import CanarySender, CanaryWatch, Deaf, SilenceWatch, Silent
from .connecting import ConnectionFailed, ConnectionLost, Connector, query
from .display import one_line
from .road import Road
from .settings import Settings
from .state import State

#: ``idle_session_timeout`` came with PostgreSQL 14.
IDLE_SESSION_TIMEOUT_SINCE = 140000

Watch = Union[CanaryWatch, SilenceWatch]


class Listener:
    """LISTEN on one channel, for as long as the process lives.

    :param settings: where to listen
    :param on_notifications: called with the payloads (non-empty list of str), in the
        order in which PostgreSQL sent them
    :param on_listening: called after each LISTEN: notifications may have been missed
    :param state: is told what happens; its channel is the one
    :param road: by which canaries are sent; None: others send them
    :param notify_query: as for :class:`.canary.CanarySender`
    :param on_road_back: called when that road was lost and is there again: so may
        notifications be that others sent
    """

    #: Seconds between two attempts, at the longest and before jitter: with that and the
    #: attempt itself a notification is late by 5 s at most when the road is open again.
    #: A refused attempt costs PostgreSQL next to nothing.
    LONGEST_WAIT = 4.0

    #: Seconds for which a connection must have held for the waits to begin anew: else
    #: one that is accepted and dropped again would be opened again without a pause.
    HEALTHY_AFTER = 15.0

    def __init__(
        self,
        settings: Settings,
        on_notifications: Callable[[list], Any],
        on_listening: Callable[[], Any],
        state: State,
        road: Road | None = None,
        notify_query: Any = None,
        on_road_back: Callable[[], Any] = lambda: None,
    ) -> None:
        self._settings = settings
        self._channel = state.channel
        self._on_notifications = on_notifications
        self._on_listening = on_listening
        self._on_road_back = on_road_back
        self._state = state
        self._stopped = threading.Event()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._connector = Connector(settings.connection_params, self._start_listening)
        self._sender = None
        if road:
            self._sender = CanarySender(road, notify_query, self._canary_sent)

    def run(self) -> None:
        """Connect, listen, and start over when the connection is lost, until stopped.

        Raises nothing: whatever goes wrong is told and tried again.
        """
        backoff = Backoff(first=0.1, longest=self.LONGEST_WAIT)
        is_renewal = False
        while not self._stopped.is_set():
            try:
                self._listen(backoff)
            except Silent:
                is_renewal = True
            except Exception as error:
                if self._stopped.is_set():
                    break
                # the backend that was left may count against a limit for a moment
                if not (is_renewal and isinstance(error, ConnectionFailed)):
                    self._state.failed(error, self._settings.advise(error))
                is_renewal = False
                self._stopped.wait(backoff.delay())
            else:
                self._state.renewing()
                is_renewal = True
        self._connector.close()

    def stop(self) -> None:
        """Make :meth:`run` return, once no server is to answer any more."""
        self._stopped.set()
        self._wake_sender.send(b".")

    def _canary_sent(self, is_reopened: bool) -> None:
        """As ``on_sent`` of :class:`.canary.CanarySender`, in its thread."""
        self._state.metrics.canaries += 1
        self._wake_sender.send(b".")
        if is_reopened:
            self._call(self._on_road_back)

    def _start_listening(self, conn: Connection) -> tuple[str, str]:
        """Make sure that this is PostgreSQL itself and a primary, and LISTEN.

        :return: the identity of the server and database
        :raise OSError: if it is not; then LISTEN is not sent. A transaction pooler
            would drop it, and deliver notifications to whichever client uses that
            server connection next.
        """
        found = server.examine(conn)
        if found.is_pooled or found.is_standby:
            raise OSError(server.POOLED if found.is_pooled else server.STANDBY)
        if conn.server_version >= IDLE_SESSION_TIMEOUT_SINCE:
            # an idle connection is what we are
            query(conn, "SET idle_session_timeout = 0")
        for channel in (canary.CHANNEL, self._channel):
            self._listen_on(conn, channel)
        # so that the last one is why the connection ended
        conn.notices.clear()
        return found.identity

    def _listen_on(self, conn: Connection, channel: str) -> None:
        query(conn, "LISTEN " + quote_ident(channel, conn))

    def _listen(self, backoff: Backoff) -> None:
        """Connect, and pass notifications on until the connection is to be renewed.

        :raise ConnectionFailed: if there is none to be had
        :raise ConnectionLost: when it ends
        :raise Deaf: when notifications do not come by it
        :raise Silent: when nothing has come by it for long
        """
        conn, identity = self._connector.connect()
        self._state.metrics.connects += 1
        since = time.monotonic()
        try:
            # before it is told that there is one again
            self._call(self._on_listening)
            watch = self._watch(conn, identity, since)
            # jitter keeps the instances apart
            age = self._settings.max_age * random.uniform(0.9, 1.1) or float("inf")
            self._consume(conn, watch, since + age)
        except (Deaf, Silent):
            # another server of the list may be the one
            self._connector.begin_with_another()
            raise
        finally:
            conn.close()
            if time.monotonic() - since >= self.HEALTHY_AFTER:
                backoff.reset()

    def _watch(self, conn: Connection, identity: tuple[str, str], now: float) -> Watch:
        if self._sender:
            return CanaryWatch(self._sender, identity, now)
        self._prove(conn)
        return SilenceWatch(lambda: self._ask(conn), now)

    def _ask(self, conn: Connection) -> None:
        """Have the server answer by this connection.

        A LISTEN once more changes nothing, and for administrators it stays the last
        query of an idle backend.

        :raise Deaf: if it does not
        :raise ConnectionLost: if the connection has ended
        """
        try:
            self._listen_on(conn, self._channel)
        except TimeoutError as error:
            raise Deaf(f"the server does not answer: {error}") from error
        except psycopg2.Error as error:
            raise ConnectionLost(one_line(error)) from error

    def _prove(self, conn: Connection) -> None:
        """Tell that notifications come by this connection."""
        where = server.describe_server(conn)
        self._state.proven(f"{where}, backend pid {conn.get_backend_pid()}")

    def _consume(self, conn: Connection, watch: Watch, until: float) -> None:
        """Pass notifications on until then (``time.monotonic()``), or until stopped."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            selector.register(conn, selectors.EVENT_READ)
            now = time.monotonic()
            while now < until and not self._stopped.is_set():
                # before the canary is missed: one that has come by now was read
                self._receive(conn, watch)
                wait = watch.check(now)
                doubt = watch.doubt(now)
                if doubt:
                    self._state.doubted(doubt)
                ready = selector.select(min(wait, until - now))
                if self._wake_receiver in [key.fileobj for key, _events in ready]:
                    self._wake_receiver.recv(4096)
                now = time.monotonic()

    def _receive(self, conn: Connection, watch: Watch) -> None:
        """Read all that has come by the connection, and pass it on.

        One poll() reads 8 KB if there are so many, and a notification has no more. What
        is behind them must not wait: no selector sees what TLS has in its buffers, and
        it may be the canary that is missed next.

        :raise ConnectionLost: if it has ended
        """
        for number in itertools.count():
            if number > 1:
                # a flood must not keep the other greenlets of the process waiting
                time.sleep(0)
            try:
                conn.poll()
                is_closed = conn.fileno() < 0
            except psycopg2.Error as error:
                # PostgreSQL's reason came as a notice in an earlier poll()
                reason = conn.notices[-1] if conn.notices else error
                raise ConnectionLost(one_line(reason)) from error
            if is_closed:
                raise ConnectionLost("libpq has closed it")
            if not conn.notifies or self._stopped.is_set():
                return
            notifies, conn.notifies = conn.notifies, []
            self._pass_on(conn, watch, notifies)
            is_alone = len(notifies) == 1 and len(notifies[0].payload) < 1000
            if is_alone and not conn.info.ssl_in_use:
                # 4,000 bytes at the most: had there been more, it would have been read
                return

    def _pass_on(self, conn: Connection, watch: Watch, notifies: list) -> None:
        """Tell the watch and Odoo what has come."""
        now = time.monotonic()
        round_trip = watch.heard(now, {notify.payload for notify in notifies})
        if round_trip is not None:
            self._state.metrics.round_trip = round_trip
        if not self._state.is_listening and watch.is_proven and not watch.doubt(now):
            self._prove(conn)
        payloads = [
            notify.payload
            for notify in notifies
            if notify.channel == self._channel
            # ODOO_NOTIFY_FUNCTION may know no other channel
            and not notify.payload.startswith(canary.TOKEN_PREFIX)
        ]
        if payloads:
            self._state.metrics.notifications += len(payloads)
            self._call(self._on_notifications, payloads)

    def _call(self, callback: Callable, *args: Any) -> None:
        """Call back; what the other side does wrong must not cost the connection."""
        try:
            callback(*args)
        except Exception:
            self._state.bug("A notification could not be handled")
