"""The addon's listening loop alone, against the least that psycopg2 can do.

It tells what the loop itself costs, which the latency of a whole Odoo would hide. No
Odoo runs here: what the loop consists of needs none, and wakes a stand-in for a
websocket. Sender and loop share one thread, so that no round trip holds a wait for the
interpreter's lock. No canary is sent, for that has a thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import selectors
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from statistics import median
from types import SimpleNamespace
from typing import Any

import psutil
import psycopg2
from provision import step
from psycopg2.extensions import connection, cursor
from stack import Stack

from listening.listener import Listener
from listening.settings import Settings
from listening.state import State
from models.websockets import Websockets

from .figures import percentile

LOOPS = {
    "raw": "select, poll and pop",
    "ours": "Listener and Websockets, up to the wake-up of the websocket",
}

CHANNEL = "imbus"

#: How often each loop's turn comes in a round, and the round trips in each turn. Each
#: has a connection of its own: much depends on where the kernel puts its backend.
TURNS, ROUND_TRIPS = 20, 100

#: How often each loop drains a flood in a round, the transactions in it, and the
#: notifications in each of them.
FLOODS, TRANSACTIONS, PER_TRANSACTION = 3, 100, 1000

#: Notifications between two looks at the memory.
SAMPLE_EVERY = 100_000


class RawLoop:
    """The least that a loop can be."""

    def __init__(self, params: dict[str, str]) -> None:
        self._params = params

    def round_trips(self, notify: Callable[[], None], count: int) -> list[float]:
        """Return the seconds from sending NOTIFY to its receipt, so many times."""
        times = []
        with self._listening() as (conn, selector):
            for _ in range(count):
                start = time.monotonic()
                notify()
                while not conn.notifies:
                    selector.select()
                    conn.poll()
                conn.notifies.pop()
                times.append(time.monotonic() - start)
        return times

    def drain(self, flood: Callable[[], None], count: int) -> float:
        """Return the seconds to read and parse so many notifications at once."""
        with self._listening() as (conn, selector):
            flood()
            start = time.monotonic()
            while count:
                selector.select()
                conn.poll()
                while conn.notifies:
                    json.loads(conn.notifies.pop().payload)
                    count -= 1
            return time.monotonic() - start

    @contextlib.contextmanager
    def _listening(self) -> Iterator[tuple[connection, selectors.BaseSelector]]:
        with (
            contextlib.closing(psycopg2.connect(**self._params)) as conn,
            conn.cursor() as cr,
            selectors.DefaultSelector() as selector,
        ):
            conn.autocommit = True
            cr.execute(f"LISTEN {CHANNEL}")
            selector.register(conn, selectors.EVENT_READ)
            yield conn, selector


class OurLoop:
    """The addon's, waking one websocket that has subscribed to partner 3."""

    def __init__(self, params: dict[str, str]) -> None:
        self._params = params
        self._woken = 0.0
        self._state = State(logging.getLogger(__name__), CHANNEL, "")
        channels = {("db", "res.partner", 3): {self}}
        dispatcher = SimpleNamespace(_channels_to_ws=channels)
        # as of Odoo's own module, which only Odoo can import
        known = SimpleNamespace(key=tuple, has_websockets=True)
        self._websockets = Websockets(known, dispatcher, self._state)

    def trigger_notification_dispatching(self) -> None:
        """What the dispatcher calls on a websocket."""
        self._woken = time.monotonic()

    def run(
        self, on_listening: Callable[[], None], is_enough: Callable[[int], bool]
    ) -> None:
        """Run it until there were enough notifications."""
        count = 0

        def on_notifications(payloads: list[str]) -> None:
            nonlocal count
            self._websockets.notify(payloads)
            count += len(payloads)
            if is_enough(count):
                listener.stop()

        listener = Listener(
            Settings(self._params, {}, 0, True),
            on_notifications,
            on_listening,
            self._state,
        )
        listener.run()

    def round_trips(self, notify: Callable[[], None], count: int) -> list[float]:
        times = []
        start = 0.0

        def send() -> None:
            nonlocal start
            start = time.monotonic()
            notify()

        def receive(received: int) -> bool:
            times.append(self._woken - start)
            if received < count:
                send()
            return received == count

        self.run(send, receive)
        return times

    def drain(self, flood: Callable[[], None], count: int) -> float:
        start = end = 0.0

        def send() -> None:
            nonlocal start
            flood()
            start = time.monotonic()

        def receive(received: int) -> bool:
            nonlocal end
            end = time.monotonic()
            return received == count

        self.run(send, receive)
        return end - start


def flood(cr: cursor, first: int, count: int) -> None:
    """Send notifications in one transaction.

    They differ, since PostgreSQL sends only one of those that are alike.
    """
    cr.execute(
        'SELECT pg_notify(%s, format(\'[["db","res.partner",%%s]]\', number))'
        " FROM generate_series(%s, %s) AS number",
        [CHANNEL, first, first + count - 1],
    )


@contextlib.contextmanager
def sending(stack: Stack) -> Iterator[cursor]:
    """A cursor of which each statement is a transaction."""
    with contextlib.closing(stack.connect("postgres")) as conn, conn.cursor() as cr:
        conn.autocommit = True
        yield cr


def measure_loops(stack: Stack, rounds: int) -> dict[str, Any]:
    """Measure both loops in every round."""
    params = stack.params("postgres", role="odoo_listen")
    loops = {"raw": RawLoop(params), "ours": OurLoop(params)}
    turns = []
    with (
        step("The listening loop alone"),
        sending(stack) as cr,
    ):

        def notify() -> None:
            cr.execute(
                "SELECT pg_notify(%s, %s)", [CHANNEL, '[["db","res.partner",3]]']
            )

        def send_all() -> None:
            for _ in range(TRANSACTIONS):
                flood(cr, 1, PER_TRANSACTION)

        for number in range(rounds):
            times: dict[str, list[float]] = {name: [] for name in loops}
            for _ in range(TURNS):
                for name, loop in loops.items():
                    times[name] += loop.round_trips(notify, ROUND_TRIPS)
            count = TRANSACTIONS * PER_TRANSACTION
            drains: dict[str, list[float]] = {name: [] for name in loops}
            for _ in range(FLOODS):
                for name, loop in loops.items():
                    drains[name].append(count / loop.drain(send_all, count))
            turns += [
                {
                    "round": number,
                    "loop": name,
                    "p50_us": percentile(times[name], 50) * 1e6,
                    "p99_us": percentile(times[name], 99) * 1e6,
                    "drained_per_s": median(drains[name]),
                }
                for name in loops
            ]
    return {"loops": LOOPS, "turns": turns}


def listen_and_report(params: dict[str, str], total: int, pipe: Connection) -> None:
    """Run our loop in a process of its own; send its memory's size now and then."""
    process = psutil.Process()
    due = SAMPLE_EVERY

    def is_enough(count: int) -> bool:
        nonlocal due
        if count >= due:
            due += SAMPLE_EVERY
            pipe.send(process.memory_info().rss)
        return count == total

    OurLoop(params).run(lambda: pipe.send(None), is_enough)


def measure_memory(stack: Stack, notifications: int) -> dict[str, Any]:
    """Return the memory after every so many notifications, a warm-up before them."""
    total = notifications + SAMPLE_EVERY
    context = multiprocessing.get_context("spawn")
    receiver, pipe = context.Pipe(duplex=False)
    process = context.Process(
        target=listen_and_report,
        args=[stack.params("postgres", role="odoo_listen"), total, pipe],
        daemon=True,
    )
    samples = []
    with step(f"Memory, {notifications:,} notifications"), sending(stack) as cr:
        process.start()
        pipe.close()
        receiver.recv()
        for first in range(1, total, SAMPLE_EVERY):
            flood(cr, first, SAMPLE_EVERY)
            samples.append(
                {
                    "notifications": first - 1,
                    "rss_bytes": receiver.recv(),
                }
            )
        process.join()
    return {"samples": samples}
