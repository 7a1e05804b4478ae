"""A message to ourselves along the road of a real one, to know that it is open.

Odoo sends NOTIFY by an ordinary connection, through the pooler. So is the canary sent;
the listening connection must receive it. Nothing less is proof: asking the listening
connection whether it still listens says "yes" behind an idle transaction pooler.

Sending takes as long as the pooler likes, and so has a thread of its own. A canary that
could not be sent says nothing about the listener.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import namedtuple
from typing import Any, Callable

from .backoff import Backoff
from .connecting import LATE
from .display import one_line
from .road import Blocked, Road
from .server import mismatch

#: The channel of the canaries, of all instances. Nobody else listens on it, so that
#: they reach no stock Odoo.
CHANNEL = "bus_alt_connection"

#: What the payload of every canary begins with.
TOKEN_PREFIX = "bus_alt_connection-"

#: What a doubt says before why that is so.
NOT_SENT = "none can be sent through db_host"


class Deaf(OSError):
    """What was sent did not arrive, or went elsewhere."""


Sent = namedtuple("Sent", "token at identity")
Sent.__doc__ = """A canary that was sent.

- ``token``: its payload (str)
- ``at``: when it was committed (``time.monotonic()``)
- ``identity``: where: the server and the database (:data:`.server.IDENTITY`)
"""


class CanarySender:
    """Sends canaries, one at a time, each in a thread of its own.

    :param road: the road that Odoo's notifications take; this is its only user
    :param notify_query: takes a channel and a payload, sends that, and returns first
        what :data:`.server.IDENTITY` selects
    :param on_sent: called in the thread after each, with whether the road had been
        lost: so may others' have been, between their COMMIT and their NOTIFY
    """

    #: Seconds between two attempts, at the longest. Each takes a lock of the whole
    #: cluster, and waits for it for 3 s when somebody holds it.
    LONGEST_WAIT = 60.0

    def __init__(
        self, road: Road, notify_query: Any, on_sent: Callable[[bool], None]
    ) -> None:
        self._road = road
        self._notify_query = notify_query
        self._on_sent = on_sent
        self._thread: threading.Thread | None = None
        self._backoff = Backoff(first=0.5, longest=self.LONGEST_WAIT)
        self._not_before = 0.0
        #: the last one that was sent
        self.sent: Sent | None = None
        #: why the last one could not be sent; None if it could
        self.failure: str | None = None

    def request(self, token: str) -> bool:
        """Have a canary sent, and return True; False if that must wait a little."""
        is_busy = self._thread is not None and self._thread.is_alive()
        if is_busy or time.monotonic() < self._not_before:
            return False
        self._thread = threading.Thread(
            target=self._send, args=(token,), name=f"{__name__}.sender", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:
            # there is none to be had, which is no reason not to listen
            self.failure = one_line(error)
            return False
        return True

    def _send(self, token: str) -> None:
        openings = self._road.openings
        try:
            [row] = self._road.query(
                self._notify_query,
                (CHANNEL, token),
                "the lock that every COMMIT with a NOTIFY takes: another one does not"
                " end",
            )
        except Exception as error:
            verb = "NOTIFY " if isinstance(error, Blocked) else ""
            self.failure = verb + one_line(error)
            self._not_before = time.monotonic() + self._backoff.delay()
        else:
            self.failure = None
            self._backoff.reset()
            self.sent = Sent(token, time.monotonic(), row[:2])
            self._on_sent(0 < openings < self._road.openings)


class CanaryWatch:
    """Decides when a canary is due and what its absence means; no clock, no network.

    All instances on a cluster share one channel, and whichever canary arrives proves
    for all of them that they listen; so does any notification of Odoo's. Therefore a
    canary is sent only after some silence, whose length differs at random: whoever is
    first spares the others theirs. Each sends one of its own now and then, as only that
    proves its own road. What it costs: ``docs/scale.rst``.

    :param sender: sends what is due
    :param identity: of the server that the connection leads to
    :param now: ``time.monotonic()``
    """

    #: Seconds of silence after which a canary is due: uniformly random in between.
    SILENCE = (2.5, 4.0)

    #: Seconds within which a canary must arrive after it was committed; it takes
    #: 0.2 ms. So deafness is noticed 4 + 4 = 8 s after it began at the latest, which
    #: leaves 2 s of the promised 10 s for connecting again and reading the table.
    DEADLINE = 4.0

    #: Seconds after which it must be a canary of our own; at random, too, since all
    #: instances may have been started at once.
    OWN_INTERVAL = (20.0, 40.0)

    #: Seconds without anything after which arrival is not assumed any more; and without
    #: a canary of our own. Beyond the 8 s and the 40 s, because this is about canaries
    #: that cannot be sent. 9 s, looked at each second: the table is read within 10 s.
    EXPIRY = 9.0
    OWN_EXPIRY = 120.0

    def __init__(
        self, sender: CanarySender, identity: tuple[str, str], now: float
    ) -> None:
        self._sender = sender
        self._identity = identity
        self._token: str | None = None
        self._requested_at = now
        self._last_heard = now
        # a new connection has as long to be proven as any other silence may last
        self._last_own = now - self.OWN_EXPIRY + self.EXPIRY
        self._next_canary = self._next_own = self._next_check = now
        #: whether a canary of our own has come by this connection
        self.is_proven = False

    def heard(self, now: float, payloads: set[str]) -> float | None:
        """Notifications have arrived.

        :return: the seconds since our own canary was requested, if it is among them
        """
        self._last_heard = now
        self._next_canary = now + random.uniform(*self.SILENCE)
        if self._token not in payloads:
            return None
        self._token = None
        self._last_own = now
        self._next_own = now + random.uniform(*self.OWN_INTERVAL)
        self.is_proven = True
        return now - self._requested_at

    def check(self, now: float) -> float:
        """Request a canary if one is due; return the seconds until the next check.

        :raise Deaf: if one should have arrived by ``now``, or went elsewhere
        """
        late = now - self._next_check
        if late > LATE:
            # it has stood still, which was no silence
            self._last_heard = min(self._last_heard + late, now)
            self._last_own = min(self._last_own + late, now)
        wait = self._request(now)
        self._next_check = now + wait
        return wait

    def _request(self, now: float) -> float:
        sent = self._sender.sent
        if sent and sent.token == self._token:
            if sent.identity != self._identity:
                raise Deaf(mismatch(self._identity, sent.identity))
            left = sent.at + self.DEADLINE - now
            if left < 0:
                raise Deaf(
                    "a NOTIFY that was sent through db_host did not arrive within"
                    f" {self.DEADLINE:.0f} s"
                )
            # soon, since doubt() may be due before
            return min(left, 1.0)
        due = min(self._next_canary, self._next_own)
        if now < due:
            return due - now
        if self._token is None:
            self._token = TOKEN_PREFIX + uuid.uuid4().hex
        # again a little later, since the sender may be busy or fail
        if not self._sender.request(self._token):
            return 0.2
        self._requested_at = now
        return 1.0

    def doubt(self, now: float) -> str | None:
        """Return why it is not known that notifications arrive; None if it is."""
        if now - self._last_heard > self.EXPIRY:
            doubt = f"nothing came for {self.EXPIRY:.0f} s"
        elif now - self._last_own > self.OWN_EXPIRY:
            doubt = "no NOTIFY of our own comes"
        else:
            return None
        if self._sender.failure:
            doubt += f", and {NOT_SENT}: {self._sender.failure}"
        return doubt


class Silent(Exception):
    """Nothing at all has come for so long that the connection is to be opened anew."""


class SilenceWatch:
    """Watches a connection on which others' notifications come, and sends none.

    The bus of each instance sends canaries, which all that listen on a cluster receive.
    Where they stay away the server is asked whether it is still there; and after a
    minute without any the connection is opened anew, in case it leads to one that
    nobody sends to any more.

    :param ask: has the server answer by this connection within some seconds, or raises
    :param now: ``time.monotonic()``
    """

    #: Seconds of silence after which the server is asked. With 5 s for the answer, a
    #: dead connection is noticed in 15 s.
    ASK_AFTER = 10.0

    #: Seconds of silence after which the connection is opened anew, at random: as long
    #: as Odoo's own timer of 60 s, so that waking its loop is one pass instead of the
    #: timer's.
    SILENT_AFTER = (55.0, 65.0)

    is_proven = True

    def __init__(self, ask: Callable[[], Any], now: float) -> None:
        self._ask = ask
        self._last_heard = self._last_answer = now
        self._silent_after = random.uniform(*self.SILENT_AFTER)

    def heard(self, now: float, payloads: set[str]) -> float | None:
        """Notifications have arrived."""
        self._last_heard = self._last_answer = now
        return None

    def check(self, now: float) -> float:
        """Ask if that is due; return the seconds until the next check.

        :raise Silent: if nothing has come for long
        """
        if now - self._last_heard >= self._silent_after:
            raise Silent
        if now - self._last_answer >= self.ASK_AFTER:
            self._ask()
            self._last_answer = now
            # what has come with the answer is to be read before anything is awaited
            return 0.0
        return self._last_answer + self.ASK_AFTER - now

    def doubt(self, now: float) -> str | None:
        """It is trusted until it is found dead."""
        return None
