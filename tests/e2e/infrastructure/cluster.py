"""Several servers on one cluster, each of which listens in another way."""

import collections
import time

import requests
import websocket
from client import User, execute, wait_until
from probe import CHANNEL, Probe

#: Websockets of each server.
WEBSOCKETS = 2


class ClusterProbe(Probe):
    """Measures how late messages are at each of several servers.

    Where the database goes away, Odoo may close a websocket that is just reading. It is
    opened again, as a browser does, and must get all, too; how late that was is not
    counted. Neither is what the next primary has not got. Lateness is counted from when
    the NOTIFY was sent: the road was closed before.

    :param servers: by name; each is measured
    :param stock: the server of stock Odoo, of which nothing is demanded, or None
    """

    def __init__(self, stack, servers, stock, database, patience=90):
        self._names, self._users = [], []
        self._stock = stock
        self._closings = collections.Counter()
        #: how many rows PostgreSQL itself has lost, and which of them nobody has got
        self.gone, self.lost = 0, set()
        super().__init__(stack, servers, database, patience)

    def _open(self, servers, last):
        opened = []
        self._last = last
        stock = {None: self._stock} if self._stock else {}
        for name, server in {**servers, **stock}.items():
            user = User(server, self._database)
            for _i in range(WEBSOCKETS):
                opened.append(user.websocket(CHANNEL, last=last))
                self._names.append(name)
                self._users.append(user)
        return opened

    def __enter__(self):
        self._by_place = list(zip(self._names, self._arrived, strict=True))
        self._user_of = {
            id(arrived): user
            for user, arrived in zip(self._users, self._arrived, strict=True)
        }
        super().__enter__()
        self._arrived = [arrived for name, arrived in self._by_place if name]
        return self

    def __exit__(self, exc_type, *exc_info):
        if exc_type is None:
            self._stopped.set()
            self._sender.join(self._patience)
            query = "SELECT message::json->>'payload' FROM bus_bus"
            rows = execute(self._stack, self._database, query)
            present = {text for (text,) in rows}
            self.gone = len(set(self._sent) - present)
            self.lost = {text for text in self._missing() if text not in present}
        super().__exit__(exc_type, *exc_info)

    def _receive(self, connected, arrived):
        while connected:
            closings = self._closings[id(arrived)]
            super()._receive(connected, arrived)
            if self._closings[id(arrived)] == closings:
                return
            connected = self._reopen(connected, arrived)

    def _lose(self, arrived, error):
        self._closings[id(arrived)] += 1

    def _reopen(self, closed, arrived):
        """Return a websocket that goes on where another one has ended."""
        last = max([self._last, *(each["id"] for each in closed.notifications)])
        while not self._is_over:
            try:
                opened = self._user_of[id(arrived)].websocket(CHANNEL, last=last)
            except (
                AssertionError,
                OSError,
                requests.RequestException,
                websocket.WebSocketException,
            ):
                time.sleep(1)
                continue
            self._websockets.append(opened)
            for each in opened.notifications:
                arrived.setdefault(str(each["message"]["payload"]), time.monotonic())
            return opened
        return None

    @property
    def count(self):
        """How many messages were sent."""
        return len(self._sent)

    def _missing(self):
        return super()._missing() - self.lost

    def lateness(self, not_notified=False):
        return max(self.late(name) or 0 for name, _arrived in self._by_place if name)

    def closings(self, name):
        """Return how often websockets of a server were closed."""
        return sum(self._closings[id(arrived)] for arrived in self._of(name))

    def late(self, name):
        """Return the seconds by which the worst message was late at a server.

        None if no websocket has stayed open there.
        """
        kept = [each for each in self._of(name) if not self._closings[id(each)]]
        late = [self._late(each, text) for each in kept for text in self._sent]
        return max(late, default=None)

    def late_at_stock(self, patience=90):
        """Return the same of stock Odoo, whose websockets may have been closed.

        :param patience: seconds; what has not come by then is late by its age
        """
        sent = list(self._ended)
        places = self._of(None)
        self._wait(
            lambda: all(text in arrived for text in sent for arrived in places),
            patience,
        )
        return max(self._late(arrived, text) for arrived in places for text in sent)

    def _of(self, name):
        return [arrived for place, arrived in self._by_place if place == name]

    def _late(self, arrived, text):
        if text in self.lost:
            return 0.0
        return max(arrived.get(text, time.monotonic()) - self._ended[text], 0.0)

    def wait_flowing(self, deadline):
        """Wait until something that is sent from now on has arrived everywhere."""
        now = time.monotonic()

        def has_come():
            later = [text for text, sent in list(self._sent.items()) if sent > now]
            return any(all(text in a for a in self._arrived) for text in later)

        wait_until(has_come, "messages flow again", deadline)
