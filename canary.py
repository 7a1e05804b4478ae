"""A message to ourselves along the road of a real one, to know that it is open.

Odoo sends NOTIFY with an ordinary cursor, through the pooler. So does the canary; the
listening connection must receive it. Nothing less is proof: asking the listening
connection whether it still listens says "yes" behind an idle transaction pooler, and
from a frozen server nothing at all.

Sending can hang, for as long as the pooler likes, and so has a thread of its own. A
canary that could not be sent says nothing about the listener.
"""

import logging
import queue
import random
import threading
import time

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

    :param send: called with the payload; sends it and commits, and returns the
        identity of the server that it went to (:data:`listener.IDENTITY`)
    :param on_sent: called, in the thread, with a :class:`Sent`
    """

    #: Seconds after which a hanging thread is given up for a new one. It ends by
    #: itself when the pooler or the kernel does (``query_wait_timeout`` is 120 s).
    PATIENCE = 30.0

    #: How many threads may hang at a time; 4 * 30 s is what PgBouncer's default takes.
    MAX_HANGING = 4

    def __init__(self, send, on_sent):
        self._send = send
        self._on_sent = on_sent
        self._hanging = []
        self._thread = None
        self._requests = None
        self._requested_at = None
        self._failed_log = Throttle(_logger)

    def request(self, token):
        """Have a canary sent, unless the one before is still on its way out.

        :param str token: its payload
        :return: whether it will be
        """
        now = time.monotonic()
        if self._requested_at is not None:
            if now - self._requested_at < self.PATIENCE:
                return False
            self._hanging = [thread for thread in self._hanging if thread.is_alive()]
            if len(self._hanging) >= self.MAX_HANGING:
                return False
            self._hanging.append(self._thread)
            self._thread = None
        if self._thread is None:
            self._requests = queue.Queue()
            self._thread = threading.Thread(
                target=self._run,
                args=(self._requests,),
                name=f"{__name__}.sender",
                daemon=True,
            )
            self._thread.start()
        self._requested_at = now
        self._requests.put(token)
        return True

    def stop(self):
        """Make the thread end when it has sent what it is sending."""
        if self._requests is not None:
            self._requests.put(None)

    def _run(self, requests):
        for token in iter(requests.get, None):
            try:
                server = self._send(token)
            except Exception as error:
                self._failed_log.log(
                    logging.WARNING,
                    "Cannot send the NOTIFY that checks the listening connection: %s",
                    " ".join(str(error).split()),
                )
            else:
                self._on_sent(Sent(token, time.monotonic(), server))
            if requests is not self._requests:
                # given up for another one in the meantime
                return
            self._requested_at = None


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
    canary in 2.5 s together and one each in 30 s: 4 NOTIFYs and 400 wake-ups a second.

    :param request: callable that has a canary sent, as :meth:`CanarySender.request`
    :param str name: a name of this process that no other has
    """

    #: Seconds of silence after which a canary is due: uniformly random in between.
    SILENCE = (2.5, 4.0)

    #: Seconds within which a canary must arrive after it was committed; it takes
    #: 0.2 ms. So deafness is noticed 4 + 4 = 8 s after it began at the latest, which
    #: leaves 2 s of the promised 10 s for connecting again and reading the table.
    DEADLINE = 4.0

    #: Seconds after which it must be a canary of our own.
    OWN_INTERVAL = 30.0

    #: Seconds without any proof after which none is assumed any more. Beyond the 8 s,
    #: because this is about canaries that cannot be sent.
    EXPIRY = 10.0

    def __init__(self, request, name):
        self._request = request
        self._name = name
        self._count = 0
        self.restart(0.0, None)

    def restart(self, now, server):
        """Begin with a new connection, of which nothing is proven.

        :param float now: ``time.monotonic()``
        :param server: the identity of the server that it leads to
        """
        self._server = server
        self._token = None
        self._sent = None
        self._last_heard = now
        self._last_own = None
        self._silence = 0.0

    def sent(self, canary):
        """A canary of ours was committed.

        :param Sent canary: the canary
        :raise Deaf: if it went to another server or database than we listen on
        """
        if canary.token != self._token:
            return
        if canary.server != self._server:
            raise Deaf(_mismatch(self._server, canary.server))
        self._sent = canary

    def heard(self, now, payloads):
        """Notifications have arrived.

        :param payloads: of those that were canaries (list of str)
        """
        self._last_heard = now
        self._silence = random.uniform(*self.SILENCE)
        if self._token in payloads:
            self._token = self._sent = None
            self._last_own = now

    def check(self, now):
        """Request a canary if one is due.

        :raise Deaf: if one should have arrived by ``now``
        :return: seconds after which to check again
        """
        if self._sent:
            left = self._sent.at + self.DEADLINE - now
            if left < 0:
                raise Deaf(
                    "a NOTIFY that was sent through db_host did not arrive within"
                    f" {self.DEADLINE:.0f} s"
                )
            return left
        due = self._last_heard + self._silence
        if self._last_own is None:
            due = now
        else:
            due = min(due, self._last_own + self.OWN_INTERVAL)
        if now < due:
            return due - now
        if self._token is None:
            self._count += 1
            self._token = f"{self._name}-{self._count}"
        self._request(self._token)
        return 1.0

    @property
    def is_proven(self):
        """Whether a canary of our own has come by this connection."""
        return self._last_own is not None

    def is_expired(self, now):
        """Whether it is too long ago that anything arrived."""
        return now - self._last_heard > self.EXPIRY


def _mismatch(here, there):
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
