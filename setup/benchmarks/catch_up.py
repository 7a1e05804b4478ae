"""What it costs to catch up: many websockets, of which few have missed something.

Their messages are committed without a NOTIFY, as if the listening connection had been
away. Then it is: its backend is terminated, and whoever has mail must be found. Beside
that stands the obvious way, to have all of them look: a NOTIFY on the channel that
every websocket has.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import selectors
import time
from collections.abc import Callable
from typing import Any

from provision import step
from stack import Stack

from .delivery import User, Websocket

WEBSOCKETS, WITH_MAIL = 1000, 10

#: Seconds to wait for the messages that were missed, and without any query after which
#: there will be none.
PATIENCE, QUIET = 60.0, 2.0

#: Seconds between two losses of the connection: after a shorter one the listener
#: would wait before it connects again.
PAUSE = 17.0

DATABASE = "bench_catch_up"

#: A statement in PostgreSQL's log, with the lines that continue it.
STATEMENT = re.compile(r"LOG:  statement: (.*(?:\n\t.*)*)")

#: For the evented worker: 1,000 websockets are within its limits, but those are not
#: what is measured here.
ARGS = ["--max-cron-threads=0", "--limit-memory-soft=0", "--limit-memory-hard=0"]


class Crowd:
    """The websockets, each on a channel of its own, read by one loop."""

    def __init__(self, stack: Stack, user: User) -> None:
        self._stack = stack
        self._websockets = [user.subscribe(f"own-{i}") for i in range(WEBSOCKETS)]
        self._selector = selectors.DefaultSelector()
        for websocket in self._websockets:
            self._selector.register(websocket, selectors.EVENT_READ)
        self._count = 0
        self._missing: set[tuple[Websocket, str]] = set()

    def close(self) -> None:
        self._selector.close()
        for websocket in self._websockets:
            websocket.close()

    def measure(self, way: str, act: Callable[[Stack], None]) -> dict[str, Any]:
        """Commit messages for some, act, and see what that leads to."""
        self._commit()
        log = self._stack.postgres.log
        offset = log.stat().st_size
        start = time.monotonic()
        act(self._stack)
        self.read(PATIENCE, lambda: not self._missing)
        seconds = time.monotonic() - start
        queries = 0
        while queries < (found := count_queries(log.read_text()[offset:])):
            queries = found
            self.read(QUIET)
        return {
            "way": way,
            "seconds": None if self._missing else seconds,
            "queries": queries,
        }

    def read(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Read for some time, or until a condition holds."""
        end = time.monotonic() + seconds
        while not until() and (rest := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(rest):
                for text in key.fileobj.read():
                    self._missing.discard((key.fileobj, text))

    def _commit(self) -> None:
        """Commit a message for every so manieth websocket, without NOTIFY."""
        self._count += 1
        with contextlib.closing(self._stack.connect(DATABASE)) as conn:
            with conn, conn.cursor() as cr:
                for i in range(0, WEBSOCKETS, WEBSOCKETS // WITH_MAIL):
                    text = f"missed-{self._count}-{i}"
                    self._missing.add((self._websockets[i], text))
                    cr.execute(
                        "INSERT INTO bus_bus (channel, message, create_date)"
                        " VALUES (%s, %s, now() AT TIME ZONE 'UTC')",
                        [
                            json.dumps([DATABASE, f"own-{i}"], separators=(",", ":")),
                            json.dumps({"type": "bench", "payload": text}),
                        ],
                    )


def count_queries(log: str) -> int:
    """Return how many statements on the bus table PostgreSQL has logged."""
    return sum("bus_bus" in found[1] for found in STATEMENT.finditer(log))


def terminate_listener(stack: Stack) -> None:
    [(terminated,)] = stack.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'bus_alt_connection-%'"
    )
    assert terminated


def wake_all(stack: Stack) -> None:
    stack.execute(f"SELECT pg_notify('imbus', '[[\"{DATABASE}\",\"broadcast\"]]')")


WAYS = {
    "the listening backend is terminated": terminate_listener,
    "all are woken by a NOTIFY": wake_all,
}


def allow_files(wanted: int) -> int:
    """Allow so many files if we may, and return how many are allowed.

    For ourselves, and for the Odoo that we start.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def measure(stack: Stack, rounds: int) -> dict[str, Any]:
    """Measure both ways in every round, on the same websockets."""
    # Odoo has three for each websocket.
    allow_files(4 * WEBSOCKETS)
    stack.create_database(DATABASE)
    stack.execute(f"ALTER DATABASE {DATABASE} SET log_statement = 'all'")
    turns = []
    with contextlib.ExitStack() as running:
        server = running.enter_context(stack.odoo(DATABASE, args=ARGS))
        with step(f"Opening {WEBSOCKETS:,} websockets"):
            crowd = Crowd(stack, User(server, DATABASE))
            running.callback(crowd.close)
        # The first reading of a table wakes all: nothing is known of what was there.
        with step("Catching up for the first time"):
            crowd.read(PAUSE)
            terminate_listener(stack)
        for number in range(rounds):
            with step(f"Catching up, round {number + 1} of {rounds}"):
                crowd.read(PAUSE)
                for way, act in WAYS.items():
                    figures = crowd.measure(way, act)
                    turns.append({"round": number, **figures})
    return {"websockets": WEBSOCKETS, "with_mail": WITH_MAIL, "turns": turns}
