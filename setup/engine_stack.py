"""A stack on another engine than this machine's: the database is restored there.

Odoo takes a minute to make it, `psql` some seconds; and so all engines have the same.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from basics import SetupError, step
from ports import Ports
from provision import Environment
from psycopg2 import sql
from psycopg2.extensions import make_dsn
from servers import Server
from stack import Stack
from template import TEMPLATE


def dump_template(environment: Environment) -> Path:
    """A file with the database that all tests begin with; made once."""
    path = environment.data / "template.sql"
    if not path.exists():
        folder = environment.data / "test"
        with Stack(environment, folder, Ports.free(), fsync=False) as stack:
            stack.create_database("dump")
            with step(f"Dumping the database {TEMPLATE}"):
                _run_client(
                    environment, "pg_dump", stack, "dump", f"--file={path}.partial"
                )
            stack.drop_database("dump")
        path.with_name(f"{path.name}.partial").rename(path)
    return path


class EngineStack(Stack):
    """One whose PostgreSQL or pooler is another.

    - `make_pooler`: returns what listens at `ports.pgbouncer`
    """

    def __init__(
        self,
        environment: Environment,
        name: str,
        make_pooler: Callable[[Stack], Server] | None = None,
        ports: Ports | None = None,
    ) -> None:
        folder = environment.data / name
        super().__init__(environment, folder, ports or Ports.free(), fsync=False)
        if make_pooler:
            self.pgbouncer = make_pooler(self)

    def __exit__(self, *exc_info: object) -> None:
        """Leave the logs: so many clusters would take gigabytes."""
        super().__exit__(*exc_info)
        for cluster in self.clusters():
            shutil.rmtree(cluster, ignore_errors=True)

    def clusters(self) -> list[Path]:
        return [self._cluster]

    def template(self) -> str:
        if not self.has_database(TEMPLATE):
            partial = f"{TEMPLATE}_partial"
            self.drop_database(partial)
            self.execute(
                sql.SQL("CREATE DATABASE {} OWNER odoo").format(sql.Identifier(partial))
            )
            dump = self.environment.data / "template.sql"
            _run_client(
                *(self.environment, "psql", self, partial),
                *("--quiet", "--set=ON_ERROR_STOP=1", f"--file={dump}"),
            )
            self.execute(f"ALTER DATABASE {partial} RENAME TO {TEMPLATE}")
        return TEMPLATE


def _run_client(
    environment: Environment, program: str, stack: Stack, dbname: str, *options: str
) -> None:
    """Run one of PostgreSQL's programs as superuser."""
    dsn = make_dsn(**stack.params(dbname, role="postgres"))
    command = [environment.postgres_bin / program, f"--dbname={dsn}", *options]
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if result.returncode:
        raise SetupError(f"{program} failed:\n{result.stderr}")
