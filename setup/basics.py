"""What all scripts here have in common: folders, errors, words to the user."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETUP = ROOT / "setup"
STATE = ROOT / ".stack"
LOG = STATE / "provision.log"
LINK = ROOT / ".link" / "odoo" / "addons" / "bus_alt_connection"
"""The addon by its name, whatever its checkout is called."""


class SetupError(Exception):
    """A failure that was foreseen: its message is all that the user gets to see."""


def link_addon() -> None:
    """Make the link, for who needs a folder with this addon in it."""
    LINK.parent.mkdir(parents=True, exist_ok=True)
    if not LINK.is_symlink():
        LINK.symlink_to("../../..")


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
    """Around the main program: print a SetupError instead of a traceback.

    A signal that ends the program lets it stop first what it has started.
    """
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _interrupt)
    try:
        yield
    except SetupError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def run(*command: str | Path, cwd: Path | None = None, **env: str) -> None:
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


def find(program: str) -> Path | None:
    """Like `which`, also where only root's PATH leads to."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin"])
    found = shutil.which(program, path=path)
    return Path(found) if found else None
