"""One Odoo server on a stack: its options, its folders, its commands."""

from __future__ import annotations

import configparser
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basics import SETUP, SetupError
from ports import HOST, free_ports
from servers import OdooServer

if TYPE_CHECKING:
    from stack import Stack

CONF = SETUP / "odoo.conf"
MODULE = "bus_alt_connection"


class Odoo:
    """One Odoo server on the stack.

    - `workers`: 0 is the threaded server, otherwise prefork.
    - `addon`: "server-wide"; "available" is on the addons path and no more, that is to
      be installed in a database; "packaged" is server-wide and not on the addons path,
      since `python` has it; None keeps it away altogether.
    - `python`: the interpreter, if not the environment's.
    - `direct`: db_host and db_port name PostgreSQL, not PgBouncer; with as many cursors
      as Odoo has by default.
    - `preload`: load the databases at start (-d) and serve and schedule no others.
      Without it they are only filtered by name (as in odoo.conf), and a prefork server
      survives an outage of the database.
    - `behind_nginx`: the one that the stack's nginx forwards to.
    - `addons`: further folders of the addons path, with what `args` loads.
    - `conf`: the configuration file, if not the stack's; everything else is put on top
      of it by options.
    - `args`, `env`: further options and environment variables, which win.
    """

    def __init__(
        self,
        stack: Stack,
        databases: list[str],
        *,
        workers: int = 2,
        addon: str | None = "server-wide",
        direct: bool = False,
        preload: bool = True,
        behind_nginx: bool = False,
        addons: Sequence[Path] = (),
        conf: Path | None = None,
        python: Path | None = None,
        args: list[str] | None = None,
        env: dict[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        ports = stack.ports
        self.databases = databases
        http_port, evented_port = free_ports(2)
        if behind_nginx:
            http_port, evented_port = ports.odoo, ports.evented
        series = stack.environment.series
        self.python = python or stack.environment.python
        is_server_wide = addon in ("server-wide", "packaged")
        is_on_path = addon in ("server-wide", "available")
        load = series.server_wide_modules + [MODULE] * is_server_wide
        options = [
            f"--db_host={HOST}",
            f"--db_port={ports.postgres if direct else ports.pgbouncer}",
            f"--http-port={http_port}",
            f"{series.evented_port_option}={evented_port}",
            f"--workers={workers}",
            f"--load={','.join(load)}",
            f"--db-filter=^({'|'.join(map(re.escape, databases))})$",
        ]
        if preload:
            options.append(f"--database={','.join(databases)}")
        if direct and series.has_evented_pool:
            # at PostgreSQL itself each is a backend: Odoo's default, 64
            options.append("--db_maxconn_gevent=0")
        self._set_up(
            stack,
            name or f"odoo_{http_port}",
            conf or stack.conf,
            [*options, *(args or [])],
            [*([stack.environment.addons] if is_on_path else []), *addons],
            {
                "ODOO_DB_LISTEN_HOST": HOST,
                "ODOO_DB_LISTEN_PORT": str(ports.postgres),
                **(env or {}),
            },
            http_port,
            evented_port if workers else None,
        )

    @classmethod
    def demo(cls, stack: Stack) -> Odoo:
        """The server that odoo.conf describes, with nothing on top but folders."""
        self = cls.__new__(cls)
        ports = stack.ports
        self.databases = []
        self.python = stack.environment.python
        addons = [stack.environment.addons]
        conf = stack.conf
        self._set_up(stack, "odoo", conf, [], addons, {}, ports.odoo, ports.evented)
        return self

    def _set_up(
        self,
        stack: Stack,
        name: str,
        conf: Path,
        options: list[str],
        addons: list[Path],
        env: dict[str, str],
        http_port: int,
        evented_port: int | None,
    ) -> None:
        environment = stack.environment
        self.stack = stack
        self.log = stack.logs / f"{name}.log"
        # An earlier run's, on ports that happened to be the same.
        self.log.unlink(missing_ok=True)
        self.url = f"http://{HOST}:{http_port}"
        self.evented_url = f"http://{HOST}:{evented_port or http_port}"
        self.websocket_url = f"ws://{HOST}:{evented_port or http_port}/websocket"
        self.data_dir = stack.folder / "odoo" / name
        addons = [*environment.series.addons, *addons]
        self._addons_path = f"--addons-path={','.join(map(str, addons))}"
        self._options = [f"--config={conf}", f"--data-dir={self.data_dir}", *options]
        if addons:
            self._options.insert(0, self._addons_path)
        env = environment.odoo_env | env
        health = [(http_port, "/web/health")]
        if evented_port:
            health.append((evented_port, "/websocket/health"))
        self.server = OdooServer(
            health,
            not evented_port and not environment.series.has_websockets,
            [self.python, environment.odoo, *self._options],
            http_port,
            self.log,
            timeout=120,
            cwd=stack.folder,
            envvars=env,
        )

    def __enter__(self) -> Odoo:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> Odoo:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.server.start()
        return self

    def stop(self) -> int | None:
        """Stop it with SIGTERM and return its exit status."""
        return self.server.stop().returncode

    @property
    def pid(self) -> int:
        return self.server.process.pid

    def run(self, *args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run Odoo with the server's options to its end, e.g. `--stop-after-init`.

        A first argument without dash is Odoo's command ("shell"). Output, of stderr
        too, is in `stdout` of the result unless `kwargs` (of subprocess.run) differ.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        defaults: dict[str, Any] = {
            "cwd": self.stack.folder,
            "env": self.server.envvars,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
        }
        if "input" not in kwargs:
            defaults["stdin"] = subprocess.DEVNULL
        return subprocess.run(self.command_line(*args), **(defaults | kwargs))

    def command_line(self, *args: str) -> list[str]:
        """Return what `run()` runs."""
        command = [str(self.python), str(self.stack.environment.odoo)]
        if args and not args[0].startswith("-"):
            # The addons path has to come first for a command of an addon.
            if self._addons_path in self._options:
                command.append(self._addons_path)
            command.append(args[0])
            args = args[1:]
        return [*command, *self._options, *args]

    def check(self, *args: str, **kwargs: Any) -> str:
        """`run()` which must succeed; returns the output."""
        result = self.run(*args, **kwargs)
        if result.returncode:
            end = "\n".join(f"    {x}" for x in result.stdout.splitlines()[-15:])
            raise SetupError(
                f"Odoo ended with exit status {result.returncode}. The end of its"
                f" output:\n{end}"
            )
        return result.stdout


def read_options(conf: Path) -> dict[str, str]:
    """What an odoo.conf sets."""
    parser = configparser.RawConfigParser()
    parser.read(conf)
    return dict(parser["options"])
