"""Counts of processes that come and go, and are killed; without Odoo."""

import contextlib
import errno
import multiprocessing
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from listening.metrics import Slots

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def slots():
    return Slots()


@contextlib.contextmanager
def forked(function):
    """A process that was forked and has done this; it stands still until killed."""

    def run():
        function()
        ready.set()
        stop.wait()

    ready, stop = FORK.Event(), FORK.Event()
    process = FORK.Process(target=run)
    process.start()
    try:
        assert ready.wait(60)
        yield process
    finally:
        process.kill()
        process.join()


def counting(slots, count=1):
    """A process that took a slot and has counted so many losses."""

    def count_losses():
        slots.take().losses += count

    return forked(count_losses)


def test_as_many_are_alive_as_there_are(slots):
    assert not slots.alive()
    with counting(slots), counting(slots, 2):
        assert sorted(each.losses for each in slots.alive()) == [1, 2]
        # whoever looks takes nothing away
        assert len(slots.alive()) == 2
    assert not slots.alive()


def test_whoever_looks_is_not_alive(slots):
    """Nor is one that stands still while it does."""

    def look():
        slots._unlock = lambda index: None
        assert not slots.alive()

    with forked(look):
        assert not slots.alive()


def test_the_next_one_goes_on_counting(slots):
    for number in range(1, 4):
        with counting(slots):
            [alive] = slots.alive()
            assert alive.losses == slots.total().losses == number
        assert slots.total().losses == number


READ = """
import sys
from listening.metrics import Slots

slots = Slots(sys.argv[1])
print(len(slots.alive()), slots.total().losses)
"""


def test_a_process_that_was_not_forked_finds_them(slots):
    """By its parent's file, which nobody finds in a folder."""
    path = f"/proc/{os.getpid()}/fd/{slots.fileno()}"
    assert "(deleted)" in os.readlink(path)

    def read():
        command = [sys.executable, "-c", READ, path]
        return subprocess.check_output(command, cwd=ROOT, text=True).split()

    slots.take().losses += 1
    with counting(slots):
        assert read() == ["2", "2"]
    assert read() == ["1", "2"]


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
def test_another_file_by_that_number(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    with pytest.raises(OSError, match="another file"):
        Slots(path)


def test_a_full_disk_is_an_error(monkeypatch):
    """And not a signal that ends the process, later."""
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: open("/dev/full", "r+b"))
    with pytest.raises(OSError) as raised:
        Slots()
    assert raised.value.errno == errno.ENOSPC
