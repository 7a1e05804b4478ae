"""What idle instances cost a cluster: 1, 10 and 100 of them.

Each NOTIFY wakes all that listen, and each instance sends its own canaries: that is
where a cost could grow with the square of their number.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Iterator

import client
from many import bus_databases
from provision import step
from stack import Stack

from listening.canary import CHANNEL
from listening.poller import Poller

from .figures import Figures
from .scale_instance import OURS, STOCK, STOCK_WAITS, running
from .scale_usage import HOUR, Usage, family, per_hour

COUNTS = (1, 10, 100)
QUICK_COUNTS = COUNTS[:2]

#: Seconds for which they are watched: ours sends a canary in 2.5 to 4 s; stock does
#: something every 50 s.
WINDOWS = {OURS: 60.0, STOCK: 55.0}
QUICK_WINDOW = 15.0

#: Seconds after all listen, for what a start takes: the first reading of the tables,
#: and the first canaries, which all send at once.
SETTLE = 10.0

#: Starting 100 processes takes a while.
PATIENCE = 120.0


class Observer(threading.Thread):
    """One more listener, which counts the canaries of all."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        self._connection = stack.connect("postgres", role="odoo_listen")
        self._connection.autocommit = True
        self._connection.cursor().execute(f"LISTEN {CHANNEL}")
        self._done = threading.Event()
        self.count = 0

    def run(self) -> None:
        while not self._done.is_set():
            select.select([self._connection], [], [], 0.5)
            self._connection.poll()
            self.count += len(self._connection.notifies)
            self._connection.notifies.clear()

    def __enter__(self) -> Observer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._done.set()
        self.join()
        self._connection.close()


def count_queries(stack: Stack) -> int:
    """Return how many queries have gone through PgBouncer so far."""
    with contextlib.closing(stack.connect("pgbouncer", pooled=True)) as console:
        console.autocommit = True
        with console.cursor() as cr:
            cr.execute("SHOW STATS")
            names = [column.name for column in cr.description]
            rows = [dict(zip(names, row, strict=True)) for row in cr.fetchall()]
    return sum(
        int(row["total_query_count"]) for row in rows if row["database"] != "pgbouncer"
    )


@contextlib.contextmanager
def listening(stack: Stack, kind: str, databases: list[str]) -> Iterator[list[int]]:
    """Have so many instances listen; return the ids of their processes."""
    wanted = len(databases) * len(STOCK_WAITS)
    channels = " OR ".join(f"query ILIKE '%{name}%'" for name in STOCK_WAITS)
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'odoo_listen'"
        f" AND query ILIKE 'listen%' AND ({channels})"
    )
    with running(stack, kind, databases) as processes:
        client.wait_until(
            lambda: stack.execute(query) == [(wanted,)],
            f"{len(databases)} instances listen",
            PATIENCE,
        )
        yield [process.pid for process in processes]


def watch(stack: Stack, kind: str, databases: list[str], seconds: float) -> Figures:
    """Watch so many idle instances; return what that takes in an hour."""
    with listening(stack, kind, databases) as processes:
        time.sleep(SETTLE)
        with Observer(stack) as observer:
            queries = count_queries(stack)
            usage = Usage(
                {
                    "instances": lambda: processes,
                    "postgresql": lambda: family(stack.postgres.process.pid),
                    "pgbouncer": lambda: [stack.pgbouncer.process.pid],
                }
            )
            heard = observer.count
            time.sleep(seconds)
            used, heard = usage.so_far(), observer.count - heard
            queries = count_queries(stack) - queries
    took, count = used.pop("seconds"), len(databases)
    hourly = {
        group: {name: per_hour(value, took) for name, value in each.items()}
        for group, each in used.items()
    }
    return {
        "kind": kind,
        "instances": count,
        "seconds": took,
        "notifies_per_h": per_hour(heard, took),
        "queries_per_h": per_hour(queries, took),
        "instance_cpu_s": hourly["instances"]["cpu_s"] / count,
        "instance_wake_ups": hourly["instances"]["wake_ups"] / count,
        "postgresql_cpu_s": hourly["postgresql"]["cpu_s"],
        "postgresql_wake_ups": hourly["postgresql"]["wake_ups"],
        "pgbouncer_cpu_s": hourly["pgbouncer"]["cpu_s"],
    }


@contextlib.contextmanager
def quiet(stack: Stack) -> Iterator[None]:
    """Keep PostgreSQL from what it does by itself: vacuum in 100 databases."""
    stack.execute("ALTER SYSTEM SET autovacuum = off")
    stack.execute("SELECT pg_reload_conf()")
    stack.execute("CHECKPOINT")
    try:
        yield
    finally:
        stack.execute("ALTER SYSTEM RESET autovacuum")
        stack.execute("SELECT pg_reload_conf()")


def measure(stack: Stack, quick: bool) -> Figures:
    counts = QUICK_COUNTS if quick else COUNTS
    rows = []
    with contextlib.ExitStack() as running:
        with step(f"Creating {max(counts)} small databases"):
            databases = running.enter_context(
                bus_databases(stack, "scale_", max(counts))
            )
            running.enter_context(quiet(stack))
        for count in counts:
            for kind, window in WINDOWS.items():
                with step(f"{count} idle instances, {kind}"):
                    seconds = QUICK_WINDOW if quick else window
                    rows.append(watch(stack, kind, databases[:count], seconds))
    # Too rare for the windows: each database is read so often.
    return {"readings_per_h": HOUR / Poller.SAFETY_INTERVAL, "rows": rows}
