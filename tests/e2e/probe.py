"""Measures how late messages are while something goes wrong.

A message every 0.25 s goes to three websockets. Lateness is counted from the commit of
the message to its arrival. Nothing may be lost, and no websocket may be closed.
"""

import contextlib
import json
import threading
import time
import uuid

import psycopg2
import websocket
from client import Sender, User, channel_key

INTERVAL = 0.25
WEBSOCKETS = 3
CHANNEL = "probe"

#: Seconds for what is still under way at the end. When the pooler is gone for a moment,
#: a message may be committed and not notified: a canary of our own, one in 40 s, finds
#: that out.
PATIENCE = 60


class Probe:
    """Sends and receives until the end of its ``with`` block.

    Afterwards ``worst`` is the worst lateness in seconds, of the messages whose NOTIFY
    could be sent; none is missing.
    """

    def __init__(self, stack, odoo, database, patience=PATIENCE):
        self._stack = stack
        self._database = database
        self._patience = patience
        sender = Sender(stack, database)
        sender.send(CHANNEL, notify=False)
        self._websockets = self._open(odoo, sender.last_id())
        self._stopped = threading.Event()
        self._all_sent = threading.Event()
        self._sending = threading.Lock()
        self._sent = {}
        # when its NOTIFY was sent, or could not be
        self._ended = {}
        self._not_notified = set()
        self._skip_notify = False
        self._arrived = [{} for _websocket in self._websockets]
        self._closed = []
        self._is_over = False
        self.worst = None

    def __enter__(self):
        self._threads = [
            threading.Thread(target=self._receive, args=pair, daemon=True)
            for pair in zip(self._websockets, self._arrived, strict=True)
        ]
        self._sender = threading.Thread(target=self._send_all, daemon=True)
        for thread in (*self._threads, self._sender):
            thread.start()
        # the first message has to be there before anything goes wrong
        self._wait(lambda: all(self._arrived))
        return self

    def __exit__(self, exc_type, *exc_info):
        self._stopped.set()
        self._sender.join(self._patience)
        self._all_sent.set()
        if exc_type is None:
            self._wait(lambda: not self._missing() or self._closed)
        self._is_over = True
        for connected in self._websockets:
            connected.drop()
        if exc_type is None:
            assert not self._closed, f"websockets were closed: {self._closed}"
            assert not self._missing(), self._describe_missing()
            self.worst = self.lateness()

    def _open(self, odoo, last):
        """Return websockets that get what comes after a message's id."""
        user = User(odoo, self._database)
        return [user.websocket(CHANNEL, last=last) for _i in range(WEBSOCKETS)]

    def lateness(self, not_notified=False):
        """Return the worst lateness of the messages (not) notified, in seconds."""
        return max(
            arrived[text] - sent
            for text, sent in self._sent.items()
            if (text in self._not_notified) == not_notified
            for arrived in self._arrived
        )

    def settle(self):
        """Wait until all has arrived that was sent; then 0.2 s are quiet.

        Odoo closes a websocket if the database goes away while that is reading.
        """
        self._wait(lambda: not self._missing())

    def has(self, text):
        """Whether all websockets have received it, which the test itself has sent."""
        return all(text in arrived for arrived in self._arrived)

    @contextlib.contextmanager
    def quiet(self):
        """Send nothing for as long as it lasts, and before all that was sent arrives.

        For what rows do not survive that nobody has received.
        """
        with self._sending:
            self.settle()
            # a websocket that was woken twice for a message may still be reading
            time.sleep(1)
            yield

    def send_unnotified(self):
        """Commit a message whose NOTIFY is never sent."""
        self._skip_notify = True

    def _describe_missing(self):
        """Tell which messages did not arrive where: numbers of what was sent."""
        numbers = {text: number for number, text in enumerate(self._sent, 1)}
        where = {
            f"{numbers[text]} of {len(numbers)}"
            + " (not notified)" * (text in self._not_notified): [
                number
                for number, arrived in enumerate(self._arrived, 1)
                if text not in arrived
            ]
            for text in self._missing()
        }
        return f"lost, message and websockets: {where}"

    def _missing(self):
        return {
            text
            for text in list(self._sent)
            if not all(text in arrived for arrived in self._arrived)
        }

    def _wait(self, condition, patience=None):
        end = time.monotonic() + (patience or self._patience)
        while not condition() and time.monotonic() < end:
            time.sleep(0.02)

    def _receive(self, connected, arrived):
        # what is being sent at the end is to be read as well
        while not self._all_sent.is_set() or self._missing():
            try:
                found = connected.read(1)
            except (AssertionError, OSError, websocket.WebSocketException) as error:
                if not self._is_over:
                    self._lose(arrived, error)
                return
            now = time.monotonic()
            for notification in found:
                arrived.setdefault(str(notification["message"]["payload"]), now)

    def _lose(self, arrived, error):
        """A websocket was closed."""
        self._closed.append(error)

    def _send_all(self):
        road = Pooled(self._stack)
        due = time.monotonic()
        while not self._stopped.is_set():
            with self._sending:
                skip = self._send(road)
            if skip:
                # and none after it, which would wake the same websockets
                self._stopped.wait(self._patience)
            due = max(due + INTERVAL, time.monotonic())
            self._stopped.wait(due - time.monotonic())

    def _send(self, road):
        """Send one message; return whether its NOTIFY was left out."""
        text = f"probe-{uuid.uuid4()}"
        key = channel_key(self._stack, self._database, CHANNEL)
        message = json.dumps({"type": "e2e", "payload": text})
        committed = road.execute(
            self._database,
            "INSERT INTO bus_bus (channel, message, create_date)"
            " VALUES (%s, %s, now() AT TIME ZONE 'UTC')",
            key,
            message,
        )
        if not committed:
            return False
        sent = time.monotonic()
        skip, self._skip_notify = self._skip_notify, False
        if skip or not road.execute(
            "postgres", "SELECT pg_notify('imbus', %s)", f"[{key}]"
        ):
            self._not_notified.add(text)
        self._sent[text] = sent
        self._ended[text] = time.monotonic()
        return skip


class Pooled:
    """Connections through PgBouncer, kept open as Odoo's pool does."""

    def __init__(self, stack):
        self._stack = stack
        self._connections = {}

    def execute(self, database, query, *args):
        """Execute and commit; return whether that is known to have worked."""
        try:
            conn = self._borrow(database)
            with conn, conn.cursor() as cr:
                cr.execute(query, args)
            return True
        except psycopg2.Error:
            self._connections.pop(database, None)
            return False

    def _borrow(self, database):
        """Return a kept connection, or a new one if that is found dead.

        Odoo resets a connection before it lends it: so no NOTIFY is lost because the
        pooler was away some time before.
        """
        if conn := self._connections.get(database):
            with contextlib.suppress(psycopg2.Error):
                conn.reset()
                return conn
        conn = self._connections[database] = self._stack.connect(database, pooled=True)
        return conn
