"""Measures how late messages are while something goes wrong.

A message every 0.25 s goes to three websockets. Lateness is counted from the commit of
the message to its arrival. Nothing may be lost, and no websocket may be closed.
"""

import json
import threading
import time
import uuid

import psycopg2
import websocket
from client import TEXT, Sender, User

INTERVAL = 0.25
WEBSOCKETS = 3
CHANNEL = "probe"

#: Seconds for what is still under way at the end; longer than the safety net's 30 s.
PATIENCE = 45


class Probe:
    """Sends and receives until the end of its ``with`` block.

    Afterwards ``worst`` is the worst lateness in seconds, of the messages whose NOTIFY
    could be sent; none is missing.
    """

    def __init__(self, stack, odoo, database):
        self._stack = stack
        self._database = database
        user = User(odoo, database)
        sender = Sender(stack, database)
        sender.send(CHANNEL, notify=False)
        last = sender.last_id()
        self._websockets = [
            user.websocket(CHANNEL, last=last) for _i in range(WEBSOCKETS)
        ]
        self._stopped = threading.Event()
        self._sent = {}
        self._not_notified = set()
        self._skip_notify = False
        self._arrived = [{} for _websocket in self._websockets]
        self._closed = []
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
        self._sender.join(PATIENCE)
        if exc_type is None:
            self._wait(lambda: not self._missing() or self._closed)
        for connected in self._websockets:
            connected._socket.shutdown()
        if exc_type is None:
            assert not self._closed, f"websockets were closed: {self._closed}"
            assert not self._missing(), f"lost: {len(self._missing())} messages"
            self.worst = self.lateness()

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

    def send_unnotified(self):
        """Commit a message whose NOTIFY is never sent."""
        self._skip_notify = True

    def _missing(self):
        return {
            text
            for text in list(self._sent)
            if not all(text in arrived for arrived in self._arrived)
        }

    def _wait(self, condition):
        end = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < end:
            time.sleep(0.02)

    def _receive(self, connected, arrived):
        while not self._stopped.is_set() or self._missing():
            connected._socket.settimeout(1)
            try:
                opcode, data = connected._socket.recv_data(control_frame=True)
            except websocket.WebSocketTimeoutException:
                continue
            except (OSError, websocket.WebSocketException) as error:
                if not self._stopped.is_set():
                    self._closed.append(error)
                return
            now = time.monotonic()
            if opcode == TEXT:
                for notification in json.loads(data):
                    arrived.setdefault(str(notification["message"]["payload"]), now)

    def _send_all(self):
        road = _Road(self._stack, self._database)
        due = time.monotonic()
        while not self._stopped.is_set():
            text = f"probe-{uuid.uuid4()}"
            key = json.dumps([self._database, CHANNEL], separators=(",", ":"))
            message = json.dumps({"type": "e2e", "payload": text})
            committed = road.execute(
                self._database,
                "INSERT INTO bus_bus (channel, message, create_date)"
                " VALUES (%s, %s, now() AT TIME ZONE 'UTC')",
                key,
                message,
            )
            if committed:
                sent = time.monotonic()
                skip, self._skip_notify = self._skip_notify, False
                if skip or not road.execute(
                    "postgres", "SELECT pg_notify('imbus', %s)", f"[{key}]"
                ):
                    self._not_notified.add(text)
                self._sent[text] = sent
                if skip:
                    # and none after it, which would wake the same websockets
                    self._stopped.wait(PATIENCE)
            due = max(due + INTERVAL, time.monotonic())
            self._stopped.wait(due - time.monotonic())


class _Road:
    """Connections through PgBouncer, kept open as Odoo's pool does."""

    def __init__(self, stack, database):
        self._stack = stack
        self._connections = {}

    def execute(self, database, query, *args):
        """Execute and commit; return whether that is known to have worked."""
        try:
            if database not in self._connections:
                self._connections[database] = self._stack.connect(database, pooled=True)
            conn = self._connections[database]
            with conn, conn.cursor() as cr:
                cr.execute(query, args)
            return True
        except psycopg2.Error:
            self._connections.pop(database, None)
            return False
