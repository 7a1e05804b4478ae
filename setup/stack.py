"""PostgreSQL, PgBouncer and Odoo as they run together, for the demo and the tests.

Everything listens on 127.0.0.1 only and logs into the stack's folder. mirakuru
supervises the processes. Needs the virtual environment that provision.py makes.
"""

from __future__ import annotations

import configparser
import contextlib
import http.client
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import mirakuru
import mirakuru.exceptions
import psutil
import psycopg2
from provision import SETUP, Environment, SetupError, step, tail
from psycopg2 import sql

HOST = "127.0.0.1"
CONF = SETUP / "odoo.conf"
TEMPLATE = "template_mail"
MODULE = "bus_alt_connection"

USERS = {"admin": "Alma Reyes", "demo": "Jonas Weber"}
"""Login, which is the password as well, and name."""

_TEMPLATE_SCRIPT = f"""
users = {USERS!r}
# Attachments in the database: a copy of it is complete then.
env["ir.config_parameter"].set_param("ir_attachment.location", "db")
env["ir.attachment"].force_storage()
for login, name in users.items():
    values = dict(name=name, password=login, email=login + "@example.com", tz="UTC")
    user = env["res.users"].search([("login", "=", login)])
    if user:
        user.write(values)
    else:
        env["res.users"].create(dict(values, login=login))
# Otherwise the first page of every copy would take several seconds.
env["ir.qweb"]._pregenerate_assets_bundles()
env.cr.commit()
"""


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
        _check_free(self.postgres, "PostgreSQL")
        _check_free(self.pgbouncer, "PgBouncer")
        _check_free(self.odoo, "Odoo")
        _check_free(self.evented, "Odoo's evented worker")
        _check_free(self.nginx, "nginx")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on.

    Below the range that the kernel takes local ports of outgoing connections from: a
    client that tries to reach a stopped server there could get connected to itself.
    """
    ports: list[int] = []
    for port in random.sample(range(20000, 32000), 1000):
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


def _check_free(port: int, what: str) -> None:
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

    def start(self) -> Server:
        _check_free(self.port, self.name)
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


class OdooServer(Server):
    """Has started when all its URLs answer."""

    def __init__(self, health: list[tuple[int, str]], *args: Any, **kwargs: Any):
        super().__init__("Odoo", *args, **kwargs)
        self.health = health

    def after_start_check(self) -> bool:
        return all(self._answers(port, path) for port, path in self.health)

    def _answers(self, port: int, path: str) -> bool:
        connection = http.client.HTTPConnection(HOST, port, timeout=self._timeout)
        try:
            connection.request("GET", path)
            # Without a database to load "bus" from, /websocket/health is a 404.
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


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
        self._passwords = {
            options["db_user"]: options["db_password"],
            options["db_listen_user"]: options["db_listen_password"],
        }
        self.fsync = fsync
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
        self.nginx = Server(
            "nginx",
            [environment.nginx, "-p", folder, "-e", "stderr", "-c", "nginx.conf"],
            ports.nginx,
            self.logs / "nginx.log",
            environment.server_user,
            cwd=folder,
        )

    def __enter__(self) -> Stack:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> Stack:
        """Start PostgreSQL and PgBouncer; create the cluster first if there is none."""
        self._make_folder(self.folder)
        self._make_folder(self.logs)
        self._check_not_running()
        if not self._cluster.exists():
            self._create_cluster()
        # Copies, since the servers' user may not be able to read the originals.
        self._install(SETUP / "pg_hba.conf", self._cluster / "pg_hba.conf")
        self._install(SETUP / "pgbouncer.ini", self.folder / "pgbouncer.ini")
        self._write_nginx_conf()
        self._write_pgbouncer_ini(self.ports.postgres)
        try:
            self.postgres.start()
            self._create_roles()
            self.pgbouncer.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        self.nginx.stop()
        self.pgbouncer.stop()
        self.postgres.stop()

    @contextlib.contextmanager
    def standby(self) -> Iterator[Standby]:
        """A hot standby of the cluster, for as long as the `with` block lasts."""
        [port] = free_ports(1)
        folder = self.folder / "standby"
        shutil.rmtree(folder, ignore_errors=True)
        self._run_as_server_user(
            self.environment.postgres_bin / "pg_basebackup",
            f"--pgdata={folder}",
            f"--dbname=host={HOST} port={self.ports.postgres} user=postgres"
            f" password={self._superuser_password.read_text()}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        )
        standby = Standby(
            self.environment.postgres_bin / "pg_isready",
            self._postgres_command(folder, port),
            port,
            self.logs / "standby.log",
            self.environment.server_user,
            cwd=self.folder,
        )
        standby.promote = lambda: self._run_as_server_user(
            self.environment.postgres_bin / "pg_ctl", "promote", f"--pgdata={folder}"
        )
        try:
            yield standby.start()
        finally:
            standby.stop()
            shutil.rmtree(folder)

    def point_pgbouncer_to(self, port: int) -> None:
        """Have PgBouncer connect to another server from now on."""
        self._write_pgbouncer_ini(port)
        self.pgbouncer.process.send_signal(signal.SIGHUP)

    def connect(
        self, dbname: str, role: str = "odoo", pooled: bool = False
    ) -> psycopg2.extensions.connection:
        """Connect to PostgreSQL, or with `pooled` to PgBouncer, as one of the roles
        odoo, odoo_listen and postgres (the superuser)."""
        password = self._passwords.get(role) or self._superuser_password.read_text()
        return psycopg2.connect(
            host=HOST,
            port=self.ports.pgbouncer if pooled else self.ports.postgres,
            dbname=dbname,
            user=role,
            password=password,
            connect_timeout=10,
        )

    def execute(self, query: str | sql.Composable) -> list[tuple]:
        """Run a statement as superuser, outside of a transaction."""
        connection = self.connect("postgres", role="postgres")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def add_role(self, name: str) -> None:
        """Let in another role like odoo, with its privileges and its password.

        PostgreSQL forgets the permission to connect with the next `start()`.
        """
        if (name,) not in self.execute("SELECT rolname FROM pg_roles"):
            self.execute(
                sql.SQL("CREATE ROLE {} LOGIN IN ROLE odoo PASSWORD {}").format(
                    sql.Identifier(name), sql.Literal(self._passwords["odoo"])
                )
            )
        with (self._cluster / "pg_hba.conf").open("a") as hba:
            hba.write(f"host all {name} {HOST}/32 scram-sha-256\n")
        self.execute("SELECT pg_reload_conf()")
        self._write_userlist()

    def template(self) -> str:
        """A database with Discuss and two users, made once, to be copied."""
        finished = f"SELECT 1 FROM pg_database WHERE datname = '{TEMPLATE}'"
        if self.execute(f"{finished} AND datistemplate"):
            return TEMPLATE
        with step(f"Creating the database {TEMPLATE}, with Discuss and two users"):
            self.execute(f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")
            odoo = self.odoo(TEMPLATE, workers=0, addon=None)
            odoo.check("--init=mail", "--stop-after-init", "--no-http")
            odoo.check("shell", "--no-http", input=_TEMPLATE_SCRIPT)
            self.execute(f"ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false")
            self.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                f" WHERE datname = '{TEMPLATE}'"
            )
            self.execute(f"ALTER DATABASE {TEMPLATE} IS_TEMPLATE true")
        return TEMPLATE

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

    def _write_nginx_conf(self) -> None:
        text = (SETUP / "nginx.conf").read_text()
        for demo, own in zip(astuple(Ports.demo()), astuple(self.ports), strict=True):
            text = text.replace(f":{demo};", f":{own};")
        conf = self.folder / "nginx.conf"
        conf.write_text(text)
        self._hand_over(conf)

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
            self._hand_over(folder)

    def _hand_over(self, path: Path) -> None:
        if user := self.environment.server_user:
            shutil.chown(path, user, user)

    def _install(self, source: Path, target: Path) -> None:
        shutil.copyfile(source, target)
        self._hand_over(target)

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
        self._hand_over(self._superuser_password)
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

    def _create_roles(self) -> None:
        """Create the roles of odoo.conf or update them, and PgBouncer's list of them.

        Neither is a superuser; odoo may create databases, odoo_listen only connect.
        """
        existing = {name for (name,) in self.execute("SELECT rolname FROM pg_roles")}
        for role, password in self._passwords.items():
            verb = "ALTER" if role in existing else "CREATE"
            createdb = "CREATEDB" if role == "odoo" else "NOCREATEDB"
            self.execute(
                sql.SQL(f"{verb} ROLE {{}} LOGIN {createdb} PASSWORD {{}}").format(
                    sql.Identifier(role), sql.Literal(password)
                )
            )
        self._write_userlist()

    def _write_userlist(self) -> None:
        """Tell PgBouncer of the role odoo and of those that have its privileges."""
        verifiers = self.execute(
            "SELECT rolname, rolpassword FROM pg_authid"
            " WHERE NOT rolsuper AND pg_has_role(oid, 'odoo', 'MEMBER')"
        )
        userlist = self.folder / "userlist.txt"
        userlist.touch(mode=0o600)
        userlist.write_text("".join(f'"{name}" "{x}"\n' for name, x in verifiers))
        self._hand_over(userlist)


class Odoo:
    """One Odoo server on the stack.

    - `workers`: 0 is the threaded server, otherwise prefork.
    - `addon`: "server-wide"; "available" is on the addons path and no more, that is to
      be installed in a database; None keeps it away altogether.
    - `direct`: db_host and db_port name PostgreSQL, not PgBouncer.
    - `preload`: load the databases at start (-d) and serve and schedule no others.
      Without it they are only filtered by name (as in odoo.conf), and a prefork server
      survives an outage of the database.
    - `behind_nginx`: the one that the stack's nginx forwards to.
    - `conf`: the configuration file; everything else is put on top of it by options.
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
        conf: Path = CONF,
        args: list[str] | None = None,
        env: dict[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        ports = stack.ports
        http_port, evented_port = free_ports(2)
        if behind_nginx:
            http_port, evented_port = ports.odoo, ports.evented
        load = ["base", "rpc", "web"] + [MODULE] * (addon == "server-wide")
        options = [
            f"--db_host={HOST}",
            f"--db_port={ports.postgres if direct else ports.pgbouncer}",
            f"--http-port={http_port}",
            f"--gevent-port={evented_port}",
            f"--workers={workers}",
            f"--load={','.join(load)}",
            f"--db-filter=^({'|'.join(map(re.escape, databases))})$",
        ]
        if preload:
            options.append(f"--database={','.join(databases)}")
        self._set_up(
            stack,
            name or f"odoo_{http_port}",
            conf,
            [*options, *(args or [])],
            addon is not None,
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
        self._set_up(stack, "odoo", CONF, [], True, {}, ports.odoo, ports.evented)
        return self

    def _set_up(
        self,
        stack: Stack,
        name: str,
        conf: Path,
        options: list[str],
        with_addon: bool,
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
        self.websocket_url = f"ws://{HOST}:{evented_port or http_port}/websocket"
        self.data_dir = stack.folder / "odoo" / name
        addons = [
            *environment.odoo_addons,
            *([environment.addons] if with_addon else []),
        ]
        self._addons_path = f"--addons-path={','.join(map(str, addons))}"
        self._options = [f"--config={conf}", f"--data-dir={self.data_dir}", *options]
        if addons:
            self._options.insert(0, self._addons_path)
        if environment.odoo_pythonpath:
            env["PYTHONPATH"] = str(environment.odoo_pythonpath)
        health = [(http_port, "/web/health")]
        if evented_port:
            health.append((evented_port, "/websocket/health"))
        self.server = OdooServer(
            health,
            [environment.python, environment.odoo, *self._options],
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
        command = [str(self.stack.environment.python), str(self.stack.environment.odoo)]
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
