"""What the figures were measured on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess

import psycopg2
from stack import Stack


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
