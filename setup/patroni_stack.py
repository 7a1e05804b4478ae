"""Patroni with two PostgreSQLs, as people run it: etcd, HAProxy, PgBouncer before it.

Its time constants are the defaults: a primary that has died is replaced after half a
minute. The nodes are 127.0.0.1 and 127.0.0.2, both at the same port, so that one name
can lead to both.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
from basics import SetupError
from engine_stack import EngineStack
from engines import Engines
from haproxy import HAProxy
from ports import HOST, free_ports
from servers import Server
from stack import Stack

ADDRESSES = ("127.0.0.1", "127.0.0.2")

NAME = "postgres.test"
"""What leads to both of them, for those who have our list of hosts."""


class Node:
    """One PostgreSQL with the Patroni that keeps it."""

    def __init__(self, stack: PatroniStack, address: str, rest_port: int) -> None:
        self.address = address
        self.name = address.replace(".", "_")
        self.rest_port = rest_port
        self._stack = stack
        self.data = stack.folder / self.name
        tree = stack.engines.bookworm
        self._patroni = Server(
            "Patroni",
            [*stack.engines.patroni, f"{self.name}.yml"],
            rest_port,
            stack.logs / f"{self.name}.log",
            stack.environment.server_user,
            cwd=stack.folder,
            envvars=tree.python_env,
        )

    def start(self) -> None:
        self._stack.write(f"{self.name}.yml", json.dumps(self._configuration()))
        self._patroni.start()

    def is_running(self) -> bool:
        return self._patroni.running()

    def status(self) -> dict:
        """What Patroni tells of it; nothing if it does not answer."""
        return self._ask("/patroni") or {}

    def switch_to(self, other: Node) -> None:
        """Have the other one become the primary, in an orderly way."""
        self._ask("/switchover", {"leader": self.name, "candidate": other.name})

    def kill(self) -> None:
        """As when the machine dies: at once, and nobody is told."""
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        found = []
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            pid_file = (self.data / "postmaster.pid").read_text()
            found.append(psutil.Process(int(pid_file.split()[0])))
        if self._patroni.running():
            found.append(psutil.Process(self._patroni.process.pid))
        for process in found:
            with contextlib.suppress(psutil.Error):
                for each in [process, *process.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        each.send_signal(number)
        if number == signal.SIGKILL:
            self._patroni.stop()

    def _ask(self, path: str, data: dict | None = None) -> dict | None:
        body = None if data is None else json.dumps(data).encode()
        url = f"http://{HOST}:{self.rest_port}{path}"
        request = urllib.request.Request(url, body)
        # Patroni waits for the end of a switchover.
        timeout = 5 if data is None else 60
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            text = error.read().decode()
        except OSError:
            return None
        try:
            return json.loads(text)
        except ValueError:
            return {"text": text}

    def _configuration(self) -> dict:
        stack = self._stack
        superuser = {"username": "postgres", "password": stack.superuser_password()}
        hba = [
            "host postgres odoo_listen 127.0.0.0/8 scram-sha-256",
            "host all odoo 127.0.0.0/8 scram-sha-256",
            "host all postgres 127.0.0.0/8 scram-sha-256",
            "host replication postgres 127.0.0.0/8 scram-sha-256",
        ]
        return {
            "scope": "e2e",
            "name": self.name,
            "restapi": {
                "listen": f"{HOST}:{self.rest_port}",
                "connect_address": f"{HOST}:{self.rest_port}",
            },
            "etcd3": {"host": f"{HOST}:{stack.etcd_port}"},
            "bootstrap": {
                "dcs": {
                    "ttl": 30,
                    "loop_wait": 10,
                    "retry_timeout": 10,
                    "maximum_lag_on_failover": 1048576,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "use_slots": True,
                        "parameters": {"unix_socket_directories": "", "fsync": "off"},
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"{self.address}:{stack.node_port}",
                "connect_address": f"{self.address}:{stack.node_port}",
                "data_dir": str(self.data),
                "pgpass": str(stack.folder / f"{self.name}.pgpass"),
                "bin_dir": str(stack.environment.postgres_bin),
                "authentication": {"superuser": superuser, "replication": superuser},
                "pg_hba": hba,
            },
        }


class PatroniStack(EngineStack):
    """A stack whose PostgreSQL is the primary of two, by way of HAProxy.

    `ports.postgres` is HAProxy's; the nodes listen at `node_port`.
    """

    def __init__(self, engines: Engines, name: str) -> None:
        super().__init__(engines.environment, name)
        self.engines = engines
        ports = free_ports(5)
        self.node_port, self.etcd_port, etcd_peer_port, *rest_ports = ports
        self.nodes = [
            Node(self, address, port)
            for address, port in zip(ADDRESSES, rest_ports, strict=True)
        ]
        user = self.environment.server_user
        client, peer = (
            f"http://{HOST}:{port}" for port in (self.etcd_port, etcd_peer_port)
        )
        self.etcd = Server(
            "etcd",
            [
                *engines.bookworm.command("usr/bin/etcd"),
                "--name=etcd",
                "--data-dir=etcd",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=etcd={peer}",
            ],
            self.etcd_port,
            self.logs / "etcd.log",
            user,
            cwd=self.folder,
        )
        self.haproxy = HAProxy(self)

    def start(self) -> Stack:
        shutil.rmtree(self.folder, ignore_errors=True)
        return super().start()

    def _prepare_cluster(self) -> None:
        self._superuser_password.touch(mode=0o600)
        self._superuser_password.write_text(secrets.token_urlsafe())

    def _start_cluster(self) -> None:
        self.etcd.start()
        for node in self.nodes:
            node.start()
        self.haproxy.start()
        self.wait_healthy()

    def stop(self) -> None:
        self.pgbouncer.stop()
        self.haproxy.stop()
        for node in self.nodes:
            node.thaw()
            node.kill()
        self.etcd.stop()

    def clusters(self) -> list[Path]:
        return [node.data for node in self.nodes]

    def revive(self) -> None:
        """Start what was killed."""
        for node in self.nodes:
            if not node.is_running():
                node.start()

    def superuser_password(self) -> str:
        return self._superuser_password.read_text()

    def write(self, name: str, text: str) -> None:
        """Write a file that the servers may read, and nobody else."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        self.hand_over(path)

    @property
    def primary(self) -> Node:
        """The node that says it is, and answers by HAProxy."""
        [found] = [n for n in self.nodes if n.status().get("role") in PRIMARY]
        return found

    @property
    def standby(self) -> Node:
        [found] = [node for node in self.nodes if node is not self.primary]
        return found

    def is_healthy(self) -> bool:
        """Whether there is a primary, with a standby that has all of it so far."""
        statuses = [node.status() for node in self.nodes]
        roles = sorted(status.get("role", "") for status in statuses)
        if len(set(roles) & PRIMARY) != 1 or "replica" not in roles:
            return False
        try:
            return [("streaming",)] == self.execute(
                "SELECT state FROM pg_stat_replication WHERE flush_lsn >= sent_lsn"
            )
        except Exception:
            return False

    def wait_healthy(self, seconds: float = 120) -> None:
        _wait(self.is_healthy, seconds, "Patroni has no primary with a standby")

    def reload_haproxy(self) -> None:
        self.haproxy = HAProxy(self, self.haproxy)
        self.haproxy.start()

    def python_with_hosts(self) -> Path:
        """Odoo's interpreter, with an /etc/hosts of its own in which `NAME` is."""
        hosts = self.folder / "hosts"
        hosts.write_text(
            "127.0.0.1 localhost\n" + "".join(f"{x} {NAME}\n" for x in ADDRESSES)
        )
        python = self.folder / "python_with_hosts"
        as_root = "" if os.geteuid() == 0 else "--map-root-user "
        python.write_text(
            "#!/bin/sh\n"
            f"exec unshare {as_root}--mount sh -c 'mount --bind {hosts} /etc/hosts &&"
            f' exec {self.environment.python} "$@"\' sh "$@"\n'
        )
        python.chmod(0o755)
        return python


PRIMARY = {"master", "primary"}
"""What Patroni calls it, before 4.0 and since."""


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SetupError(f"{what}, not within {seconds:.0f} s.")
        time.sleep(0.2)
