"""Two instances that share one PgBouncer, which keeps each of them below its cap."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from odoo_server import CONF, read_options
from ports import HOST
from stack import Stack

from .load import MAX_CONNECTIONS, Counts, Instance, Pooler, burst, restart_with

#: What setup/pgbouncer-two-instances.ini says of them.
CAPPED_MAX_CONNECTIONS = 50

#: Seconds of load: some thousand requests.
LOAD = 15.0

REFUSALS = ("too many clients", "remaining connection slots")


@dataclass(frozen=True)
class Tenant:
    """An instance and its load: more workers, and more requests at once, than its cap.

    That is more workers than the cap allows for; see the file.
    """

    role: str
    cap: int
    workers: int
    clients: int
    databases: tuple[str, ...]


TENANTS = (
    Tenant("odoo_large", 30, 34, 50, ("bench_large_1", "bench_large_2")),
    Tenant("odoo_small", 10, 14, 20, ("bench_small",)),
)


def load_tenants(stack: Stack, direct: bool) -> dict[str, Any]:
    """Load both at once; return what each had and what PostgreSQL refused."""
    log = stack.postgres.log
    offset = log.stat().st_size
    with contextlib.ExitStack() as running:
        port = stack.ports.postgres
        if not direct:
            server = f"* = host={HOST} port={port}"
            conf = "pgbouncer-two-instances.ini"
            pooler = Pooler(stack, "bench_tenants", conf, "[databases]", server)
            port = running.enter_context(pooler).port
        instances = [
            running.enter_context(
                Instance(
                    *(stack, tenant.role, port, list(tenant.databases)),
                    workers=tenant.workers,
                    addon=None if direct else "server-wide",
                )
            )
            for tenant in TENANTS
        ]
        for tenant, instance in zip(TENANTS, instances, strict=True):
            instance.open(tenant.clients)
        with Counts(stack) as counts, ThreadPoolExecutor(len(TENANTS)) as threads:
            bursts = list(threads.map(lambda x: burst(x.clients, LOAD), instances))
        return {
            "direct": direct,
            "max_connections": CAPPED_MAX_CONNECTIONS,
            "most": counts.most_of_all(),
            "listening": counts.most(read_options(CONF)["db_listen_user"]),
            "refusals": sum(map(log.read_text()[offset:].count, REFUSALS)),
            "tenants": [
                {
                    **asdict(tenant),
                    "most": counts.most(tenant.role),
                    **figures,
                    **instance.live(),
                }
                for tenant, figures, instance in zip(
                    TENANTS, bursts, instances, strict=True
                )
            ],
        }


def measure(stack: Stack) -> list[dict[str, Any]]:
    """Measure both ways with a `max_connections` that the caps leave room in."""
    for tenant in TENANTS:
        stack.add_role(tenant.role)
        for database in tenant.databases:
            stack.create_database(database)
    restart_with(stack, CAPPED_MAX_CONNECTIONS)
    try:
        return [load_tenants(stack, direct) for direct in (True, False)]
    finally:
        restart_with(stack, MAX_CONNECTIONS)
