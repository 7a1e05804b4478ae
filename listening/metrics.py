"""What has happened, in numbers, for a monitoring system.

To count is to add one to an integer. Those of the process with the websockets lie in
its own memory. The scheduled actions listen in processes that come and go, and nobody
can ask them: they count in memory which they share with who tells.

Why the :class:`Slots` are right. The file has no name, and is gone with the last
process that has it open. A process takes the first slot that nobody has, by a lock on
it that the kernel ends with the process, however it ends; so a slot has one writer at a
time. The next one goes on from what it finds there: no counter ever goes back, and
there are as many slots as there were processes at one time. Whoever reads adds all of
them up, and takes for alive those that are locked.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import threading

try:
    import fcntl
except ImportError:
    # there are threads only on Windows
    fcntl = None

#: Only grow: connections opened, attempts at one that failed, connections lost and
#: among them those found deaf; notifications heard, pieces of them that were junk;
#: canaries sent; readings of a table, and attempts at one that failed.
COUNTERS = (
    "connects",
    "connect_failures",
    "losses",
    "deaf",
    "notifications",
    "junk",
    "canaries",
    "readings",
    "failed_readings",
)


class Metrics(ctypes.Structure):
    """Of one listening connection, and the tables read beside it.

    - :data:`COUNTERS`
    - ``state``: what :attr:`.state.State.CONNECTION_STATES` has at this index
    - ``round_trip``: seconds from when the last canary was to be sent to its arrival;
      0.0 if none has come yet
    """

    _fields_ = [
        *((name, ctypes.c_uint64) for name in (*COUNTERS, "state")),
        ("round_trip", ctypes.c_double),
    ]


class Slots:
    """Metrics of the processes and threads that come and go, in shared memory.

    :param path: of the file, as another process has it open; None: a new one
    :raise OSError: if there can be no such file
    """

    #: 64 of 88 bytes are 6 kB. Odoo has 2 cron workers by default.
    COUNT = 64

    def __init__(self, path: str | None = None) -> None:
        size = ctypes.sizeof(Metrics) * self.COUNT
        if path is None:
            self._file = tempfile.TemporaryFile()
            # and not truncated to: a full disk is an error here, and SIGBUS later
            self._file.write(bytes(size))
            self._file.flush()
        else:
            self._file = open(path, "r+b")
            if os.fstat(self._file.fileno()).st_size != size:
                # a process that executes itself anew has others by the same number
                raise OSError(f"{path} is another file by now")
        self._slots = (Metrics * self.COUNT).from_buffer(
            mmap.mmap(self._file.fileno(), size)
        )
        # of this process, as the kernel refuses only others' locks
        self._taken: dict[int, Metrics] = {}
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._file.fileno()

    def take(self) -> Metrics | None:
        """Return a slot that nobody else writes; None if there is none left."""
        with self._lock:
            for index in range(self.COUNT):
                if index not in self._taken and self._try_lock(index):
                    return self._taken.setdefault(index, self._slots[index])
        return None

    def give_back(self, metrics: Metrics) -> None:
        """Let somebody else have a slot."""
        with self._lock:
            for index in [i for i, each in self._taken.items() if each is metrics]:
                del self._taken[index]
                self._unlock(index)

    def total(self) -> Metrics:
        """Return the sums of the counters."""
        totals = [sum(getattr(s, name) for s in self._slots) for name in COUNTERS]
        return Metrics(*totals)

    def alive(self) -> list[Metrics]:
        """Return the slots that somebody has."""
        with self._lock:
            return [s for index, s in enumerate(self._slots) if self._is_alive(index)]

    def _is_alive(self, index: int) -> bool:
        if index in self._taken:
            return True
        # shared: whoever looks at the same time is not taken for alive
        if self._try_lock(index, is_shared=True):
            # who wants one at this moment takes the next
            self._unlock(index)
            return False
        return True

    def _try_lock(self, index: int, is_shared: bool = False) -> bool:
        if fcntl is None:
            return True
        kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
        try:
            fcntl.lockf(self._file, kind | fcntl.LOCK_NB, 1, index)
        except OSError:
            return False
        return True

    def _unlock(self, index: int) -> None:
        if fcntl is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, index)
