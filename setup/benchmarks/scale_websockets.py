"""10 to 5,000 websockets: a message to one of them, and one to all.

Stock Odoo at PostgreSQL itself and ours behind PgBouncer stand side by side and take
turns, with the settings of setup/odoo.conf and setup/pgbouncer.ini; and ours without
PgBouncer, which tells what is the addon's and what the pooler's. All clients are in
this process, in one loop, whose CPU time is told as well: it has the same CPUs.

Those are kept from sleeping, so that what is measured is the servers; a message to one
is sent once more without that.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import websocket
from provision import step
from stack import Stack

from .catch_up import ARGS, allow_files
from .delivery import CONTENDERS, PAUSE, Server, Websocket, suspended
from .figures import MIB, Figures, percentile
from .machine import awake_cpus
from .scale_usage import cpu_seconds

STOCK, _, OURS, DIRECT = CONTENDERS


#: Messages to one of them in each turn, each to another one. In a round each contender
#: has two turns, between which it is suspended for less than the 15 s in which Odoo
#: wants to have pings answered.
TO_ONE = 100


@dataclass(frozen=True)
class Size:
    """How many websockets, and what a round is with so many."""

    websockets: int
    rounds: int
    to_all: int

    @property
    def files(self) -> int:
        """Files that a process has open: Odoo three for each websocket, we one for
        each of any contender's, and the connections and sources beside them."""
        return 3 * self.websockets + 500


SIZES = (Size(10, 20, 3), Size(100, 20, 2), Size(1000, 10, 1), Size(5000, 2, 1))

#: In a quick run: the smallest, and one round.
QUICK_SIZES, QUICK_ROUNDS = 2, 1

#: Up to so many the other one is suspended meanwhile. With more, its pings would not be
#: answered within Odoo's 15 s while a message goes to all.
SUSPENDED_UP_TO = 1000

#: Seconds until everybody must have a message: Odoo takes some 3 ms for each.
PATIENCE = 120.0

#: For all of them.
EVERYBODY = "everybody"


class Crowd:
    """The websockets of one server: each has a channel of its own, and all have one."""

    def __init__(self, server: Server, clients: Clients) -> None:
        self.server = server
        self.websockets: list[Websocket] = []
        self._clients = clients
        self._process = evented(server)
        self._numbers = itertools.count()
        # For an id of a last message, which those who have been here before know.
        server.sender.send("nobody", "")

    def grow(self, size: int) -> None:
        """Open as many as are missing, by users who have been here before.

        Others would get what was sent within the last minute.
        """
        last = self.server.sender.last_id()
        while len(self.websockets) < size:
            own = f"own-{len(self.websockets)}"
            found = self.server.user.subscribe(own, EVERYBODY, last=last)
            self.websockets.append(found)
            self._clients.add(found)
            self._clients.read(0.0)

    def send(self, channel: str, expected: list[Websocket]) -> tuple[list[float], int]:
        """Send a message; return the ms until each had it, and how many should have."""
        text = f"{channel}-{next(self._numbers)}"
        arrivals = self._clients.await_text(text, expected)
        committed = self.server.sender.send(channel, text)
        self._clients.read(PATIENCE, lambda: not self._clients.awaited)
        self._clients.read(PAUSE)
        return [(at - committed) * 1000 for at in arrivals.values()], len(expected)

    def turn(self) -> Figures:
        """Send to some of them, each by itself; return the figures."""
        self.send(EVERYBODY, self.websockets)
        step_ = max(len(self.websockets) // TO_ONE, 1)
        chosen = [(step_ * i) % len(self.websockets) for i in range(TO_ONE)]
        return self._measure([(f"own-{i}", [self.websockets[i]]) for i in chosen])

    def awake_turn(self, size: Size) -> Figures:
        """Send to some, each by itself, and to all, while the CPUs do not sleep."""
        with awake_cpus() as awake:
            return {
                "awake": awake,
                "one": self.turn(),
                "all": self._measure([(EVERYBODY, self.websockets)] * size.to_all),
                "mib": psutil.Process(self._process).memory_info().rss / MIB,
            }

    def _measure(self, messages: list[tuple[str, list[Websocket]]]) -> Figures:
        """Send messages; return their latencies, and what CPU time they took."""
        times: list[float] = []
        expected = 0
        server, clients = cpu_seconds(self._process), time.process_time()
        for channel, audience in messages:
            found, count = self.send(channel, audience)
            times += found
            expected += count
        server = cpu_seconds(self._process) - server
        clients = time.process_time() - clients
        thousands = max(len(times), 1) / 1000
        return {
            "expected": expected,
            "delivered": len(times),
            "p50_ms": percentile(times, 50),
            "p99_ms": percentile(times, 99),
            "worst_ms": max(times, default=None),
            "evented_cpu_s": server / thousands,
            "clients_cpu_s": clients / thousands,
        }


class Clients:
    """The loop that reads them all."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._websockets: list[Websocket] = []
        self._text = ""
        self._arrivals: dict[Websocket, float] = {}
        self._closed: set[Websocket] = set()
        #: who may still get the text
        self.awaited: set[Websocket] = set()

    @property
    def closed(self) -> int:
        """How many Odoo has closed."""
        return len(self._closed)

    def add(self, found: Websocket) -> None:
        self._selector.register(found, selectors.EVENT_READ)
        self._websockets.append(found)

    def close(self) -> None:
        self._selector.close()
        for each in self._websockets:
            # without the 3 s in which Odoo may say goodbye
            each.drop()

    def await_text(
        self, text: str, audience: list[Websocket]
    ) -> dict[Websocket, float]:
        """Return what gets the time at which each of an audience has had a text."""
        self._text, self._arrivals = text, {}
        self.awaited = set(audience) - self._closed
        return self._arrivals

    def read(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Read what has come; for some time, or until a condition holds."""
        end = time.monotonic() + seconds
        while not until():
            left = end - time.monotonic()
            ready = self._selector.select(max(left, 0.0))
            now = time.monotonic()
            for key, _ in ready:
                self._read(key, now)
            if left <= 0:
                return

    def _read(self, key: selectors.SelectorKey, now: float) -> None:
        try:
            if self._text in key.fileobj.read():
                self._arrivals.setdefault(key.fileobj, now)
                self.awaited.discard(key.fileobj)
        except (AssertionError, OSError, websocket.WebSocketException):
            # Odoo has closed it: what does not come to it any more is missing.
            self._selector.unregister(key.fd)
            self._closed.add(key.fileobj)
            self.awaited.discard(key.fileobj)


def evented(server: Server) -> int:
    """Return the id of the process that has the websockets."""
    return next(each.pid for each in server.processes() if "gevent" in each.cmdline())


def take_turns(crowds: list[Crowd], size: Size) -> list[Figures]:
    """Measure every round with so many websockets on every server."""
    turns = []
    for number in range(size.rounds):
        # Each time, another one is the first.
        first = number % len(crowds)
        order = crowds[first:] + crowds[:first]
        found: dict[str, Figures] = {}
        for crowd in order:
            with alone(crowd, crowds):
                found[crowd.server.contender.name] = crowd.awake_turn(size)
        for crowd in order:
            with alone(crowd, crowds):
                found[crowd.server.contender.name]["one_asleep"] = crowd.turn()
        turns += [
            {
                "websockets": size.websockets,
                "round": number,
                "contender": name,
                **figures,
            }
            for name, figures in found.items()
        ]
    return turns


def alone(crowd: Crowd, crowds: list[Crowd]) -> contextlib.AbstractContextManager:
    """Suspend the other servers, if so many websockets allow that."""
    is_allowed = len(crowd.websockets) <= SUSPENDED_UP_TO
    return suspended(
        [each.server for each in crowds if each is not crowd and is_allowed]
    )


def sizes(quick: bool) -> tuple[list[Size], list[str]]:
    """Return those that can be, and why others cannot."""
    wanted = [*SIZES[:QUICK_SIZES]] if quick else [*SIZES]
    if quick:
        wanted = [Size(each.websockets, QUICK_ROUNDS, each.to_all) for each in wanted]
    allowed = allow_files(wanted[-1].files)
    possible = [each for each in wanted if each.files <= allowed]
    skipped = [
        f"{each.websockets:,} websockets: {allowed:,} open files are allowed (ulimit"
        f" -Hn), and Odoo needs {each.files:,}"
        for each in wanted[len(possible) :]
    ]
    return possible, skipped


def measure(stack: Stack, quick: bool) -> Figures:
    possible, skipped = sizes(quick)
    turns: list[Figures] = []
    opened: list[Figures] = []
    contenders = (STOCK, OURS, DIRECT)
    for contender in contenders:
        stack.create_database(contender.database)
    with contextlib.ExitStack() as running:
        with step("Starting stock Odoo, ours, and ours without PgBouncer"):
            servers = [
                running.enter_context(Server(stack, each, args=ARGS))
                for each in contenders
            ]
        clients = Clients()
        running.callback(clients.close)
        crowds = [Crowd(server, clients) for server in servers]
        for size in possible:
            for crowd in crowds:
                name = crowd.server.contender.title
                with step(f"Opening {size.websockets:,} websockets, {name}"):
                    crowd.grow(size.websockets)
            with step(f"Messages to {size.websockets:,} websockets"):
                closed = clients.closed
                turns += take_turns(crowds, size)
            opened.append(
                {"websockets": size.websockets, "closed": clients.closed - closed}
            )
    return {
        "contenders": {each.name: each.title for each in contenders},
        "turns": turns,
        "opened": opened,
        "skipped": skipped,
    }
