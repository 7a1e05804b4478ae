"""What was committed, what has arrived where, and by when it should have.

A message may be late by `GRACE`, whatever becomes of the listening connection. Only
while a fault keeps Odoo itself from reading the table, nothing can arrive: then `GRACE`
begins anew with its end.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator

GRACE = 12.0
"""Seconds: deafness is noticed within 8 s, and within 10 s if no canary can be sent;
2 s are for connecting and reading."""


class Ledger:
    """All times are those of `time.monotonic()`."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.violations: list[str] = []
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._pending: dict[tuple[str, str], float] = {}
        self._overdue: dict[tuple[str, str], float] = {}
        self._arrived: set[tuple[str, str]] = set()
        self._lateness: list[float] = []

    def violated(self, what: str) -> None:
        """Something does not hold."""
        at = time.monotonic() - self.start
        with self._lock:
            now = [fault.name for fault in self._faults if fault.end is None]
        text = f"at {at:.1f} s, during {', '.join(now) or 'no fault'}: {what}"
        self.violations.append(text)
        print(f"  VIOLATED {text}", flush=True)

    # What happens

    @contextlib.contextmanager
    def fault(self, name: str, blocks: bool) -> Iterator[None]:
        """For as long as the fault lasts; whether it keeps Odoo from the table."""
        fault = Fault(name, blocks, time.monotonic())
        with self._lock:
            self._faults.append(fault)
        try:
            yield
        finally:
            fault.end = time.monotonic()

    def committed(self, text: str, receivers: list[str]) -> None:
        """A message was committed, which all these are to receive."""
        now = time.monotonic()
        with self._lock:
            for key in {(text, receiver) for receiver in receivers} - self._arrived:
                self._pending[key] = now

    def arrived(self, text: str, receiver: str) -> None:
        """It has come, maybe once more, maybe before its COMMIT was known."""
        now = time.monotonic()
        with self._lock:
            self._arrived.add((text, receiver))
            committed = self._pending.pop((text, receiver), None)
            if committed is None:
                committed = self._overdue.pop((text, receiver), None)
            if committed is not None:
                self._lateness.append(now - committed)

    # What is known

    def deadline(self, since: float) -> float:
        """By when that must have had its effect which was done then; maybe infinity."""
        deadline = since + GRACE
        with self._lock:
            blocking = [fault for fault in self._faults if fault.blocks]
        for fault in sorted(blocking, key=lambda fault: fault.start):
            end = float("inf") if fault.end is None else fault.end
            if fault.start <= deadline and end > deadline - GRACE:
                deadline = end + GRACE
        return deadline

    def is_calm(self, since: float, until: float) -> bool:
        """Whether there was no fault between these."""
        with self._lock:
            return not any(
                fault.start < until and (fault.end is None or fault.end > since)
                for fault in self._faults
            )

    def check(self) -> None:
        """Find what should have arrived, and tell of it once."""
        now = time.monotonic()
        with self._lock:
            # nothing younger can be overdue
            old = {k: at for k, at in self._pending.items() if at < now - GRACE}
        deadlines = {at: self.deadline(at) for at in set(old.values())}
        overdue = {key: at for key, at in old.items() if deadlines[at] < now}
        with self._lock:
            for key in overdue:
                if key in self._pending:
                    self._overdue[key] = self._pending.pop(key)
                    overdue[key] = self._overdue[key]
        for (text, receiver), at in overdue.items():
            self.violated(
                f"{text}, committed at {at - self.start:.1f} s, has not come to"
                f" {receiver}"
            )

    def waits(self) -> bool:
        """Whether something is still to arrive."""
        with self._lock:
            return bool(self._pending)

    def figures(self) -> dict[str, float | int]:
        """Of all messages: how many were received, and how late they were, in s."""
        with self._lock:
            late = sorted(self._lateness)
            never = len(self._overdue) + len(self._pending)
        if len(late) < 2:
            return {"received": len(late), "never": never}
        quantiles = statistics.quantiles(late, n=100)
        return {
            "received": len(late),
            "never": never,
            "p50": round(quantiles[49], 4),
            "p99": round(quantiles[98], 2),
            "worst": round(late[-1], 2),
        }


class Fault:
    """One, from its start to its end, which is None while it lasts."""

    def __init__(self, name: str, blocks: bool, start: float) -> None:
        self.name = name
        self.blocks = blocks
        self.start = start
        self.end: float | None = None
