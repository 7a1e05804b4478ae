"""Which ports the servers get."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from basics import SetupError

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    """Where PostgreSQL and PgBouncer listen, nginx and the Odoo behind it."""

    postgres: int
    pgbouncer: int
    odoo: int
    evented: int
    nginx: int

    @classmethod
    def demo(cls) -> Ports:
        """The ports that are in the configuration files."""
        return cls(25432, 26432, 28069, 28072, 28080)

    @classmethod
    def free(cls) -> Ports:
        return cls(*free_ports(5))

    def check_free(self) -> None:
        """Raise SetupError if something else has one of them."""
        check_free(self.postgres, "PostgreSQL")
        check_free(self.pgbouncer, "PgBouncer")
        check_free(self.odoo, "Odoo")
        check_free(self.evented, "Odoo's evented worker")
        check_free(self.nginx, "nginx")


PORTS = range(20000, 32000)
"""Where to look for free ports.

Below the range that the kernel takes local ports of outgoing connections from: a client
that tries to reach a stopped server there could get connected to itself.
"""


def free_ports(count: int, among: Sequence[int] | None = None) -> list[int]:
    """Ports that nobody listens on, of `PORTS` or others."""
    ports: list[int] = []
    for port in random.sample(among or PORTS, 1000):
        if len(ports) == count:
            break
        if not 25000 <= port < 29000 and _is_free(port):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do, ignore connections in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def check_free(port: int, what: str) -> None:
    if _is_free(port):
        return
    holder = ""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr.port == port
                and connection.pid
            ):
                name = psutil.Process(connection.pid).name()
                holder = f" by {name} (process {connection.pid})"
    raise SetupError(
        f"{what} wants port {port}, which is in use{holder}: stop what uses it and try"
        " again."
    )
