"""What PgBouncer buys: the server connections that PostgreSQL has to keep.

Instances stand side by side, each with a role of its own, by which its connections are
counted in PostgreSQL, and each with a PgBouncer of its own that was started for it.
Their bursts of requests come in turns, so that whatever else the machine does hits all
of them alike.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

import client
import psycopg2
from odoo_server import CONF, read_options
from ports import HOST
from provision import step
from stack import Stack

from . import tenants
from .load import (
    MAX_CONNECTIONS,
    SETTINGS,
    Counts,
    Instance,
    Pooler,
    burst,
    count,
    restart_with,
)

#: Concurrent requests of a burst, and how long they go on. Some hundred requests each,
#: and the pools have grown as far as they will within the first second.
CLIENTS, BURST = 20, 8.0

#: Seconds after the last burst, for the connections that are kept.
QUIET = 60.0

#: Seconds for which requests are begun when the registry was changed: each worker gets
#: one, at once.
RELOAD = 3.0

#: Several, because a machine is fast in one of them and slow in the next.
ROUNDS = 3

#: HTTP workers that are compared, and that the settings are compared with.
WORKERS, SWEEP_WORKERS = (2, 6, 10), 10


@dataclass(frozen=True)
class Contender:
    """An Odoo, and how it reaches PostgreSQL.

    What `settings` leaves out is as in setup/pgbouncer.ini.
    """

    name: str
    title: str
    addon: str | None = "server-wide"
    direct: bool = False
    session_mode: bool = False
    settings: dict[str, float] = field(default_factory=dict)

    @property
    def role(self) -> str:
        """Its role, and the name of its database."""
        return f"bench_connections_{self.name}"


CONTENDERS = (
    Contender("a", "stock Odoo, direct", addon=None, direct=True),
    Contender("b", "addon, PgBouncer"),
    Contender("c", "stock Odoo, PgBouncer, session mode", None, session_mode=True),
)


def variant(name: str, title: str, *values: float, **more: float) -> Contender:
    settings = dict(zip(SETTINGS, values, strict=True))
    return Contender(name, title, settings={**settings, **more})


SWEEP = (
    CONTENDERS[0],
    variant("default", "PgBouncer's defaults", 20, 0, 0, 600),
    variant("size", "a small pool alone", 5, 0, 0, 600),
    variant("time", "a short timeout alone", 20, 0, 0, 30),
    variant("pool8", "both", 8, 0, 0, 30),
    variant("pool3", "both", 3, 0, 0, 30),
    variant("pool2", "both", 2, 0, 0, 30),
    variant("min", "both, and a minimum", 5, 0, 3, 30),
    Contender("file", "both: setup/pgbouncer.ini"),
)

#: PgBouncer's own default of 120 s would only make the measurement longer.
RELOADING = (
    CONTENDERS[0],
    variant("bare", "no reserve", 5, 0, 0, 30, query_wait_timeout=15),
    CONTENDERS[1],
)


def pooler_of(stack: Stack, contender: Contender) -> Pooler:
    server = f"host={HOST} port={stack.ports.postgres}"
    return Pooler(
        stack,
        contender.role,
        "pgbouncer.ini",
        *(f"{name} = {value:g}" for name, value in contender.settings.items()),
        "[databases]",
        f"* = {server}",
        *([f"postgres = {server} pool_mode=session"] * contender.session_mode),
    )


def start(
    stack: Stack, contender: Contender, workers: int, running: contextlib.ExitStack
) -> tuple[Instance, dict[str, float] | None]:
    """Start a contender and its PgBouncer, and have all its workers serve.

    Return it with PgBouncer's settings.
    """
    role = contender.role
    stack.add_role(role)
    stack.create_database(role)
    port, settings = stack.ports.postgres, None
    if not contender.direct:
        pooler = running.enter_context(pooler_of(stack, contender))
        port, settings = pooler.port, pooler.settings()
    instance = Instance(
        *(stack, role, port, [role]),
        workers=workers,
        addon=contender.addon,
        # Its listening connections count as well.
        env={
            "ODOO_DB_LISTEN_USER": role,
            "ODOO_DB_LISTEN_PASSWORD": read_options(CONF)["db_password"],
        },
    )
    running.enter_context(instance)
    instance.open(CLIENTS)
    instance.warm_up()
    return instance, settings


def compare(
    stack: Stack, contenders: tuple[Contender, ...], workers: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the figures of each burst, and of the time before and after all."""
    rests = {}
    instances = {}
    with contextlib.ExitStack() as running:
        superuser = stack.connect("postgres", role="postgres")
        superuser.autocommit = True
        running.callback(superuser.close)
        for contender in contenders:
            instance, settings = start(stack, contender, workers, running)
            instances[contender.name] = instance
            rests[contender.name] = {
                "workers": workers,
                "contender": contender.name,
                "settings": settings,
                "before": wait_idle(superuser, instance.role),
            }
        turns, ended = take_turns(stack, instances)
        for name, end in sorted(ended.items(), key=lambda each: each[1]):
            time.sleep(max(0.0, end + QUIET - time.monotonic()))
            rests[name]["after"] = count(superuser)[instances[name].role]
    return {
        "turns": [{"workers": workers, **turn} for turn in turns],
        "rests": list(rests.values()),
    }


def take_turns(
    stack: Stack, instances: dict[str, Instance]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the figures of each burst, and when each instance's last one ended."""
    turns, ended = [], {}
    names = list(instances)
    for number in range(ROUNDS):
        # Each time, another one is the first.
        for name in names[number:] + names[:number]:
            turn = {"contender": name, "round": number}
            turns.append(turn | burst_counted(stack, instances[name]))
            ended[name] = time.monotonic()
    return turns, ended


def burst_counted(
    stack: Stack, instance: Instance, seconds: float = BURST
) -> dict[str, Any]:
    """Return the figures of a burst, with the most connections at a time."""
    with Counts(stack) as counts:
        figures = burst(instance.clients, seconds)
    return {**figures, "most": counts.most(instance.role)}


def wait_idle(superuser: psycopg2.extensions.connection, role: str) -> int:
    """Wait until no transaction of the role's is open; return its connections."""

    def is_idle() -> bool:
        with superuser.cursor() as cr:
            cr.execute(
                "SELECT bool_and(state = 'idle') FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND usename = %s",
                [role],
            )
            return cr.fetchone()[0]

    client.wait_until(is_idle, f"{role} is idle")
    return count(superuser)[role]


def measure_reload(stack: Stack) -> list[dict[str, Any]]:
    """Return the figures of a burst just after a module was updated.

    Every worker loads the registry anew, then: in a second transaction, while it holds
    the one in which it has found out.
    """
    turns = []
    with contextlib.ExitStack() as running:
        for contender in RELOADING:
            instance, settings = start(stack, contender, SWEEP_WORKERS, running)
            with contextlib.closing(stack.connect(contender.role)) as connection:
                with connection, connection.cursor() as cr:
                    cr.execute("INSERT INTO orm_signaling_registry DEFAULT VALUES")
            turns.append(
                {
                    "contender": contender.name,
                    "title": contender.title,
                    "settings": settings,
                    **burst_counted(stack, instance, RELOAD),
                }
            )
    return turns


def measure(stack: Stack) -> dict[str, Any]:
    restart_with(stack, MAX_CONNECTIONS)
    with step(f"Connections by PgBouncer's settings, {SWEEP_WORKERS} workers"):
        sweep = compare(stack, SWEEP, SWEEP_WORKERS)
    comparison: dict[str, list[dict[str, Any]]] = {"turns": [], "rests": []}
    for workers in WORKERS:
        with step(f"Connections of each contender, {workers} workers"):
            for part, rows in compare(stack, CONTENDERS, workers).items():
                comparison[part] += rows
    with step("Connections while all workers load the registry"):
        reload = measure_reload(stack)
    with step("Connections of two instances with a cap"):
        capped = tenants.measure(stack)
    return {
        "titles": {each.name: each.title for each in (*SWEEP, *CONTENDERS)},
        "sweep": sweep,
        "comparison": comparison,
        "reload": reload,
        "tenants": capped,
    }
