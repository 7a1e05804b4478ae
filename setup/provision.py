"""Fetch everything that the stack needs, without touching more than it must.

Debian packages of the servers come from apt; Odoo, its Python packages and if need be
its Python go below `.stack/`, as does all that the stack writes. Runs before the
virtual environments exist, hence the standard library only.

Which series of Odoo that is: the one in the folder that the environment variable
ODOO_PATH names, or the one in ODOO_SERIES if it can be downloaded, or 19.0.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import debian
from basics import (
    LINK,
    ROOT,
    SETUP,
    STATE,
    SetupError,
    find,
    link_addon,
    run,
    step,
)
from series import Series

PYTHON_MINIMUM = (3, 11)
DEFAULT_SERIES = "19.0"

OLD_SERIES = 17
"""The first series for which this machine's Python is not too new."""

OLD_PIP = ["pip==25.2", "setuptools==58.5.3", "wheel==0.37.1"]
"""For Python 3.9, whose own cannot install what is there today."""

TOOLS_VENV = STATE / "venv"

STACK_GB = 2.2
"""Disk that the demo takes: .stack 1.3, Debian's packages 0.4, downloads 0.4."""

TESTS_GB = 2.0
"""What the tests take beside it: Chromium 0.8, databases and logs 1.0."""


@dataclass(frozen=True)
class Environment:
    """Where everything is."""

    tools: Path
    """The interpreter of the virtual environment of the stack, tests and linters."""
    series: Series
    """Of Odoo."""
    python: Path
    """The interpreter of the virtual environment of Odoo."""
    odoo: Path
    """Odoo's start script."""
    odoo_env: dict[str, str]
    """The environment variables that these two need."""
    addons: Path
    """A folder with this addon in it, for the addons path."""
    data: Path
    """Where the series' clusters, logs and sessions go; `server_user` can reach it."""
    server_user: str | None
    """Whom to run PostgreSQL, PgBouncer and nginx as; None: as oneself."""
    postgres_bin: Path
    pgbouncer: Path
    nginx: Path
    chromium: Path | None
    """Only with the test tools."""


@dataclass(frozen=True)
class _Odoo:
    script: Path
    package: Path
    addons: list[Path]
    env: dict[str, str]


def provision(with_test_tools: bool = False) -> Environment:
    """Make sure that everything is there; takes no time when it is.

    The test tools are what the tests and the pictures want beside the servers.
    """
    if sys.version_info < PYTHON_MINIMUM:
        wanted = ".".join(map(str, PYTHON_MINIMUM))
        raise SetupError(
            f"This is Python {sys.version.split()[0]}, but {wanted} or newer is needed:"
            " run the script with a newer one."
        )
    _make_state_folder()
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_in_venv():
            check_disk(with_test_tools)
        _install_debian_packages(with_test_tools)
        prefix, series = _find_odoo()
        odoo = _locate_odoo(prefix)
        tools = _create_tools_venv()
        python, python_env = _create_odoo_venv(series, tools)
        link_addon()
        server_user = "postgres" if os.geteuid() == 0 else None
        return Environment(
            tools=tools,
            series=Series(series, odoo.package, tuple(odoo.addons)),
            python=python,
            odoo=odoo.script,
            odoo_env=odoo.env | python_env,
            addons=LINK.parent,
            data=_make_data_folder(server_user, series),
            server_user=server_user,
            postgres_bin=_postgres_bin(),
            pgbouncer=find("pgbouncer"),
            nginx=find("nginx"),
            chromium=find("chromium"),
        )


def enter_venv(with_test_tools: bool = False) -> Environment:
    """Provision, and run this very script again in the virtual environment."""
    environment = provision(with_test_tools)
    if not _is_in_venv():
        sys.stdout.flush()
        os.execv(environment.tools, [str(environment.tools), *sys.argv])
    return environment


def _is_in_venv() -> bool:
    return Path(sys.prefix).resolve() == TOOLS_VENV.resolve()


def _make_state_folder() -> None:
    STATE.mkdir(exist_ok=True)
    if STATE.stat().st_uid != os.geteuid():
        owner = pwd.getpwuid(STATE.stat().st_uid).pw_name
        raise SetupError(
            f"{STATE} belongs to the user {owner}: run the script as {owner}, or"
            " remove the folder."
        )


def check_disk(with_test_tools: bool) -> None:
    """Before the first run, say how much disk it takes; raise SetupError without it."""
    needed = 0 if (STATE / "data").exists() else STACK_GB
    if with_test_tools and not (STATE / "test-logs").exists():
        needed += TESTS_GB
    if not needed:
        return
    free = shutil.disk_usage(STATE).free / 1e9
    if free < needed:
        raise SetupError(
            f"The first run takes {needed:.1f} GB of disk, and {free:.1f} GB are free"
            f" where {STATE} is: make room, or clone to another disk."
        )
    print(f"The first run takes {needed:.1f} GB of disk.", flush=True)


def _postgres_bin() -> Path | None:
    """Debian's folder with the binaries of the newest PostgreSQL."""
    folders = [
        postgres.parent
        for postgres in Path("/usr/lib/postgresql").glob("*/bin/postgres")
        if postgres.parent.parent.name.isdigit()
    ]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


def _install_debian_packages(with_test_tools: bool) -> None:
    missing = []
    if not _postgres_bin():
        missing.append("postgresql")
    wanted = ["pgbouncer", "nginx"]
    if with_test_tools:
        wanted += ["faketime", "chromium"]
        if not find("ip"):
            missing.append("iproute2")
        # Of the Node.js that Playwright brings along.
        if not list(Path("/usr/lib").glob("*/libatomic.so.1")):
            missing.append("libatomic1")
    missing += [name for name in wanted if not find(name)]
    if not importlib.util.find_spec("ensurepip"):
        missing.append("python3-venv")
    if not missing:
        return
    names = " ".join(missing)
    install = f"apt-get install --no-install-recommends {names}"
    if os.geteuid() != 0 or not find("apt-get"):
        raise SetupError(
            f"These Debian packages are missing: {names}. Install them as root:\n"
            f"    {install}"
        )
    with step(f"Installing {names} with apt-get"):
        debian.apt_get("update")
        debian.apt_get(*install.split()[1:], "--yes")
    importlib.invalidate_caches()
    if not importlib.util.find_spec("ensurepip"):
        raise SetupError(
            f"{sys.executable} has no ensurepip, and Debian's python3-venv is for"
            " /usr/bin/python3 only: run the script with that one."
        )


def _find_odoo() -> tuple[Path, str]:
    """Where Odoo is, and its series."""
    wanted = os.environ.get("ODOO_SERIES")
    path = os.environ.get("ODOO_PATH")
    prefix = (
        Path(path).expanduser().resolve()
        if path
        else debian.odoo(wanted or DEFAULT_SERIES)
    )
    release = _locate_odoo(prefix).package / "release.py"
    version = re.search(
        r"^version_info = \(\D*(\d+), (\d+)", release.read_text(), re.MULTILINE
    )
    if not version:
        raise SetupError(f"{release} does not tell the series.")
    series = ".".join(version.groups())
    if wanted and wanted != series:
        raise SetupError(
            f"ODOO_PATH names Odoo {series}, but {wanted} is asked for: unset one of"
            " the two."
        )
    return prefix, series


def _locate_odoo(prefix: Path) -> _Odoo:
    """What there is in a checkout or in Debian's package."""
    if (prefix / "odoo-bin").exists():
        # A source tarball has all addons in odoo/addons.
        addons = [x for x in [prefix / "addons"] if x.exists()]
        return _Odoo(prefix / "odoo-bin", prefix / "odoo", addons, {})
    if (prefix / "usr/bin/odoo").exists():
        packages = prefix / "usr/lib/python3/dist-packages"
        env = {"PYTHONPATH": str(packages)}
        return _Odoo(prefix / "usr/bin/odoo", packages / "odoo", [], env)
    raise SetupError(
        f"There is no Odoo in {prefix}: ODOO_PATH must name a folder with odoo-bin in"
        " it, or with usr/bin/odoo as in Debian's package."
    )


def _create_tools_venv() -> Path:
    def create() -> None:
        run(sys.executable, "-m", "venv", "--clear", TOOLS_VENV)

    return _create_venv(TOOLS_VENV, SETUP / "requirements" / "tools.txt", create, {})


def _create_odoo_venv(series: str, tools: Path) -> tuple[Path, dict[str, str]]:
    if float(series) >= OLD_SERIES:
        requirements = SETUP / "requirements" / "odoo-17.0-19.0.txt"
        venv = STATE / "venv-odoo-17.0-19.0"

        def create() -> None:
            run(sys.executable, "-m", "venv", "--clear", venv)

        return _create_venv(venv, requirements, create, {}), {}

    requirements = SETUP / "requirements" / "odoo-14.0-16.0.txt"
    venv = STATE / "venv-odoo-14.0-16.0"
    interpreter, env = debian.python_39()

    def create_old() -> None:
        run(interpreter, "-m", "venv", "--clear", "--without-pip", venv, **env)
        run(
            *(tools, "-m", "pip", "install", "--no-deps", "--only-binary=:all:"),
            *("--python-version=3.9", f"--target={venv}/lib/python3.9/site-packages"),
            *OLD_PIP,
        )

    return _create_venv(venv, requirements, create_old, env), env


def _create_venv(
    venv: Path, requirements: Path, create: Callable[[], None], env: dict[str, str]
) -> Path:
    """Fill a virtual environment with what is listed, unless it is that already."""
    python = venv / "bin" / "python"
    # A virtual environment can be neither half-filled nor moved.
    wanted = f"{venv}\n{requirements.read_text()}"
    stamp = venv / "complete"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    with step(f"Installing the Python packages from {requirements.relative_to(ROOT)}"):
        create()
        install = ("-m", "pip", "install", "--no-deps", "--requirement", requirements)
        run(python, *install, **env)
        run(python, "-m", "pip", "check", **env)
        stamp.write_text(wanted)
    return python


def _make_data_folder(server_user: str | None, series: str) -> Path:
    """A folder for the servers, elsewhere if their user cannot reach this one."""
    data = STATE / "data"
    if not data.exists():
        data.unlink(missing_ok=True)
        _make_reachable(data, server_user)
    # Of the databases, which are another series' in each.
    folder = data / series
    if not folder.exists():
        folder.mkdir()
        if server_user:
            shutil.chown(folder, server_user, server_user)
    return folder


def _make_reachable(data: Path, server_user: str | None) -> None:
    if server_user is None:
        data.mkdir()
        return
    reachable = not subprocess.run(
        ["test", "-x", STATE], user=server_user, group=server_user, extra_groups=[]
    ).returncode
    if reachable:
        folder = data
    else:
        name = hashlib.sha256(bytes(STATE)).hexdigest()[:8]
        folder = Path("/var/lib/bus_alt_connection") / name
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.chown(folder, server_user, server_user)
    if not reachable:
        data.symlink_to(folder)
