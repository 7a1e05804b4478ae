"""A connection that never fails, handed to Odoo's own loops in place of a pooled one.

Stock Odoo LISTENs in loops of one shape, in every series: they take a cursor from
``db_connect``, LISTEN by it, and then wait for its connection to be readable,
``poll()`` it and take out its ``notifies``. These loops stay as they are, wrapped by
other addons or not. But in a thread that runs one (:func:`handing`), the first
``db_connect`` to the database of the notifications gives a :class:`HandedConnection`,
which is fed from other threads.

What else such a thread does, as its scheduled actions, has Odoo's pool.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Callable, Iterable, Iterator

from psycopg2.extensions import Notify

import odoo

from . import roads
from .override import Override


class HandedConnection:
    """What the loops need of a psycopg2 connection that LISTENs.

    :param channel: the channel on which everything seems to come
    :param everything: called, in the loop's thread, for the payloads (list of str) that
        stand for all that may have been missed
    """

    #: How many notifications wait for a loop that is busy; with more of them they are
    #: dropped, and it gets everything. Each is 8,000 bytes at the longest.
    MAX_ARRIVED = 1000

    #: Seconds after which a loop that has not polled is stuck, or is no loop: never, if
    #: it does other work in between.
    STUCK_AFTER = float("inf")

    def __init__(self, channel: str, everything: Callable[[], list[str]]) -> None:
        #: for the loop: what came with the last poll(); whether it is closed
        self.notifies: list[Notify] = []
        self.closed = 0
        self._channel = channel
        self._everything = everything
        self._arrived: collections.deque[str] = collections.deque()
        self._may_have_missed = False
        self._waiting_since: float | None = None
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    # ------------------------------------------------------------------
    # For the loop
    # ------------------------------------------------------------------

    def fileno(self) -> int:
        return self._receiver.fileno()

    def poll(self) -> None:
        self._waiting_since = None
        with suppress(BlockingIOError):
            while self._receiver.recv(4096):
                pass
        # the cron loops of some series do not take them out
        del self.notifies[: -self.MAX_ARRIVED]
        payloads = []
        if self._may_have_missed:
            # before what is missed from now on
            self._may_have_missed = False
            try:
                payloads += self._everything()
            except BaseException:
                self._may_have_missed = True
                raise
        with suppress(IndexError):
            while True:
                payloads.append(self._arrived.popleft())
        self.notifies += [Notify(0, self._channel, payload) for payload in payloads]

    def listen(self) -> None:
        """The loop has sent LISTEN."""

    def close(self) -> None:
        """The loop does not listen any more."""
        self.closed = 1

    # ------------------------------------------------------------------
    # From any thread
    # ------------------------------------------------------------------

    def put(self, payloads: Iterable[str]) -> None:
        """Hand these to the loop."""
        if len(self._arrived) > self.MAX_ARRIVED:
            self._arrived.clear()
            self._may_have_missed = True
        self._arrived.extend(payloads)
        self._wake()

    def put_everything(self) -> None:
        """Hand everything to the loop, for what may have been missed."""
        self._may_have_missed = True
        self._wake()

    @property
    def is_stuck(self) -> bool:
        """Whether the loop does not take out what has come."""
        since = self._waiting_since
        return since is not None and time.monotonic() - since > self.STUCK_AFTER

    def _wake(self) -> None:
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        # it is full when the loop is behind, and then awake anyway
        with suppress(BlockingIOError):
            self._sender.send(b".")


class HandedCursor:
    """What one thread is handed: a connection of the pool's, and its cursor, in one.

    It is handed once, and again when it was closed. The loops do no more with it before
    they listen, and at the end.
    """

    def __init__(self, make_connection: Callable[[], HandedConnection]) -> None:
        self._make_connection = make_connection
        self.is_given = False

    def cursor(self, *args: Any, **kwargs: Any) -> HandedCursor:
        # given only if it could be made: else the loop would have the pool from now on
        self._cnx = self._make_connection()
        self.is_given = True
        return self

    def execute(self, query: str, *_args: Any) -> None:
        if query.upper().startswith("LISTEN"):
            self._cnx.listen()
        elif "pg_is_in_recovery" not in query:
            # not the loop's, but somebody's who would wonder where it went
            raise NotImplementedError(f"this connection only listens: {query:.100s}")

    def fetchone(self) -> tuple[bool]:
        """Answer ``pg_is_in_recovery()``: a standby is retried by the listener."""
        return (False,)

    def commit(self) -> None:
        """There is nothing to commit."""

    def close(self) -> None:
        self._cnx.close()
        self.is_given = False

    def __enter__(self) -> HandedCursor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


_thread = threading.local()


@contextlib.contextmanager
def handing(make_connection: Callable[[], HandedConnection]) -> Iterator[None]:
    """Hand such a connection to the loop that this thread runs in the block."""
    _thread.handed = HandedCursor(make_connection)
    try:
        yield
    finally:
        _thread.handed = None


def db_connect(to: str, *args: Any, **kwargs: Any) -> Any:
    """Connect, or hand a connection over. Replaces ``odoo.sql_db.db_connect``.

    Whoever sends or listens comes by here, and is the first to notice that another
    addon has taken the place of an override.
    """
    if to == roads.notify_database():
        Override.find_lost()
        handed = getattr(_thread, "handed", None)
        if handed and not handed.is_given:
            return handed
    return DB_CONNECT.original(to, *args, **kwargs)


DB_CONNECT = Override(odoo.sql_db, "db_connect", db_connect)
