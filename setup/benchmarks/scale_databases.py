"""One instance, many databases in use: what it holds of the pool, and how late it is.

The addon's own listener and poller, without Odoo, on databases with a bus table.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterator

import client
from many import bus_databases
from ports import free_ports
from provision import step
from stack import Stack

from listening.poller import Poller

from .figures import Figures, percentile
from .scale_instance import Instance

COUNTS = (1, 10, 60, 120, 500)
QUICK_COUNTS = (1, 60)

PREFIX = "scale_"

#: While NOTIFY arrives a database is read every 5 minutes, which is watched so many
#: times as fast.
SPEED, QUICK_SPEED = 10, 30

#: Seconds for which PgBouncer keeps a server connection, as in setup/pgbouncer.ini; and
#: between two of its looks at them, which are as fast as ever.
IDLE_TIMEOUT, LOOK = 30.0, 1 / 3

#: What an administrator may allow the role of Odoo in PgBouncer (max_user_connections):
#: then one to another database is closed for each that is opened beyond it.
CAP = 50

#: In fallback: seconds in which messages are sent, and the databases that get them.
SENDING, SENDERS = 12.0, 20
QUICK_SENDING = 5.0

#: Seconds between two messages, and until the last must have arrived.
PAUSE, PATIENCE = 0.05, 60.0


class Reader:
    """An instance that notes which channels have had news, and when.

    :param is_deaf: whether there is nothing where it is to listen
    """

    def __init__(self, stack: Stack, databases: list[str], is_deaf: bool) -> None:
        self.arrived: dict[str, float] = {}
        self.read: set[str] = set()
        listen = stack.params("postgres", role="odoo_listen")
        if is_deaf:
            [listen["port"]] = free_ports(1)
        pooled = stack.params("postgres", pooled=True)
        self.instance = Instance(listen, pooled, databases, self._on_news)

    def _on_news(self, database: str, channels: set[str] | None) -> None:
        now = time.monotonic()
        if channels is None:
            self.read.add(database)
        for channel in channels or ():
            self.arrived.setdefault(channel, now)


def held(stack: Stack) -> int:
    """Return how many server connections there are to the databases."""
    [(count,)] = stack.execute(
        f"SELECT count(*) FROM pg_stat_activity WHERE datname LIKE '{PREFIX}%'"
        " AND usename = 'odoo'"
    )
    return count


@contextlib.contextmanager
def setting(stack: Stack, name: str, value: float, usual: float) -> Iterator[None]:
    """Have PgBouncer use another value in the `with` block."""
    stack.console(f"SET {name} = '{value:g}'")
    try:
        yield
    finally:
        stack.console(f"SET {name} = '{usual:g}'")


@contextlib.contextmanager
def hurried(stack: Stack, instance: Instance, speed: float) -> Iterator[Poller]:
    """Have an idle instance's time pass so many times as fast."""
    poller = instance.poller
    poller.SAFETY_INTERVAL = Poller.SAFETY_INTERVAL / speed
    poller.SAFETY_SPACING = Poller.SAFETY_SPACING / speed
    timeout = IDLE_TIMEOUT / speed - LOOK
    with setting(stack, "server_idle_timeout", timeout, IDLE_TIMEOUT):
        yield poller


def watch_idle(stack: Stack, databases: list[str], speed: float) -> int:
    """Return the most server connections held at a time while NOTIFY arrives."""
    reader = Reader(stack, databases, is_deaf=False)
    with hurried(stack, reader.instance, speed) as poller, reader.instance:
        client.wait_until(
            lambda: reader.instance.state.is_listening, "it listens", PATIENCE
        )
        client.wait_until(
            lambda: reader.read.issuperset(databases), "all are read once", PATIENCE
        )
        # What the first reading of all at once has opened is given back by then. In one
        # interval as many are read again as there is time for.
        time.sleep(2 * IDLE_TIMEOUT / speed)
        end = time.monotonic() + 1.1 * poller.SAFETY_INTERVAL
        most = 0
        while time.monotonic() < end:
            most = max(most, held(stack))
            time.sleep(0.05)
    return most


def measure_fallback(stack: Stack, databases: list[str], seconds: float) -> Figures:
    """Return how late messages are that are read from the tables alone."""
    reader = Reader(stack, databases, is_deaf=True)
    chosen = random.sample(databases, min(SENDERS, len(databases)))
    sent: dict[str, float] = {}
    most = 0
    with contextlib.ExitStack() as opened:
        senders = {
            name: opened.enter_context(contextlib.closing(stack.connect(name)))
            for name in chosen
        }
        opened.enter_context(reader.instance)
        client.wait_until(
            lambda: reader.read.issuperset(databases), "all are read once", PATIENCE
        )
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            name = random.choice(chosen)
            channel = json.dumps([name, len(sent)])
            with senders[name] as conn, conn.cursor() as cr:
                cr.execute("INSERT INTO bus_bus (channel) VALUES (%s)", [channel])
            sent[channel] = time.monotonic()
            most = max(most, held(stack) - len(senders))
            time.sleep(PAUSE)
        with contextlib.suppress(AssertionError):
            client.wait_until(
                lambda: reader.arrived.keys() >= sent.keys(), "all arrive", PATIENCE
            )
    late = [reader.arrived[x] - at for x, at in sent.items() if x in reader.arrived]
    return {
        "sent": len(sent),
        "delivered": len(late),
        "p50_s": percentile(late, 50),
        "worst_s": max(late, default=None),
        "held": most,
    }


def measure(stack: Stack, quick: bool) -> Figures:
    counts = QUICK_COUNTS if quick else COUNTS
    speed = QUICK_SPEED if quick else SPEED
    seconds = QUICK_SENDING if quick else SENDING
    rows = []
    with contextlib.ExitStack() as running:
        with step(f"Creating {max(counts)} small databases"):
            databases = running.enter_context(bus_databases(stack, PREFIX, max(counts)))
        for count in counts:
            chosen = databases[:count]
            with step(f"{count} databases in use, idle"):
                idle = watch_idle(stack, chosen, speed)
            row = {"databases": count, "idle": idle}
            with step(f"{count} databases in use, in fallback"):
                row["fallback"] = measure_fallback(stack, chosen, seconds)
            if count > CAP:
                with (
                    step(f"{count} databases in use, in fallback, {CAP} connections"),
                    setting(stack, "max_user_connections", CAP, 0),
                ):
                    row["capped"] = measure_fallback(stack, chosen, seconds)
            rows.append(row)
    return {"speed": speed, "cap": CAP, "rows": rows}
