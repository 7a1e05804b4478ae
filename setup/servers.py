"""The processes of a stack, supervised by mirakuru: how each starts and stops."""

from __future__ import annotations

import contextlib
import http.client
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mirakuru
import mirakuru.exceptions
import psycopg2
from basics import SETUP, SetupError, tail
from ports import HOST, Ports, check_free

if TYPE_CHECKING:
    from stack import Stack


class Server(mirakuru.TCPExecutor):
    """One process with a port, a log and a clear word when it does not start."""

    def __init__(
        self,
        name: str,
        command: list[str | Path],
        port: int,
        log: Path,
        user: str | None = None,
        timeout: float = 60,
        **kwargs: Any,
    ) -> None:
        as_user = {"user": user, "group": user, "extra_groups": []} if user else {}
        super().__init__(
            [str(part) for part in command],
            HOST,
            port,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            popen_kwargs=as_user,
            **kwargs,
        )
        self.name = name
        self.log = log
        self.returncode: int | None = None
        """Exit status after `stop()`."""

    @property
    def envvars(self) -> dict[str, str]:
        """Ours, without what would reconfigure libpq or Odoo."""
        return {
            name: value
            for name, value in super().envvars.items()
            if name in self._envvars
            or name == "ODOO_PATH"
            or not name.startswith(("PG", "ODOO_"))
        }

    def check_port(self) -> None:
        """Raise SetupError if somebody else has it."""
        check_free(self.port, self.name)

    def start(self) -> Server:
        self.check_port()
        with self.log.open("a") as log:
            self._stdout = log
            try:
                super().start()
            except mirakuru.exceptions.TimeoutExpired:
                reason = f"did not answer within {self._timeout:.0f} s"
            except mirakuru.exceptions.ProcessExitedWithError as error:
                reason = f"ended at once with exit status {error.exit_code}"
            else:
                return self
        raise SetupError(
            f"{self.name} {reason}. The end of {self.log}:\n{tail(self.log)}"
        )

    def stop(self, *args: Any, **kwargs: Any) -> Server:
        """Stop it, however it ends."""
        if process := self.process:
            with contextlib.suppress(mirakuru.exceptions.ProcessFinishedWithError):
                super().stop(*args, **kwargs)
            self.returncode = process.returncode
        return self


class PostgreSQL(Server):
    """Has started when it takes connections, not when it listens."""

    def __init__(self, pg_isready: Path, *args: Any, **kwargs: Any) -> None:
        super().__init__("PostgreSQL", *args, stop_signal=signal.SIGINT, **kwargs)
        self.pg_isready = pg_isready

    def after_start_check(self) -> bool:
        command = [self.pg_isready, "--quiet", "--host", HOST, "--port", str(self.port)]
        return subprocess.run(command).returncode == 0


class Standby(PostgreSQL):
    """A standby, which can be promoted."""

    promote: Callable[[], None]


class PgBouncer(Server):
    """One in front of a stack's PostgreSQL, by an ini in the stack's folder."""

    def __init__(self, stack: Stack, ini: str, port: int, log: str) -> None:
        super().__init__(
            "PgBouncer",
            [stack.environment.pgbouncer, ini],
            port,
            stack.logs / log,
            stack.environment.server_user,
            cwd=stack.folder,
            # PgBouncer 1.18 ends so on SIGTERM.
            expected_returncode=1,
        )
        self._stack = stack

    def wait_connected(self, seconds: float = 30) -> None:
        """Wait until it passes queries to the databases that it has pools of.

        That PostgreSQL is back it sees with its next attempt for each, after
        `server_login_retry`, and until then it refuses whoever comes.
        """
        deadline = time.monotonic() + seconds
        query = "SELECT datname FROM pg_database WHERE datallowconn"
        there = {dbname for (dbname,) in self._stack.execute(query)}
        pools = {row[0] for row in self._stack.console("SHOW POOLS")}
        for dbname in there & pools:
            while error := self._find_error(dbname):
                if time.monotonic() > deadline:
                    raise SetupError(f"PgBouncer still refuses: {error}")
                time.sleep(0.1)

    def _find_error(self, dbname: str) -> psycopg2.OperationalError | None:
        try:
            with contextlib.closing(self._stack.connect(dbname, pooled=True)) as conn:
                conn.cursor().execute("SELECT 1")
        except psycopg2.OperationalError as error:
            return error
        return None


class Nginx(Server):
    """One in front of a stack's Odoo."""

    def __init__(self, stack: Stack) -> None:
        environment, folder = stack.environment, stack.folder
        super().__init__(
            "nginx",
            [environment.nginx, "-p", folder, "-e", "stderr", "-c", "nginx.conf"],
            stack.ports.nginx,
            stack.logs / "nginx.log",
            environment.server_user,
            cwd=folder,
        )
        self._stack = stack

    def write_conf(self) -> None:
        """Write ours, with the stack's ports."""
        text = (SETUP / "nginx.conf").read_text()
        own = astuple(self._stack.ports)
        for demo, port in zip(astuple(Ports.demo()), own, strict=True):
            text = text.replace(f":{demo};", f":{port};")
        conf = self._stack.folder / "nginx.conf"
        conf.write_text(text)
        self._stack.hand_over(conf)


class OdooServer(Server):
    """Has started when all its URLs answer.

    With `force`, a second signal follows soon: a threaded server with long polling
    would wait for its requests, which last 50 s.
    """

    PATIENCE = 3

    def __init__(
        self, health: list[tuple[int, str]], force: bool, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__("Odoo", *args, **kwargs)
        self.health = health
        self.force = force

    def stop(self, *args: Any, **kwargs: Any) -> Server:
        if self.force and self.process and self.running():
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(self.PATIENCE)
        return super().stop(*args, **kwargs)

    def after_start_check(self) -> bool:
        return all(self._answers(port, path) for port, path in self.health)

    def _answers(self, port: int, path: str) -> bool:
        connection = http.client.HTTPConnection(HOST, port, timeout=self._timeout)
        try:
            connection.request("GET", path)
            # Without a database to load "bus" from, /websocket/health is a 404, and
            # so are both in the oldest series.
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
