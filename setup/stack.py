"""PostgreSQL, PgBouncer and Odoo as they run together, for the demo and the tests.

Everything listens on 127.0.0.1 only and logs into the stack's folder. mirakuru
supervises the processes. Needs the virtual environment that provision.py makes.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg2
from basics import SETUP, SetupError
from odoo_server import CONF, Odoo, read_options
from ports import HOST, Ports, free_ports
from provision import Environment
from psycopg2 import sql
from roles import create_roles, write_userlist
from servers import Nginx, PgBouncer, PostgreSQL, Standby
from template import make_template

AnyPostgreSQL = TypeVar("AnyPostgreSQL", bound=PostgreSQL)


class Stack:
    """A PostgreSQL cluster with a PgBouncer in front, and Odoo servers behind."""

    def __init__(
        self,
        environment: Environment,
        folder: Path,
        ports: Ports,
        fsync: bool = True,
    ) -> None:
        self.environment = environment
        # Without a symbolic link on the way that the servers' user cannot follow.
        self.folder = folder = folder.resolve()
        self.ports = ports
        self.logs = folder / "log"
        self.is_demo = ports == Ports.demo()
        self._cluster = folder / "postgresql"
        self._superuser_password = folder / "superuser_password"
        options = read_options(CONF)
        self.passwords = {
            options["db_user"]: options["db_password"],
            options["db_listen_user"]: options["db_listen_password"],
        }
        self.fsync = fsync
        self.conf = folder / "odoo.conf"
        """The configuration file, in words that the series knows."""
        self.postgres = PostgreSQL(
            environment.postgres_bin / "pg_isready",
            self._postgres_command(self._cluster, ports.postgres),
            ports.postgres,
            self.logs / "postgresql.log",
            environment.server_user,
            cwd=folder,
        )
        ini = "pgbouncer.ini" if self.is_demo else "pgbouncer_ports.ini"
        self.pgbouncer = PgBouncer(self, ini, ports.pgbouncer, "pgbouncer.log")
        self.nginx = Nginx(self)

    def __enter__(self) -> Stack:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> Stack:
        """Start PostgreSQL and PgBouncer; create the cluster first if there is none."""
        self._make_folder(self.folder)
        self._make_folder(self.logs)
        self._prepare_cluster()
        # A copy, since the servers' user may not be able to read the original.
        self._install(SETUP / "pgbouncer.ini", self.folder / "pgbouncer.ini")
        self.conf.write_text(self.environment.series.translate(CONF.read_text()))
        self.nginx.write_conf()
        self._write_pgbouncer_ini(self.ports.postgres)
        try:
            self._start_cluster()
            create_roles(self)
            self.pgbouncer.start()
        except BaseException:
            self.stop()
            raise
        return self

    def _prepare_cluster(self) -> None:
        self._check_not_running()
        if not self._cluster.exists():
            self._create_cluster()
        self._install(SETUP / "pg_hba.conf", self._cluster / "pg_hba.conf")

    def _start_cluster(self) -> None:
        self.postgres.start()

    def stop(self) -> None:
        self.nginx.stop()
        self.pgbouncer.stop()
        self.postgres.stop()

    def start_postgres(self) -> None:
        """Start it behind the running PgBouncer, which is to know of it."""
        self.postgres.start()
        self.pgbouncer.wait_connected()

    def restart_postgres(self) -> None:
        self.postgres.stop()
        self.start_postgres()

    @contextlib.contextmanager
    def standby(self) -> Iterator[Standby]:
        """A hot standby of the cluster, for as long as the `with` block lasts."""
        [port] = free_ports(1)
        with self._copy(Standby, port, "standby", "--write-recovery-conf") as standby:
            folder = self.folder / "standby"
            standby.promote = lambda: self._run_as_server_user(
                self.environment.postgres_bin / "pg_ctl",
                "promote",
                f"--pgdata={folder}",
            )
            yield standby.start()

    def copy(self) -> contextlib.AbstractContextManager[PostgreSQL]:
        """The cluster as it is now, to be started in place of the running one.

        There for as long as the `with` block lasts, which ends with it stopped.
        """
        return self._copy(PostgreSQL, self.ports.postgres, "copy")

    @contextlib.contextmanager
    def _copy(
        self, kind: type[AnyPostgreSQL], port: int, name: str, *options: str
    ) -> Iterator[AnyPostgreSQL]:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        self._run_as_server_user(
            self.environment.postgres_bin / "pg_basebackup",
            f"--pgdata={folder}",
            f"--dbname=host={HOST} port={self.ports.postgres} user=postgres"
            f" password={self._superuser_password.read_text()}",
            "--checkpoint=fast",
            "--no-sync",
            *options,
        )
        server = kind(
            self.environment.postgres_bin / "pg_isready",
            self._postgres_command(folder, port),
            port,
            self.logs / f"{name}.log",
            self.environment.server_user,
            cwd=self.folder,
        )
        try:
            yield server
        finally:
            server.stop()
            shutil.rmtree(folder)

    def point_pgbouncer_to(self, port: int) -> None:
        """Have PgBouncer connect to another server from now on."""
        self._write_pgbouncer_ini(port)
        self.pgbouncer.process.send_signal(signal.SIGHUP)

    def connect(
        self,
        dbname: str,
        role: str = "odoo",
        pooled: bool = False,
        port: int | None = None,
    ) -> psycopg2.extensions.connection:
        """Connect to PostgreSQL, or with `pooled` to PgBouncer, as one of the roles
        odoo, odoo_listen and postgres (the superuser). Another `port` is that of a
        copy."""
        return psycopg2.connect(**self.params(dbname, role, pooled, port))

    def params(
        self,
        dbname: str,
        role: str = "odoo",
        pooled: bool = False,
        port: int | None = None,
    ) -> dict[str, Any]:
        """The connection parameters of `connect()`."""
        password = self.passwords.get(role) or self._superuser_password.read_text()
        return {
            "host": HOST,
            "port": port or (self.ports.pgbouncer if pooled else self.ports.postgres),
            "dbname": dbname,
            "user": role,
            "password": password,
            "connect_timeout": 10,
        }

    def console(self, command: str) -> list[tuple]:
        """Have PgBouncer execute a command of its console."""
        return _execute(self.connect("pgbouncer", pooled=True), command)

    def execute(self, query: str | sql.Composable, *args: Any) -> list[tuple]:
        """Run a statement as superuser, outside of a transaction."""
        return _execute(self.connect("postgres", role="postgres"), query, args)

    def add_role(self, name: str) -> None:
        """Let in another role like odoo, with its privileges and its password.

        PostgreSQL forgets the permission to connect with the next `start()`.
        """
        if (name,) not in self.execute("SELECT rolname FROM pg_roles"):
            self.execute(
                sql.SQL("CREATE ROLE {} LOGIN IN ROLE odoo PASSWORD {}").format(
                    sql.Identifier(name), sql.Literal(self.passwords["odoo"])
                )
            )
        with (self._cluster / "pg_hba.conf").open("a") as hba:
            hba.write(f"host all {name} {HOST}/32 scram-sha-256\n")
        self.execute("SELECT pg_reload_conf()")
        write_userlist(self)

    def template(self) -> str:
        """A database with Discuss and two users, made once, to be copied."""
        return make_template(self)

    def create_database(self, name: str) -> str:
        """A fresh copy of the template, whoever is still connected to an old one."""
        template = self.template()
        self.drop_database(name)
        self.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER odoo").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return name

    def drop_database(self, name: str) -> None:
        self.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(
                sql.Identifier(name)
            )
        )

    def has_database(self, name: str) -> bool:
        return (name,) in self.execute("SELECT datname FROM pg_database")

    def odoo(self, *databases: str, **options: Any) -> Odoo:
        return Odoo(self, list(databases), **options)

    def _write_pgbouncer_ini(self, postgres_port: int) -> None:
        # The included file ends within its section [pgbouncer].
        (self.folder / "pgbouncer_ports.ini").write_text(
            "%include pgbouncer.ini\n"
            f"listen_port = {self.ports.pgbouncer}\n"
            "[databases]\n"
            f"* = host={HOST} port={postgres_port}\n"
        )

    def _postgres_command(self, cluster: Path, port: int) -> list[str | Path]:
        unsafe = ["fsync", "synchronous_commit", "full_page_writes"]
        return [
            self.environment.postgres_bin / "postgres",
            *("-D", cluster),
            *("-p", str(port)),
            *("-c", f"listen_addresses={HOST}"),
            *("-c", "unix_socket_directories="),
            *(part for x in unsafe if not self.fsync for part in ("-c", f"{x}=off")),
        ]

    def _run_as_server_user(self, *command: str | Path) -> None:
        user = self.environment.server_user
        result = subprocess.run(
            command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **({"user": user, "group": user, "extra_groups": []} if user else {}),
        )
        if result.returncode:
            raise SetupError(f"{Path(command[0]).name} failed:\n{result.stdout}")

    def _make_folder(self, folder: Path) -> None:
        if not folder.exists():
            folder.mkdir(parents=True)
            self.hand_over(folder)

    def hand_over(self, path: Path) -> None:
        if user := self.environment.server_user:
            shutil.chown(path, user, user)

    def _install(self, source: Path, target: Path) -> None:
        shutil.copyfile(source, target)
        self.hand_over(target)

    def _check_not_running(self) -> None:
        pid_file = self._cluster / "postmaster.pid"
        if not pid_file.exists():
            return
        pid = int(pid_file.read_text().split()[0])
        if psutil.pid_exists(pid) and psutil.Process(pid).name() == "postgres":
            raise SetupError(
                f"PostgreSQL (process {pid}) already runs on {self._cluster}: wait for"
                f" the other run to end, or stop what it left with `kill -INT {pid}`."
            )

    def _create_cluster(self) -> None:
        partial = self.folder / "postgresql.partial"
        shutil.rmtree(partial, ignore_errors=True)
        self._superuser_password.unlink(missing_ok=True)
        self._superuser_password.touch(mode=0o600)
        self._superuser_password.write_text(secrets.token_urlsafe())
        self.hand_over(self._superuser_password)
        self._run_as_server_user(
            self.environment.postgres_bin / "initdb",
            f"--pgdata={partial}",
            "--username=postgres",
            f"--pwfile={self._superuser_password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        )
        partial.rename(self._cluster)


def _execute(
    connection: psycopg2.extensions.connection,
    query: str | sql.Composable,
    args: tuple = (),
) -> list[tuple]:
    with contextlib.closing(connection):
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(query, args or None)
            return cursor.fetchall() if cursor.description else []
