"""HAProxy before a Patroni cluster: its port leads to whoever is the primary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
from ports import HOST
from servers import Server

if TYPE_CHECKING:
    from patroni_stack import PatroniStack

CONF = """\
global
    maxconn 300

defaults
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s

listen primary
    bind {host}:{port}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
"""
"""What Patroni's documentation gives."""


class HAProxy(Server):
    """Before the primary of a stack; with `former`, it takes the port over from that.

    Which ends when the last of its connections has.
    """

    def __init__(self, stack: PatroniStack, former: HAProxy | None = None) -> None:
        command = stack.engines.bookworm.command("usr/sbin/haproxy")
        options = ["-f", "haproxy.cfg"]
        if former:
            options += ["-sf", str(former.process.pid)]
        super().__init__(
            "HAProxy",
            [*command, *options],
            stack.ports.postgres,
            stack.logs / "haproxy.log",
            stack.environment.server_user,
            cwd=stack.folder,
        )
        self._stack = stack
        self._former = former

    def start(self) -> Server:
        servers = "".join(
            f"    server {node.name} {node.address}:{self._stack.node_port} maxconn 100"
            f" check port {node.rest_port} addr {HOST}\n"
            for node in self._stack.nodes
        )
        conf = CONF.format(host=HOST, port=self.port) + servers
        self._stack.write("haproxy.cfg", conf)
        return super().start()

    def check_port(self) -> None:
        if not self._former:
            super().check_port()

    def pre_start_check(self) -> bool:
        # Whether it answers; before it runs, only the former one can.
        return bool(self.process or not self._former) and super().pre_start_check()

    def after_start_check(self) -> bool:
        return not self._former_listens() and super().after_start_check()

    def _former_listens(self) -> bool:
        if not self._former or not self._former.process:
            return False
        try:
            process = psutil.Process(self._former.process.pid)
            found = process.net_connections("tcp")
        except psutil.Error:
            return False
        return any(each.status == psutil.CONN_LISTEN for each in found)

    def stop(self, *args: Any, **kwargs: Any) -> Server:
        if self._former:
            self._former.stop()
        return super().stop(*args, **kwargs)
