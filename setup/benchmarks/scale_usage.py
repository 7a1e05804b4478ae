"""What processes use of a machine in some time: CPU seconds, and how often they wake.

To the nanosecond: an idle listener takes less than one of the ticks of 10 ms in which
the kernel tells others of it.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from .figures import Figures

HOUR = 3600.0

_SWITCHES = re.compile(r"^voluntary_ctxt_switches:\s*(\d+)", re.MULTILINE)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, all its threads together.

    :raise OSError: if there is none of that id
    """
    # clock_getcpuclockid(3), which Python lacks
    return time.clock_gettime((~pid << 3) | 2)


def wake_ups(pid: int) -> int:
    """Return how often the threads of a process have gone to sleep so far.

    :raise OSError: if there is none of that id
    """
    found = (
        _SWITCHES.search(path.read_text())
        for path in Path(f"/proc/{pid}/task").glob("*/status")
    )
    return sum(int(each[1]) for each in found if each)


def family(pid: int) -> list[int]:
    """Return the ids of a process and of its descendants."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


class Usage:
    """Of groups of processes, since it was made.

    :param groups: for each, what returns the ids of its processes. What begins
        meanwhile counts; what has ended by the end does not.
    """

    def __init__(self, groups: dict[str, Callable[[], Iterable[int]]]) -> None:
        self._groups = groups
        self._since = time.monotonic()
        self._before = self._look()

    def so_far(self) -> Figures:
        """Return for each group its CPU seconds and wake-ups, and the seconds."""
        now = self._look()
        found: Figures = {"seconds": time.monotonic() - self._since}
        for group, processes in now.items():
            before = self._before[group]
            cpu = woken = 0.0
            for pid, (cpu_then, woken_then) in processes.items():
                cpu_before, woken_before = before.get(pid, (0.0, 0))
                cpu += cpu_then - cpu_before
                woken += woken_then - woken_before
            found[group] = {"cpu_s": cpu, "wake_ups": woken}
        return found

    def _look(self) -> dict[str, dict[int, tuple[float, int]]]:
        found: dict[str, dict[int, tuple[float, int]]] = {}
        for group, pids in self._groups.items():
            found[group] = {}
            for pid in pids():
                with contextlib.suppress(OSError):
                    found[group][pid] = cpu_seconds(pid), wake_ups(pid)
        return found


def per_hour(value: float, seconds: float) -> float:
    return value * HOUR / seconds
