"""Debian's packages: installed, or only unpacked below `.stack/` where they cannot or
must not be installed.

Two series of Odoo are in Debian, each in another suite than most machines run, and so
is the older Python that the older series want, and much of what stands around Odoo
elsewhere.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path

from basics import STATE, SetupError, find, run, step

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

APT_PATIENCE = 900
"""How long to wait for another apt, in seconds: unattended upgrades take minutes."""

ODOO = {
    # The static files of both are partly links into the packages named beside them. The
    # last two of 19.0 must come from Debian 12, whose versions have the files that Odoo
    # links to (Font Awesome 4, one Inconsolata.otf).
    "19.0": [
        "odoo-19/sid",
        "libjs-jquery/sid",
        "libjs-jquery-form/sid",
        "libjs-underscore/sid",
        "fonts-roboto-unhinted/sid",
        "fonts-montserrat/sid",
        "fonts-ocr-b/sid",
        "fonts-font-awesome/bookworm",
        "fonts-inconsolata/bookworm",
    ],
    "14.0": [
        "odoo-14/bullseye",
        "libjs-jquery/bullseye",
        "libjs-jquery-ui/bullseye",
        "libjs-underscore/bullseye",
        "fonts-roboto-unhinted/bullseye",
        "fonts-font-awesome/bullseye",
        "fonts-glyphicons-halflings/bullseye",
        "fonts-inconsolata/bullseye",
    ],
}
"""What to unpack for a series: names of packages, each with its suite."""

# With those of its libraries that newer suites do not have, or not by default.
PYTHON_39 = [
    "python3.9-minimal/bullseye",
    "libpython3.9-minimal/bullseye",
    "libpython3.9-stdlib/bullseye",
    "python3-distutils/bullseye",
    "python3-lib2to3/bullseye",
    "libexpat1/bullseye",
    "libffi7/bullseye",
    "libmpdec3/bullseye",
    "libreadline8/bullseye",
    "libsqlite3-0/bullseye",
    "libssl1.1/bullseye",
]

_EXTRACT = """dpkg-deb --fsys-tarfile "$1" |
    tar --extract --directory="$2" --exclude="*.po" --exclude="*.pot"
"""
"""A package without its translations, which are 0.8 of the 1.3 GB of Odoo."""


def odoo(series: str) -> Path:
    """A folder with Debian's Odoo, which its dependencies keep from being installed."""
    if series not in ODOO:
        raise SetupError(
            f"Odoo {series} is not in Debian, only {' and '.join(ODOO)} are: set"
            f" ODOO_PATH to a checkout of Odoo {series}."
        )
    return _unpack(
        STATE / f"odoo-{series}",
        f"Odoo {series}",
        ODOO[series],
        f"set ODOO_PATH to a checkout of Odoo {series}",
    )


def python_39() -> tuple[Path, dict[str, str]]:
    """A Python 3.9, and the environment variables that it needs."""
    prefix = _unpack(
        STATE / "python-3.9",
        "Python 3.9",
        PYTHON_39,
        "run this on Debian, or use a newer series of Odoo",
    )
    folders = sorted({x.parent for x in prefix.glob("**/*-linux-gnu*/lib*.so.*")})
    return prefix / "usr/bin/python3.9", {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, folders))
    }


class Tree:
    """Packages of one suite with all that they depend on, the C library among it.

    What is in it runs on any Linux: by its own loader, with its own libraries. No
    script of a package is run. What the suite does not have is left out.
    """

    def __init__(self, folder: Path, suite: str, packages: list[str]) -> None:
        self._prefix = _unpack(
            folder / f"debian-{suite}",
            f"{', '.join(packages)} of {suite}",
            [f"{package}/{suite}" for package in packages],
            "run this on Debian",
            with_dependencies=True,
        )

    def command(self, program: str) -> list[str | Path]:
        """How to run a program of it, e.g. "usr/sbin/pgbouncer".

        :raise SetupError: if the suite does not have it
        """
        path = self._prefix / program
        if not path.exists():
            raise SetupError(f"{program} is not in {self._prefix.name}.")
        loader = next(self._prefix.glob("**/ld-linux-*.so.[12]"))
        folders = sorted({x.parent for x in self._prefix.glob("**/*-linux-gnu*/*.so*")})
        return [loader, "--library-path", os.pathsep.join(map(str, folders)), path]

    @property
    def python_env(self) -> dict[str, str]:
        """What its Python needs to find its own library and packages."""
        return {
            "PYTHONHOME": str(self._prefix / "usr"),
            "PYTHONPATH": str(self._prefix / "usr/lib/python3/dist-packages"),
        }


def apt_get(*arguments: str) -> None:
    """Run apt-get in its turn: a new machine upgrades itself after its first start.

    apt takes several locks, and waits by itself (DPkg::Lock::Timeout) for one of them.
    """
    deadline = time.monotonic() + APT_PATIENCE
    for attempt in itertools.count():
        try:
            return run("apt-get", *arguments, DEBIAN_FRONTEND="noninteractive")
        except SetupError as error:
            # what is above is of an earlier one
            output = str(error).rpartition("$ apt-get ")[2]
            if "Could not get lock" not in output or time.monotonic() > deadline:
                raise
        if not attempt:
            print("waiting for another apt ...", end=" ", flush=True)
        time.sleep(1)


def _mirrors() -> list[str]:
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


def _unpack(
    prefix: Path,
    what: str,
    packages: list[str],
    instead: str,
    with_dependencies: bool = False,
) -> Path:
    """Download packages (``name/suite``) and unpack them into one folder, once."""
    if prefix.exists():
        return prefix
    if not find("apt-get") or not KEYRING.exists():
        raise SetupError(
            f"{what} is downloaded from Debian, and this is not Debian: {instead}."
        )
    apt = STATE / "apt"
    partial = prefix.with_name(f"{prefix.name}.partial")
    for folder in (apt, partial):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in ("lists/partial", "cache/archives/partial", "packages"):
        (apt / folder).mkdir(parents=True)
    sources = apt / "sources.list"
    # A machine on which nothing is installed yet: everything is a dependency to fetch.
    (apt / "status").touch()
    options = []
    for option in (
        f"Dir::Etc::SourceList={sources}",
        "Dir::Etc::SourceParts=/dev/null",
        "Dir::Etc::Preferences=/dev/null",
        "Dir::Etc::PreferencesParts=/dev/null",
        f"Dir::State::Lists={apt / 'lists'}",
        f"Dir::State::Status={apt / 'status'}",
        f"Dir::Cache={apt / 'cache'}",
        "APT::Sandbox::User=root",
        "APT::Update::Error-Mode=any",
    ):
        options += ["-o", option]
    apt_get = ["apt-get", "--quiet", *options]
    suites = dict.fromkeys(package.partition("/")[2] for package in packages)
    with step(f"Downloading {what} from Debian"):
        failure = SetupError(
            f"apt has no Debian mirror configured: add one, or {instead}."
        )
        for mirror in _mirrors():
            sources.write_text(
                "".join(
                    f"deb [signed-by={KEYRING} target=Packages] {mirror} {suite} main\n"
                    for suite in suites
                )
            )
            try:
                run(*apt_get, "update")
                if with_dependencies:
                    names = [x for x in packages if _is_known(x, options)]
                    install = ["install", "--download-only", "--no-install-recommends"]
                    run(*apt_get, *install, "--yes", *names)
                else:
                    run(*apt_get, "download", *packages, cwd=apt / "packages")
            except SetupError as error:
                failure = error
            else:
                break
        else:
            raise failure
    with step("Unpacking it"):
        partial.mkdir()
        for package in sorted(apt.glob("**/*.deb")):
            run("bash", "-o", "pipefail", "-c", _EXTRACT, "-", package, partial)
        shutil.rmtree(apt)
        partial.rename(prefix)
    return prefix


def _is_known(package: str, options: list[str]) -> bool:
    name = package.partition("/")[0]
    show = ["apt-cache", *options, "show", name]
    return subprocess.run(show, capture_output=True).returncode == 0
