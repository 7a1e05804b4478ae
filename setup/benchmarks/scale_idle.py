"""What one idle server of Odoo takes, beside stock Odoo: all of its processes.

Prefork, as in setup/odoo.conf: 2 HTTP workers that have served, one cron worker, and
the evented one, with one websocket open.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

import psutil
from provision import step
from stack import Stack

from . import connections
from .connections import CONTENDERS, Contender
from .figures import MIB, Figures
from .load import Instance, count
from .scale_usage import Usage, per_hour

#: HTTP workers, as in setup/odoo.conf.
WORKERS = 2

#: Seconds after the last request, in which PgBouncer gives back what nobody needs and
#: Odoo's workers calm down; and for which both are watched then: a cron worker does
#: something once a minute.
QUIET, WINDOW = 40.0, 120.0
QUICK_QUIET, QUICK_WINDOW = 5.0, 15.0

STOCK, OURS = CONTENDERS[:2]

#: A statement in PostgreSQL's log, with the prefix that is set for it.
STATEMENT = re.compile(r"^role=(\w+) LOG:  (?:statement|execute [^:]*): ", re.MULTILINE)


def kinds(instance: Instance) -> dict[str, list[int]]:
    """Return the ids of a server's processes by what they are.

    The cron worker is the one that was spawned last.
    """
    master = psutil.Process(instance.pid)
    children = sorted(master.children(), key=lambda each: each.create_time())
    workers = [each.pid for each in children if "gevent" not in each.cmdline()]
    return {
        "evented": [each.pid for each in children if "gevent" in each.cmdline()],
        "cron": workers[WORKERS:],
        "http": workers[:WORKERS],
        "master": [master.pid],
    }


@contextlib.contextmanager
def logged(stack: Stack, roles: list[str]) -> Iterator[None]:
    """Have the statements of these roles logged, in sessions that begin from now on."""
    for role in roles:
        stack.add_role(role)
        stack.execute(f"ALTER ROLE {role} SET log_statement = 'all'")
    stack.execute("ALTER SYSTEM SET log_line_prefix = 'role=%u '")
    stack.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        for role in roles:
            stack.execute(f"ALTER ROLE {role} RESET log_statement")
        stack.execute("ALTER SYSTEM RESET log_line_prefix")
        stack.execute("SELECT pg_reload_conf()")


def memory(pids: list[int]) -> float:
    """Return the MiB of processes; what several share counts for a part in each."""
    return sum(psutil.Process(pid).memory_full_info().pss for pid in pids) / MIB


def measure(stack: Stack, quick: bool) -> Figures:
    contenders: tuple[Contender, ...] = (STOCK, OURS)
    roles = [each.role for each in contenders]
    with contextlib.ExitStack() as running:
        running.enter_context(logged(stack, roles))
        instances = {}
        for contender in contenders:
            with step(f"Starting {contender.title}"):
                instances[contender.role], _ = connections.start(
                    stack, contender, WORKERS, running
                )
        with step("Both are idle"):
            time.sleep(QUICK_QUIET if quick else QUIET)
            processes = {role: kinds(found) for role, found in instances.items()}
            usages = {
                role: Usage({kind: (lambda p=pids: p) for kind, pids in found.items()})
                for role, found in processes.items()
            }
            log = stack.postgres.log
            offset = log.stat().st_size
            time.sleep(QUICK_WINDOW if quick else WINDOW)
            used = {role: usage.so_far() for role, usage in usages.items()}
            statements = STATEMENT.findall(log.read_text()[offset:])
        with contextlib.closing(stack.connect("postgres", role="postgres")) as conn:
            counts = count(conn)
        rows = []
        for contender in contenders:
            took = used[contender.role].pop("seconds")
            rows.append(
                {
                    "contender": contender.name,
                    "title": contender.title,
                    "seconds": took,
                    "connections": counts[contender.role],
                    "queries_per_h": per_hour(statements.count(contender.role), took),
                    "processes": {
                        kind: {
                            "count": len(processes[contender.role][kind]),
                            "cpu_s": per_hour(each["cpu_s"], took),
                            "wake_ups": per_hour(each["wake_ups"], took),
                            "mib": memory(processes[contender.role][kind]),
                        }
                        for kind, each in used[contender.role].items()
                    },
                }
            )
    return {"rows": rows}
