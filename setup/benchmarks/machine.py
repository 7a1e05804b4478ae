"""What the figures were measured on."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import struct
import subprocess
from collections.abc import Iterator

import psycopg2
from stack import Stack

#: Whoever has it open tells the kernel how many microseconds it may take to wake a CPU.
CPU_LATENCY = "/dev/cpu_dma_latency"


def facts(stack: Stack) -> dict[str, str | int]:
    [(postgresql,)] = stack.execute("SHOW server_version")
    pgbouncer = subprocess.run(
        [stack.environment.pgbouncer, "--version"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    odoo = stack.odoo("none", addon=None).check("--version").split()
    libpq = psycopg2.extensions.libpq_version()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
        "system": platform.platform(),
        "cpu": cpu(),
        "cpus": os.cpu_count() or 0,
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "postgresql": postgresql.split()[0],
        "pgbouncer": pgbouncer[1],
        "psycopg2": psycopg2.__version__.split()[0],
        "libpq": f"{libpq // 10000}.{libpq % 10000}",
        "odoo": odoo[-1],
    }


def cpu() -> str:
    with open("/proc/cpuinfo") as lines:
        return next(
            (line.split(":")[1].strip() for line in lines if "model name" in line),
            platform.machine(),
        )


@contextlib.contextmanager
def awake_cpus() -> Iterator[bool]:
    """Keep the CPUs from sleeping, if that is allowed; tell whether it is.

    A query through PgBouncer wakes two processes more. Where a CPU that has nothing to
    do is given back to the hypervisor, that costs many times what PgBouncer does.
    """
    try:
        latency = open(CPU_LATENCY, "wb", buffering=0)
    except OSError:
        yield False
        return
    with latency:
        latency.write(struct.pack("i", 0))
        yield True
