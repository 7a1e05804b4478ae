"""Who sends, who receives, and who triggers scheduled actions, all the time."""

from __future__ import annotations

import json
import random
import threading
import time
from typing import Any

import client
import psycopg2
import requests
import websocket
from probe import Pooled
from test_cron import Action

from soaking.ledger import Ledger

CHANNEL = "soak"

INTERVAL = 0.2
"""Seconds between two messages of a database, on average."""

PAUSE = 0.3
"""Seconds until a browser tries again to connect."""

BROKEN = (
    AssertionError,
    OSError,
    KeyError,
    ValueError,
    psycopg2.Error,
    requests.RequestException,
    websocket.WebSocketException,
)
"""What comes of a request while something is broken."""


class Actor(threading.Thread):
    """A thread that goes on until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def pause(self, seconds: float) -> None:
        self._stopped.wait(seconds)


class Sender(Actor):
    """Sends as Odoo does: a row, COMMIT, NOTIFY, all of it through the pooler.

    While `leaves_notify_out` it dies, so to speak, before each NOTIFY.
    """

    def __init__(self, stack: Any, database: str, ledger: Ledger) -> None:
        super().__init__()
        self.receivers: list[str] = []
        self.leaves_notify_out = False
        self.sent = 0
        self._database = database
        self._ledger = ledger
        self._pooled = Pooled(stack)
        self._key = client.channel_key(stack, database, CHANNEL)

    def run(self) -> None:
        while not self._stopped.is_set():
            self._send()
            self.pause(random.uniform(0, 2 * INTERVAL))

    def _send(self) -> None:
        text = f"{self._database}-{self.sent + 1}"
        committed = self._pooled.execute(
            self._database,
            "INSERT INTO bus_bus (channel, message, create_date)"
            " VALUES (%s, %s, now() AT TIME ZONE 'UTC')",
            self._key,
            json.dumps({"type": "soak", "payload": text}),
        )
        # one that failed may be there all the same: its number is not used again
        self.sent += 1
        if committed:
            self._ledger.committed(text, self.receivers)
            if not self.leaves_notify_out:
                self._pooled.execute(
                    "postgres", "SELECT pg_notify('imbus', %s)", f"[{self._key}]"
                )


class Browser(Actor):
    """Has a websocket, and opens it anew where it left off whenever that is closed.

    :param stays: seconds until it leaves by itself, for a moment; None if it does not
    """

    def __init__(
        self, name: str, user: client.User, ledger: Ledger, stays: float | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self.connections = 0
        self._user = user
        self._ledger = ledger
        self._stays = stays
        self._ids = [0, 0]

    def run(self) -> None:
        while not self._stopped.is_set():
            connected = None
            try:
                # the last one but one: that the last comes again is proof that Odoo,
                # which tells of no error in there, has subscribed us
                connected = self._user.websocket(CHANNEL, last=self._ids[0])
                self.connections += 1
                self._take(connected.notifications)
                self._receive(connected)
            except BROKEN:
                pass
            if connected:
                connected.drop()
            self.pause(PAUSE)

    def _receive(self, connected: client.Websocket) -> None:
        begun = time.monotonic()
        end = begun + random.uniform(0, 2 * self._stays) if self._stays else None
        while not self._stopped.is_set():
            self._take(connected.read(1))
            now = time.monotonic()
            if self._ids[0] and not connected.notifications and now - begun > 5:
                return
            if end and now > end:
                return

    def _take(self, notifications: list[dict]) -> None:
        for notification in notifications:
            message = notification["message"]
            if message["type"] != "soak":
                continue
            self._ledger.arrived(str(message["payload"]), self.name)
            if notification["id"] > self._ids[1]:
                self._ids = [self._ids[1], notification["id"]]


class Trigger(Actor):
    """Triggers a scheduled action, and looks whether it has run.

    Odoo does not run one again that a fault has interrupted. So only what is triggered
    while nothing is broken has to run.
    """

    def __init__(self, stack: Any, server: Any, database: str, ledger: Ledger) -> None:
        super().__init__()
        self.delays: list[float] = []
        self._action = Action(stack, server, database)
        self._database = database
        self._ledger = ledger

    def warm_up(self) -> None:
        """Wait until it has run once: a new database's first jobs take a while."""
        self._action.trigger()
        client.wait_until(self._action.runs, "the first jobs", 300)

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                triggered = time.time()
                self._action.trigger()
                self._wait(triggered, time.monotonic())
            except BROKEN:
                pass
            self.pause(random.uniform(1, 5))

    def _wait(self, triggered: float, since: float) -> None:
        while time.monotonic() < self._ledger.deadline(since):
            if ran := [ran for ran in self._action.runs() if ran >= triggered]:
                self.delays.append(ran[0] - triggered)
                return
            if self._stopped.is_set():
                return
            self.pause(0.1)
        if self._ledger.is_calm(since, time.monotonic()):
            self._ledger.violated(f"a scheduled action of {self._database} has not run")
