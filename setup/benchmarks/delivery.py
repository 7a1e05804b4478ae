"""How long a message takes from its commit to a browser, on real Odoo servers.

This is the figure that users feel. The contenders take turns, short ones and many, so
that whatever else the machine does hits all of them alike. While it is one's turn the
others are suspended, because each would wake up for every NOTIFY.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import client
import psutil
from provision import step
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ, connection
from stack import Stack

from .figures import percentile

#: For each number of clients, how often a contender's turn comes in a round, and the
#: messages in each turn. Many short turns, for a machine is fast in one second and slow
#: in the next.
TURNS = {1: (8, 5), 10: (8, 5), 100: (4, 2)}

#: Messages that do not count, at the beginning of a round: the first makes Odoo open
#: connections. At the beginning of each turn there is one more.
WARM_UP = 2

#: Seconds between the last frame of a message and the next message: the queue is empty.
PAUSE = 0.02

#: Seconds to wait for a message, and for all that are missing after the last one. A
#: contender of which nothing came within the first wait is not waited for again before
#: the end.
PATIENCE, LAST_CHANCE = 2.0, 1.0

#: How often a round measures the fetch, and the fetches in each go.
FETCH_TURNS, FETCHES = 20, 20

#: 64 for the evented worker of each server that is direct, and some for the rest.
MAX_CONNECTIONS = 250


@dataclass(frozen=True)
class Contender:
    name: str
    title: str
    addon: str | None
    direct: bool

    @property
    def database(self) -> str:
        return f"bench_{self.name}"


CONTENDERS = (
    Contender("a", "stock Odoo, direct", addon=None, direct=True),
    Contender("b", "stock Odoo, PgBouncer", addon=None, direct=False),
    Contender("c", "addon, PgBouncer", addon="server-wide", direct=False),
    Contender("d", "addon, direct", addon="server-wide", direct=True),
)


class Sender:
    """Sends as ``_sendone`` does, on connections kept open like those of a pool."""

    def __init__(self, stack: Stack, database: str, pooled: bool) -> None:
        self._stack = stack
        self._database = database
        self._rows = stack.connect(database, pooled=pooled)
        self._notifications = stack.connect("postgres", pooled=pooled)

    def send(self, channel: str, text: str) -> float:
        """Send a message; return the time at which its commit was done."""
        key = client.channel_key(self._stack, self._database, channel)
        message = json.dumps({"type": "bench", "payload": text})
        with self._rows, self._rows.cursor() as cr:
            cr.execute(
                "INSERT INTO bus_bus (channel, message, create_date)"
                " VALUES (%s, %s, now() AT TIME ZONE 'UTC')",
                [key, message],
            )
        committed = time.monotonic()
        borrow(self._notifications)
        with self._notifications, self._notifications.cursor() as cr:
            cr.execute("SELECT pg_notify('imbus', %s)", [f"[{key}]"])
        return committed

    def last_id(self) -> int:
        """Return the id of the last message, 0 if there is none."""
        with self._rows, self._rows.cursor() as cr:
            cr.execute("SELECT coalesce(max(id), 0) FROM bus_bus")
            return cr.fetchone()[0]

    def close(self) -> None:
        self._rows.close()
        self._notifications.close()


def borrow(conn: connection) -> None:
    """Do to a connection what Odoo's pool does before it lends it."""
    conn.reset()
    conn.set_session(ISOLATION_LEVEL_REPEATABLE_READ, readonly=False)


class User(client.User):
    def subscribe(self, *channels: str, last: int = 0) -> Websocket:
        cookie = "; ".join(f"{c.name}={c.value}" for c in self._http.cookies)
        return Websocket(self._odoo.websocket_url, cookie, channels, last)


class Websocket(client.Websocket):
    """One that can be selected for reading.

    websocket-client reads no more than one frame from the socket, so that a further
    one makes it readable again.
    """

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[str]:
        """Return the texts in the one frame that has arrived."""
        self.notifications.clear()
        self._read()
        return [each["message"]["payload"] for each in self.notifications]


class Audience:
    """Clients of one server that have subscribed to one channel, read by one loop."""

    def __init__(self, server: Server, channel: str, size: int) -> None:
        self.server = server
        self._channel = channel
        self._size = size
        self._committed: dict[str, float] = {}
        self._arrivals: dict[str, dict[Websocket, float]] = {}
        self._counted: list[str] = []
        self._is_delivering = True
        self._websockets = [server.subscribe(channel) for _ in range(size)]
        self._selector = selectors.DefaultSelector()
        for websocket in self._websockets:
            self._selector.register(websocket, selectors.EVENT_READ)

    def send(self) -> str:
        """Send a message, and wait until all have it."""
        text = f"{self._channel}-{len(self._committed)}"
        self._arrivals[text] = {}
        self._committed[text] = self.server.sender.send(self._channel, text)
        if self._is_delivering:
            self._read(PATIENCE, lambda: len(self._arrivals[text]) == self._size)
            self._read(PAUSE, lambda: False)
            self._is_delivering = bool(self._arrivals[text])
        return text

    def send_counted(self, messages: int) -> None:
        """Send messages of which the latency counts."""
        self.send()
        self._counted += [self.send() for _ in range(messages)]

    def _read(self, seconds: float, until: Callable[[], bool]) -> None:
        """Read for some time, or until a condition holds."""
        end = time.monotonic() + seconds
        while not until() and (rest := end - time.monotonic()) > 0:
            ready = self._selector.select(rest)
            now = time.monotonic()
            for key, _ in ready:
                for text in key.fileobj.read():
                    self._arrivals[text].setdefault(key.fileobj, now)

    def close(self) -> dict[str, Any]:
        """Wait for what is still missing, and return the figures."""
        self._read(
            LAST_CHANCE,
            lambda: all(len(each) == self._size for each in self._arrivals.values()),
        )
        self._selector.close()
        for websocket in self._websockets:
            websocket.close()
        latencies = [
            (arrival - self._committed[text]) * 1000
            for text in self._counted
            for arrival in self._arrivals[text].values()
        ]
        return {
            "contender": self.server.contender.name,
            "clients": self._size,
            "expected": len(self._counted) * self._size,
            "delivered": len(latencies),
            "p50_ms": percentile(latencies, 50),
            "p99_ms": percentile(latencies, 99),
        }


class Server:
    """A contender's Odoo, with a user who is logged in and a sender."""

    def __init__(self, stack: Stack, contender: Contender, **options: Any) -> None:
        self.contender = contender
        self.odoo = stack.odoo(
            contender.database,
            addon=contender.addon,
            direct=contender.direct,
            **{"args": ["--max-cron-threads=0"], **options},
        )
        self.sender = Sender(stack, contender.database, not contender.direct)

    def __enter__(self) -> Server:
        self.odoo.start()
        self.user = User(self.odoo, self.contender.database)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sender.close()
        self.odoo.stop()

    def subscribe(self, channel: str) -> Websocket:
        return self.user.subscribe(channel)

    def processes(self) -> list[psutil.Process]:
        process = psutil.Process(self.odoo.pid)
        return [process, *process.children(recursive=True)]


@contextlib.contextmanager
def suspended(servers: Iterable[Server]) -> Iterator[None]:
    processes = [process for server in servers for process in server.processes()]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def take_turns(servers: list[Server], number: int) -> list[dict[str, Any]]:
    """Measure a round: every number of clients on every server."""
    figures = []
    for clients, (turns, messages) in TURNS.items():
        audiences = [
            Audience(server, f"{number}-{clients}", clients) for server in servers
        ]
        for audience in audiences:
            for _ in range(WARM_UP):
                audience.send()
        for turn in range(turns):
            # Each time, another one is the first.
            first = (number + turn) % len(audiences)
            for audience in audiences[first:] + audiences[:first]:
                others = [each for each in servers if each is not audience.server]
                with suspended(others):
                    audience.send_counted(messages)
        figures += [{"round": number, **audience.close()} for audience in audiences]
    return figures


def fetch_times(conn: connection, count: int) -> list[float]:
    """Fetch as a websocket does, again and again; return the milliseconds of each.

    That is DISCARD ALL, BEGIN, SELECT and COMMIT: four round trips.
    """
    times = []
    for _ in range(count):
        start = time.monotonic()
        borrow(conn)
        with conn, conn.cursor() as cr:
            cr.execute(
                "SELECT id, message FROM bus_bus WHERE channel IN (%s)"
                " AND id > (SELECT max(id) - 1 FROM bus_bus) ORDER BY id",
                ["[]"],
            )
            cr.fetchall()
        times.append((time.monotonic() - start) * 1000)
    return times


def measure_fetch(stack: Stack, database: str) -> dict[str, float]:
    """Return the median of a fetch, directly and through PgBouncer."""
    times: dict[str, list[float]] = {"direct_ms": [], "pooled_ms": []}
    for _ in range(FETCH_TURNS):
        for name, values in times.items():
            pooled = name == "pooled_ms"
            with contextlib.closing(stack.connect(database, pooled=pooled)) as conn:
                fetch_times(conn, 1)
                values += fetch_times(conn, FETCHES)
    return {name: median(values) for name, values in times.items()}


def allow_connections(stack: Stack) -> None:
    [(current,)] = stack.execute("SHOW max_connections")
    if int(current) < MAX_CONNECTIONS:
        stack.execute(f"ALTER SYSTEM SET max_connections = {MAX_CONNECTIONS}")
        stack.postgres.stop()
        stack.postgres.start()


def measure(stack: Stack, rounds: int) -> dict[str, Any]:
    """Measure every contender in every round."""
    allow_connections(stack)
    with step("Creating the databases"):
        for contender in CONTENDERS:
            stack.create_database(contender.database)
    turns: list[dict[str, Any]] = []
    fetches: list[dict[str, Any]] = []
    with contextlib.ExitStack() as running:
        with step("Starting an Odoo for each contender"):
            servers = [
                running.enter_context(Server(stack, contender))
                for contender in CONTENDERS
            ]
        for number in range(rounds):
            with step(f"Delivery, round {number + 1} of {rounds}"):
                turns += take_turns(servers, number)
                with suspended(servers):
                    fetch = measure_fetch(stack, CONTENDERS[0].database)
                fetches.append({"round": number, **fetch})
    return {
        "contenders": {each.name: each.title for each in CONTENDERS},
        "turns": turns,
        "fetches": fetches,
    }
