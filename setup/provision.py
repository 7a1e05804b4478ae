"""Fetch everything that the stack needs, without touching more than it must.

Debian packages of the servers come from apt; Odoo 19.0 and its Python packages go
below `.stack/`, as does all that the stack writes. Runs before the virtual environment
exists, hence the standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETUP = ROOT / "setup"
STATE = ROOT / ".stack"
LOG = STATE / "provision.log"

PYTHON_MINIMUM = (3, 10)

# Odoo 19.0 is in sid only. Its static files are partly links into these packages; the
# last two must come from Debian 12, whose versions have the files that Odoo links to
# (Font Awesome 4, one Inconsolata.otf).
ODOO_SUITE = "sid"
FONT_SUITE = "bookworm"
ODOO_PACKAGES = [
    "odoo-19",
    "libjs-jquery",
    "libjs-jquery-form",
    "libjs-underscore",
    "fonts-roboto-unhinted",
    "fonts-montserrat",
    "fonts-ocr-b",
    f"fonts-font-awesome/{FONT_SUITE}",
    f"fonts-inconsolata/{FONT_SUITE}",
]
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class SetupError(Exception):
    """A failure that was foreseen: its message is all that the user gets to see."""


@dataclass(frozen=True)
class Environment:
    """Where everything is."""

    python: Path
    """The interpreter of the virtual environment."""
    odoo: Path
    """Odoo's start script."""
    odoo_pythonpath: Path | None
    """What PYTHONPATH must be for it, if anything."""
    odoo_addons: list[Path]
    """Folders of Odoo's own addons, where Odoo does not know them by itself."""
    addons: Path
    """A folder with this addon in it, for the addons path."""
    data: Path
    """Where clusters, logs and sessions go; `server_user` can reach it."""
    server_user: str | None
    """Whom to run PostgreSQL, PgBouncer and nginx as; None: as oneself."""
    postgres_bin: Path
    pgbouncer: Path
    nginx: Path
    chromium: Path | None
    """Only with the test tools."""


def tail(path: Path, lines: int = 15) -> str:
    """The end of a log, indented, for an error message."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Tell the user about something that takes its time."""
    print(f"{what} ...", end=" ", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"done in {time.monotonic() - start:.0f} s", flush=True)


@contextlib.contextmanager
def foreseen_errors() -> Iterator[None]:
    """Around the main program: print a SetupError instead of a traceback."""
    try:
        yield
    except SetupError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


def provision(with_test_tools: bool = False) -> Environment:
    """Make sure that everything is there; takes no time when it is.

    The test tools are what the tests and the pictures want beside the servers.
    """
    if sys.version_info < PYTHON_MINIMUM:
        wanted = ".".join(map(str, PYTHON_MINIMUM))
        raise SetupError(
            f"This is Python {sys.version.split()[0]}, but Odoo 19.0 needs {wanted}"
            " or newer: run the script with a newer one."
        )
    _make_state_folder()
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install_debian_packages(with_test_tools)
        if path := os.environ.get("ODOO_PATH"):
            prefix = Path(path).expanduser().resolve()
        else:
            prefix = _download_odoo()
        odoo, pythonpath, odoo_addons = _locate_odoo(prefix)
        server_user = "postgres" if os.geteuid() == 0 else None
        return Environment(
            python=_create_venv(),
            odoo=odoo,
            odoo_pythonpath=pythonpath,
            odoo_addons=odoo_addons,
            addons=_link_addon(),
            data=_make_data_folder(server_user),
            server_user=server_user,
            postgres_bin=_postgres_bin(),
            pgbouncer=_find("pgbouncer"),
            nginx=_find("nginx"),
            chromium=_find("chromium"),
        )


def enter_venv(with_test_tools: bool = False) -> Environment:
    """Provision, and run this very script again in the virtual environment."""
    environment = provision(with_test_tools)
    if Path(sys.prefix).resolve() != environment.python.parent.parent.resolve():
        sys.stdout.flush()
        os.execv(environment.python, [str(environment.python), *sys.argv])
    return environment


def _make_state_folder() -> None:
    STATE.mkdir(exist_ok=True)
    if STATE.stat().st_uid != os.geteuid():
        owner = pwd.getpwuid(STATE.stat().st_uid).pw_name
        raise SetupError(
            f"{STATE} belongs to the user {owner}: run the script as {owner}, or"
            " remove the folder."
        )


def _run(*command: str | Path, cwd: Path | None = None, **env: str) -> None:
    """Run a command, its output going to the log."""
    with LOG.open("a") as log:
        print("$", *command, file=log, flush=True)
        code = subprocess.run(
            command,
            cwd=cwd,
            env=os.environ | {"LC_ALL": "C.UTF-8"} | env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        ).returncode
    if code:
        raise SetupError(
            f"`{' '.join(map(str, command))}` failed with exit status {code}."
            f" The end of {LOG}:\n{tail(LOG)}"
        )


def _find(program: str) -> Path | None:
    """Like `which`, also where only root's PATH leads to."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin"])
    found = shutil.which(program, path=path)
    return Path(found) if found else None


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
        if not _find("ip"):
            missing.append("iproute2")
        # Of the Node.js that Playwright brings along.
        if not list(Path("/usr/lib").glob("*/libatomic.so.1")):
            missing.append("libatomic1")
    missing += [name for name in wanted if not _find(name)]
    if not importlib.util.find_spec("ensurepip"):
        missing.append("python3-venv")
    if not missing:
        return
    names = " ".join(missing)
    install = f"apt-get install --no-install-recommends {names}"
    if os.geteuid() != 0 or not _find("apt-get"):
        raise SetupError(
            f"These Debian packages are missing: {names}. Install them as root:\n"
            f"    {install}"
        )
    with step(f"Installing {names} with apt-get"):
        noninteractive = {"DEBIAN_FRONTEND": "noninteractive"}
        _run("apt-get", "update", **noninteractive)
        _run(*install.split(), "--yes", **noninteractive)
    importlib.invalidate_caches()
    if not importlib.util.find_spec("ensurepip"):
        raise SetupError(
            f"{sys.executable} has no ensurepip, and Debian's python3-venv is for"
            " /usr/bin/python3 only: run the script with that one."
        )


def _debian_mirrors() -> list[str]:
    """The archives that apt uses here, the likeliest mirror of Debian first."""
    output = subprocess.run(
        ["apt-get", "indextargets", "--no-release-info"]
        + ["--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        capture_output=True,
        text=True,
    ).stdout
    targets = [line.split() for line in output.splitlines()]
    likely = [
        (component != "main", site)
        for site, release, component in targets
        if "security" not in release
    ]
    return list(dict.fromkeys(site for _, site in sorted(likely, key=lambda x: x[0])))


def _download_odoo() -> Path:
    """Unpack Debian's Odoo 19.0, which its dependencies keep from being installed."""
    prefix = STATE / "odoo"
    if prefix.exists():
        return prefix
    if not _find("apt-get") or not DEBIAN_KEYRING.exists():
        raise SetupError(
            "Odoo 19.0 is downloaded from Debian, and this is not Debian: set ODOO_PATH"
            " to a checkout of Odoo 19.0."
        )
    apt = STATE / "apt"
    partial = STATE / "odoo.partial"
    for folder in (apt, partial):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in ("lists/partial", "cache/archives/partial", "packages"):
        (apt / folder).mkdir(parents=True)
    sources = apt / "sources.list"
    apt_get = ["apt-get", "--quiet"]
    for option in (
        f"Dir::Etc::SourceList={sources}",
        "Dir::Etc::SourceParts=/dev/null",
        "Dir::Etc::Preferences=/dev/null",
        "Dir::Etc::PreferencesParts=/dev/null",
        f"Dir::State::Lists={apt / 'lists'}",
        f"Dir::Cache={apt / 'cache'}",
        "APT::Sandbox::User=root",
        "APT::Update::Error-Mode=any",
    ):
        apt_get += ["-o", option]
    with step("Downloading Odoo 19.0 from Debian (130 MB)"):
        failure = SetupError(
            "apt has no Debian mirror configured: add one, or set ODOO_PATH to a"
            " checkout of Odoo 19.0."
        )
        for mirror in _debian_mirrors():
            sources.write_text(
                "".join(
                    f"deb [signed-by={DEBIAN_KEYRING} target=Packages]"
                    f" {mirror} {suite} main\n"
                    for suite in (ODOO_SUITE, FONT_SUITE)
                )
            )
            try:
                _run(*apt_get, "update")
                _run(*apt_get, "download", *ODOO_PACKAGES, cwd=apt / "packages")
            except SetupError as error:
                failure = error
            else:
                break
        else:
            raise failure
    with step("Unpacking it"):
        for package in sorted((apt / "packages").glob("*.deb")):
            _run("dpkg-deb", "--extract", package, partial)
        shutil.rmtree(apt)
        partial.rename(prefix)
    return prefix


def _locate_odoo(prefix: Path) -> tuple[Path, Path | None, list[Path]]:
    """The start script, PYTHONPATH and addons of a checkout or of Debian's package."""
    if (prefix / "odoo-bin").exists():
        return prefix / "odoo-bin", None, [prefix / "addons"]
    if (prefix / "usr/bin/odoo").exists():
        packages = prefix / "usr/lib/python3/dist-packages"
        return prefix / "usr/bin/odoo", packages, []
    raise SetupError(
        f"There is no Odoo in {prefix}: ODOO_PATH must name a folder with odoo-bin in"
        " it, or with usr/bin/odoo as in Debian's package."
    )


def _create_venv() -> Path:
    venv = STATE / "venv"
    python = venv / "bin" / "python"
    requirements = SETUP / "requirements.txt"
    # A virtual environment can be neither half-filled nor moved.
    wanted = f"{venv}\n{requirements.read_text()}"
    stamp = venv / "complete"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    with step("Installing the Python packages from setup/requirements.txt"):
        _run(sys.executable, "-m", "venv", "--clear", venv)
        _run(python, "-m", "pip", "install", "--requirement", requirements)
        stamp.write_text(wanted)
    return python


def _link_addon() -> Path:
    addons = STATE / "addons"
    addons.mkdir(exist_ok=True)
    link = addons / "bus_alt_connection"
    if not link.is_symlink():
        link.symlink_to("../..")
    return addons


def _make_data_folder(server_user: str | None) -> Path:
    """A folder for the servers, elsewhere if their user cannot reach this one."""
    data = STATE / "data"
    if data.exists():
        return data
    data.unlink(missing_ok=True)
    if server_user is None:
        data.mkdir()
        return data
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
    return data
