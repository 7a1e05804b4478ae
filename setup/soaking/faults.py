"""What goes wrong, one function each.

A fault lasts until its function returns, and what it has broken is whole again then; or
it raises, because another one was in its way.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import locks
import psutil
import psycopg2
import requests
from client import evented_worker, wait_until
from proxy import Proxy

from soaking.traffic import BROKEN, Sender

LISTENER = "bus_alt_connection-"
"""What the application_name of a listening connection begins with."""

CRON_ALIVE = re.compile(r"Worker WorkerCron \((\d+)\) alive")

RECOVERY = 120
"""Seconds for a process of Odoo's to be there again; generous."""


@dataclass
class Site:
    """What there is to break."""

    stack: Any
    server: Any
    road: Proxy
    is_stock: bool
    senders: dict[str, Sender] = field(default_factory=dict)
    random: random.Random = field(default_factory=random.Random)

    def sql(self, query: str, *args: Any) -> list[tuple]:
        """Execute as superuser, on PostgreSQL itself."""
        conn = self.stack.connect("postgres", role="postgres")
        try:
            conn.autocommit = True
            with conn.cursor() as cr:
                cr.execute(query, args)
                return cr.fetchall() if cr.description else []
        finally:
            conn.close()

    def evented(self) -> psutil.Process:
        """The process that holds the websockets."""
        return evented_worker(self.server)

    def cron_pid(self) -> int:
        """That of the cron worker begun last, of which nothing but the log tells."""
        return int(CRON_ALIVE.findall(self.server.log.read_text())[-1])

    def is_served(self) -> bool:
        """Whether the evented process answers."""
        try:
            url = self.server.evented_url + "/websocket/health"
            # without a database to choose, stock Odoo knows no such page
            return requests.get(url, timeout=5).status_code < 500
        except BROKEN:
            return False


@dataclass(frozen=True)
class Fault:
    """A way to fail.

    - `touches`: parts of the site; two faults that touch the same do not overlap
    - `seconds`: between how many it lasts
    - `blocks`: meanwhile Odoo cannot read the bus table, or has no reason to
    """

    run: Callable[[Site, float], None]
    touches: frozenset[str]
    seconds: tuple[float, float]
    blocks: bool


FAULTS: dict[str, Fault] = {}


def fault(touches: str, *seconds: float, blocks: bool = False) -> Callable:
    """Register a function of a :class:`Site` and of the seconds that it lasts."""

    def register(function: Callable) -> Callable:
        parts = frozenset(touches.split())
        FAULTS[function.__name__] = Fault(function, parts, seconds or (0, 0), blocks)
        return function

    return register


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that are frozen."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


# The listening connection


def listeners(site: Site) -> list[int]:
    found = site.sql(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s",
        f"{LISTENER}%",
    )
    return [pid for (pid,) in found]


@fault("listener")
def listener_terminated(site: Site, seconds: float) -> None:
    for pid in listeners(site):
        site.sql("SELECT pg_terminate_backend(%s)", pid)


# PostgreSQL does not stop while one of its processes is frozen
@fault("listener postgres", 5, 25)
def listener_frozen(site: Site, seconds: float) -> None:
    with stopped(site.random.choice(listeners(site))):
        time.sleep(seconds)


@fault("listener", 3, 25)
def listening_role_shut_out(site: Site, seconds: float) -> None:
    site.sql("ALTER ROLE odoo_listen CONNECTION LIMIT 0")
    try:
        listener_terminated(site, 0)
        time.sleep(seconds)
    finally:
        insist(site, "ALTER ROLE odoo_listen CONNECTION LIMIT -1")


@fault("road", 5, 25)
def road_silent(site: Site, seconds: float) -> None:
    site.road.swallow()
    time.sleep(seconds)
    site.road.reset()


@fault("road", 3, 25)
def road_closed(site: Site, seconds: float) -> None:
    site.road.refuse()
    time.sleep(seconds)
    site.road.accept()


@fault("road", 5, 25)
def road_black_holed(site: Site, seconds: float) -> None:
    site.road.black_hole()
    site.road.swallow()
    time.sleep(seconds)
    site.road.answer()


# PostgreSQL and PgBouncer


def insist(site: Site, query: str) -> list[tuple]:
    """Execute it as soon as PostgreSQL lets us."""
    end = time.monotonic() + RECOVERY
    while True:
        try:
            return site.sql(query)
        except psycopg2.Error:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@fault("postgres", 0, 8, blocks=True)
def postgres_restarted(site: Site, seconds: float) -> None:
    site.stack.postgres.stop()
    time.sleep(seconds)
    site.stack.postgres.start()


@fault("postgres", 2, 7, blocks=True)
def postgres_frozen(site: Site, seconds: float) -> None:
    postmaster = site.stack.postgres.process
    with stopped(
        postmaster.pid, *(p.pid for p in psutil.Process(postmaster.pid).children())
    ):
        time.sleep(seconds)


@fault("backends")
def backends_terminated(site: Site, seconds: float) -> None:
    site.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'odoo'"
    )


@fault("pooler", 0, 8, blocks=True)
def pooler_restarted(site: Site, seconds: float) -> None:
    site.stack.pgbouncer.stop()
    time.sleep(seconds)
    site.stack.pgbouncer.start()


@fault("pooler", 2, 15, blocks=True)
def pooler_frozen(site: Site, seconds: float) -> None:
    with stopped(site.stack.pgbouncer.process.pid):
        time.sleep(seconds)


@fault("table", 3, 30, blocks=True)
def table_locked(site: Site, seconds: float) -> None:
    conn = site.stack.connect(site.random.choice(list(site.senders)), role="postgres")
    try:
        with conn.cursor() as cr:
            cr.execute("LOCK TABLE bus_bus IN ACCESS EXCLUSIVE MODE")
            time.sleep(seconds)
    finally:
        conn.close()


@fault("notify", 3, 30)
def notify_locked(site: Site, seconds: float) -> None:
    with locks.hold_notify_lock(site.stack, functools.partial(insist, site)):
        time.sleep(seconds)


# What is sent


@fault("notify", 3, 20, blocks=True)
def notify_left_out(site: Site, seconds: float) -> None:
    sender = site.random.choice(list(site.senders.values()))
    sender.leaves_notify_out = True
    time.sleep(seconds)
    sender.leaves_notify_out = False


@fault("junk", 1, 10)
def junk(site: Site, seconds: float) -> None:
    conn = site.stack.connect("postgres", role="odoo")
    try:
        conn.autocommit = True
        end = time.monotonic() + seconds
        with conn.cursor() as cr:
            while time.monotonic() < end:
                cr.execute(
                    "SELECT pg_notify(channel, 'junk ' || random())"
                    " FROM unnest(ARRAY['imbus', 'cron_trigger', 'bus_alt_connection'])"
                    " AS channel, generate_series(1, 20)"
                )
                time.sleep(0.1)
    finally:
        conn.close()


# Odoo's processes


@fault("evented", blocks=True)
def evented_killed(site: Site, seconds: float) -> None:
    site.evented().kill()
    wait_until(site.is_served, "the evented process", RECOVERY)


@fault("cron")
def cron_killed(site: Site, seconds: float) -> None:
    killed = site.cron_pid()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: site.cron_pid() != killed, "the cron worker", RECOVERY)
