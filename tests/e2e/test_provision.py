"""What setup/ does before there is a stack."""

import subprocess
import sys
import threading

import basics
import debian
import provision
import pytest
from client import wait_until

HOLD = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Where the output of apt-get goes."""
    path = tmp_path / "provision.log"
    monkeypatch.setattr(basics, "LOG", path)
    return path


@pytest.fixture
def update(tmp_path):
    """``apt-get update`` in a folder of its own, with nothing to download."""
    lists = tmp_path / "lists"
    (lists / "partial").mkdir(parents=True)
    options = [
        f"Dir::State::Lists={lists}",
        "Dir::Etc::SourceList=/dev/null",
        "Dir::Etc::SourceParts=/dev/null",
        "APT::Sandbox::User=root",
    ]
    return lists / "lock", [*(f"--option={option}" for option in options), "update"]


def hold(lock):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, lock],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    return process


def test_another_apt_is_waited_for(log, update):
    """The lock of the lists is one of those that apt does not wait for by itself."""
    lock, arguments = update
    holder = hold(lock)
    errors = []

    def run():
        try:
            debian.apt_get(*arguments)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: log.exists() and "Could not get lock" in log.read_text(), "apt")
    holder.communicate()
    thread.join()
    assert not errors


def test_an_apt_that_does_not_end(log, update, monkeypatch):
    monkeypatch.setattr(debian, "APT_PATIENCE", 0)
    lock, arguments = update
    holder = hold(lock)
    try:
        with pytest.raises(basics.SetupError, match="held by process"):
            debian.apt_get(*arguments)
    finally:
        holder.communicate()


def test_too_little_disk(monkeypatch, tmp_path):
    """Told before anything is downloaded, and only if something has to be."""
    monkeypatch.setattr(provision, "STATE", tmp_path)
    monkeypatch.setattr(provision, "STACK_GB", 10**9)
    with pytest.raises(basics.SetupError, match=r"takes 1000000000\.0 GB .* are free"):
        provision.check_disk(False)
    (tmp_path / "data").mkdir()
    provision.check_disk(False)
