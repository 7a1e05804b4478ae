"""Each pooler with what it needs to serve Odoo.

All of them stand where PgBouncer does in a stack: before its PostgreSQL, at the port of
its PgBouncer, and know the role odoo. A function takes the engines and the stack, and
returns what the stack starts.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import textwrap
from pathlib import Path

from engines import Engines, version
from odoo_server import CONF, read_options
from ports import HOST
from servers import Server
from stack import Stack


class Pooler(Server):
    """One that gets its configuration files anew with each start.

    - `program`: what `command` runs, to be asked for its version
    """

    def __init__(
        self,
        name: str,
        program: list[str | Path],
        command: list[str | Path],
        stack: Stack,
        files: dict[str, str],
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        super().__init__(
            name,
            command,
            stack.ports.pgbouncer,
            stack.logs / "pooler.log",
            stack.environment.server_user,
            cwd=stack.folder,
            envvars={"HOME": str(stack.folder)},
            stop_signal=stop_signal,
        )
        self._program = program
        self._stack = stack
        self._files = files

    @property
    def version(self) -> str:
        """Its name and version."""
        return f"{self.name} {version(self._program)}"

    def start(self) -> Server:
        for name, text in self._files.items():
            path = self._stack.folder / name
            path.touch(mode=0o600)
            path.write_text(textwrap.dedent(text))
            if user := self._stack.environment.server_user:
                shutil.chown(path, user, user)
        return super().start()


def pgbouncer_installed(engines: Engines, stack: Stack) -> Pooler:
    """This machine's PgBouncer."""
    return _pgbouncer(engines, stack, [""], program=[engines.environment.pgbouncer])


def pgbouncer(engines: Engines, stack: Stack) -> Pooler:
    """The newest PgBouncer."""
    return _pgbouncer(engines, stack, [""])


def pgbouncer_tls(
    engines: Engines, stack: Stack, certificate: dict[str, str]
) -> Pooler:
    """The same, for clients that come by TLS, with the files server.crt and .key."""
    options = (
        "client_tls_sslmode = require\n"
        "client_tls_cert_file = server.crt\n"
        "client_tls_key_file = server.key\n"
    )
    return _pgbouncer(engines, stack, [options], certificate)


def pgbouncer_three(engines: Engines, stack: Stack) -> Pooler:
    """Three processes that share a port, and pass on each other's cancel requests."""
    numbers = (1, 2, 3)
    peers = "".join(f"{number} = host=@peer{number}\n" for number in numbers)
    return _pgbouncer(
        engines,
        stack,
        [
            f"so_reuseport = 1\npeer_id = {number}\nunix_socket_dir = @peer{number}\n"
            f"[peers]\n{peers}"
            for number in numbers
        ],
    )


def _pgbouncer(
    engines: Engines,
    stack: Stack,
    more: list[str],
    files: dict[str, str] | None = None,
    program: list[str | Path] | None = None,
) -> Pooler:
    """A process for each text that is added to the section [pgbouncer]."""
    confs = {
        f"pgbouncer_{number}.ini": "%include pgbouncer.ini\n"
        f"listen_port = {stack.ports.pgbouncer}\n"
        f"{text}[databases]\n"
        f"* = host={HOST} port={stack.ports.postgres}\n"
        for number, text in enumerate(more, 1)
    }
    program = program or engines.sid.command("usr/sbin/pgbouncer")
    command = [*program, *confs]
    if len(confs) > 1:
        # The shell stays until all of them have ended.
        each = "".join(f"{shlex.join(map(str, program))} {x} & " for x in confs)
        command = ["sh", "-c", f"trap '' INT; {each} wait"]
    # As Debian's service does: when what is under way has ended.
    files = confs | (files or {})
    return Pooler("PgBouncer", program, command, stack, files, signal.SIGINT)


def odyssey(engines: Engines, stack: Stack) -> Pooler:
    user, password = _role()
    conf = f"""\
        daemonize no
        log_to_stdout yes
        log_format "%p %t %l (%c) %m\\n"
        log_session no
        workers 1
        listen {{
            host "{HOST}"
            port {stack.ports.pgbouncer}
        }}
        storage "postgresql" {{
            type "remote"
            host "{HOST}"
            port {stack.ports.postgres}
        }}
        database default {{
            user "{user}" {{
                authentication "scram-sha-256"
                password "{password}"
                storage "postgresql"
                pool "transaction"
                pool_size 15
                pool_rollback yes
            }}
        }}
        """
    program = engines.sid.command("usr/bin/odyssey")
    command = [*program, "odyssey.conf"]
    return Pooler("Odyssey", program, command, stack, {"odyssey.conf": conf})


PGAGROAL_PORTS = range(5000, 10000)
"""Where its PostgreSQL must listen: 2.1.0 crashes on a port of five digits."""


def pgagroal(engines: Engines, stack: Stack) -> Pooler:
    files = {
        "pgagroal.conf": f"""\
            [pgagroal]
            host = {HOST}
            port = {stack.ports.pgbouncer}
            log_type = console
            max_connections = 60
            unix_socket_dir = {stack.folder}
            pipeline = session

            [primary]
            host = {HOST}
            port = {stack.ports.postgres}
            """,
        "pgagroal_hba.conf": "host all all all all\n",
    }
    program = engines.sid.command("usr/bin/pgagroal")
    command = [*program, "-c", "pgagroal.conf", "-a", "pgagroal_hba.conf"]
    return Pooler("pgagroal", program, command, stack, files)


def pgpool(engines: Engines, stack: Stack) -> Pooler:
    """In raw mode: it pools, and knows one PostgreSQL."""
    user, password = _role()
    files = {
        "pgpool.conf": f"""\
            backend_clustering_mode = 'raw'
            listen_addresses = '{HOST}'
            port = {stack.ports.pgbouncer}
            unix_socket_directories = ''
            pcp_listen_addresses = ''
            pcp_socket_dir = '{stack.folder}'
            pid_file_name = '{stack.folder}/pgpool.pid'
            logdir = '{stack.folder}'
            work_dir = '{stack.folder}'
            backend_hostname0 = '{HOST}'
            backend_port0 = {stack.ports.postgres}
            enable_pool_hba = on
            pool_passwd = 'pool_passwd'
            num_init_children = 60
            failover_on_backend_error = off
            """,
        "pool_hba.conf": "host all all all scram-sha-256\n",
        "pool_passwd": f"{user}:TEXT{password}\n",
        "pcp.conf": "",
    }
    program = engines.bookworm.command("usr/sbin/pgpool")
    options = ["-n", "-f", "pgpool.conf", "-F", "pcp.conf", "-a", "pool_hba.conf"]
    command = [*program, *options]
    # On SIGTERM it waits for its clients.
    return Pooler("pgpool", program, command, stack, files, signal.SIGINT)


def _role() -> tuple[str, str]:
    options = read_options(CONF)
    return options["db_user"], options["db_password"]
