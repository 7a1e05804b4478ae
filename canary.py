"""A message to ourselves along the road of a real one, to know that it is open.

Odoo sends NOTIFY by an ordinary connection, through the pooler. So is the canary sent;
the listening connection must receive it. Nothing less is proof: asking the listening
connection whether it still listens says "yes" behind an idle transaction pooler, and
from a frozen server nothing at all.

Sending takes as long as the pooler likes, and so has a thread of its own. A canary that
could not be sent says nothing about the listener.
"""

import itertools
import logging
import queue
import random
import threading
import time

from .reach import one_line
from .throttle import Throttle

_logger = logging.getLogger(__name__)


class Sent:
    """A canary that was sent.

    - ``token``: its payload (str)
    - ``at``: when it was committed (``time.monotonic()``)
    - ``server``: where: the identity of the server and the name of the database
    """

    def __init__(self, token, at, server):
        self.token = token
        self.at = at
        self.server = server


class CanarySender:
    """Sends canaries, one at a time, in a thread of its own.

    :param send: called with the payload; sends it and commits, within some seconds, and
        returns the identity of the server that it went to (:data:`reach.IDENTITY`)
    :param on_sent: called, in the thread, with a :class:`Sent`
    """

    def __init__(self, send, on_sent):
        self._send = send
        self._on_sent = on_sent
        self._requests = None
        self._is_busy = False
        self._failed_log = Throttle(_logger)

    def request(self, token):
        """Have a canary sent, unless the one before is still on its way out.

        :param str token: its payload
        :return: whether it will be
        """
        if self._is_busy:
            return False
        if self._requests is None:
            self._requests = queue.Queue()
            threading.Thread(
                target=self._run, name=f"{__name__}.sender", daemon=True
            ).start()
        self._is_busy = True
        self._requests.put(token)
        return True

    def stop(self):
        """Make the thread end when it has sent what it is sending."""
        if self._requests is not None:
            self._requests.put(None)

    def _run(self):
        for token in iter(self._requests.get, None):
            try:
                server = self._send(token)
            except Exception as error:
                self._failed_log.log(
                    logging.WARNING,
                    "Cannot send the NOTIFY that checks the listening connection: %s",
                    one_line(error),
                )
            else:
                self._on_sent(Sent(token, time.monotonic(), server))
            self._is_busy = False


#: What the payload of every canary begins with.
TOKEN_PREFIX = "bus_alt_connection-"

_numbers = itertools.count(1)


class Deaf(Exception):
    """What was sent did not arrive, or went elsewhere."""


class Watch:
    """Decides when a canary is due and what its absence means; no clock, no network.

    All instances on a cluster share one channel, and whichever canary arrives proves
    for all of them that they listen; so does any notification of Odoo's. Therefore a
    canary is sent only after some silence, whose length differs at random: whoever is
    first spares the others theirs. Each sends one of its own now and then, as only that
    proves its own road.

    The cost: a NOTIFY takes a lock of the whole cluster while it commits, and before
    PostgreSQL 19 wakes every listener of the database. 100 idle instances send one
    canary in 2.5 s together and one each in 30 s: 4 NOTIFYs and 400 wake-ups a second
    (5 when measured).

    :param request: callable that has a canary sent, as :meth:`CanarySender.request`
    :param str name: a name of this connection that no other has
    :param server: the identity of the server that the connection leads to
    :param float now: ``time.monotonic()``
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

    #: Seconds without any proof after which none is assumed any more. Beyond the 8 s,
    #: because this is about canaries that cannot be sent.
    EXPIRY = 10.0

    #: Seconds for which something that arrived counts as just now.
    LATELY = 0.5

    def __init__(self, request, name, server, now):
        self._request = request
        self._name = name
        self._server = server
        self._token = None
        self._sent = None
        self._last_heard = now
        self._next_canary = now
        self._next_own = None

    def sent(self, canary):
        """A canary was committed.

        :param Sent canary: the canary
        """
        if canary.token == self._token:
            self._sent = canary

    def heard(self, now, payloads):
        """Notifications have arrived.

        :param payloads: of all of them
        """
        self._last_heard = now
        self._next_canary = now + random.uniform(*self.SILENCE)
        if self._token in payloads:
            self._token = self._sent = None
            self._next_own = now + random.uniform(*self.OWN_INTERVAL)

    def check(self, now):
        """Request a canary if one is due.

        :raise Deaf: if one should have arrived by ``now``, or went elsewhere
        :return: seconds after which to check again
        """
        if self._sent:
            if self._sent.server != self._server:
                raise Deaf(mismatch(self._server, self._sent.server))
            left = self._sent.at + self.DEADLINE - now
            if left < 0:
                raise Deaf(
                    "a NOTIFY that was sent through db_host did not arrive within"
                    f" {self.DEADLINE:.0f} s"
                )
            return left
        due = now
        if self.is_proven:
            due = min(self._next_canary, self._next_own)
        if now < due:
            return due - now
        if self._token is None:
            self._token = f"{TOKEN_PREFIX}{self._name}-{next(_numbers)}"
        # a little later again, since the sender may be busy or fail
        return 1.0 if self._request(self._token) else 0.1

    @property
    def is_proven(self):
        """Whether a canary of our own has come by this connection."""
        return self._next_own is not None

    def heard_lately(self, now):
        """Whether the connection was alive just now."""
        return now - self._last_heard < self.LATELY

    def is_expired(self, now):
        """Whether it is too long ago that anything arrived."""
        return now - self._last_heard > self.EXPIRY


def mismatch(here, there):
    """Say what is wrong if one listens here, and what is sent goes there.

    :param here: identity of a server and its database, as by :data:`reach.IDENTITY`
    :param there: another one
    """
    (server, database), (sent_server, sent_database) = here, there
    if server != sent_server:
        return (
            "this is another server than the one behind db_host: what is sent there"
            " does not arrive here. Point db_listen_host and db_listen_port to the"
            " PostgreSQL that db_host leads to."
        )
    return (
        f'it listens on the database "{database}", but Odoo sends on'
        f' "{sent_database}": set db_listen_name to that.'
    )
