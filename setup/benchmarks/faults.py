"""How late messages are while something goes wrong: stock Odoo beside ours.

Ours is what the end-to-end tests find: they run as they are, and what they record is
read from their report. Stock goes through the same scenarios, by calling the tests'
functions, where it has the part that fails. It spends nearly all of that time waiting,
and so does it on a stack of its own while the tests run.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import test_never_deaf as tests
from client import evented_worker
from odoo_server import Odoo
from probe import Probe
from provision import ROOT, step
from proxy import Proxy
from stack import Stack

#: Seconds after which stock is not waited for any more: 50 s is how long it sleeps
#: after an error, and whatever is later than this is as good as never.
CAP = 60

#: Seconds without a late message after which stock has recovered, and what is late.
RECOVERED, LATE = 3.0, 1.0

#: In this order: stock cannot be used any more after the last one.
SCENARIOS = (
    tests.test_backend_terminated,
    tests.test_postgres_restart,
    tests.test_junk_flood,
    tests.test_frozen_backend,
)

#: The tests that find what becomes of ours: also the slow ones, of which one waits for
#: the safety net, but not those that do the same as another for longer.
TESTS = (
    *("test_never_deaf.py", "test_failover.py", "test_renewal.py::test_renewal"),
    *("-m", "", "-k", "not [60]"),
)

#: What they print of each figure.
RECORD = re.compile(
    r"^(?P<fault>.+): worst lateness (?P<seconds>[\d.]+) s"
    r" \(to reach: (?P<to_reach>[\d.]+) s\)$",
    re.MULTILINE,
)

DATABASE = "bench_faults"

#: What has no fault: by name the addon, and whether it is direct.
WITHOUT_FAULT = {
    "stock": (None, True),
    "ours": ("server-wide", False),
    "pooled": (None, False),
}

#: Seconds of messages that do not count, as the first one makes Odoo listen, and of
#: those that do.
WARM_UP, QUIET = 2.0, 20.0


class BoundedProbe(Probe):
    """One that does not wait for ever: a message may have been late, or never come.

    It goes on sending until messages arrive in time again, since stock Odoo delivers
    what it has missed with the next message only.
    """

    def wait_recovered(self) -> None:
        """Wait until nothing is late any more, or something is for `CAP`."""
        quiet_since = time.monotonic()
        while (age := self._oldest()) < CAP:
            now = time.monotonic()
            if age > LATE:
                quiet_since = now
            if now - quiet_since > RECOVERED:
                return
            time.sleep(0.05)

    def __exit__(self, exc_type: type | None, *exc_info: object) -> None:
        if exc_type is None:
            self.wait_recovered()
        oldest = self._oldest()
        if exc_type is None and oldest >= CAP:
            # Given up: what is missing is not waited for.
            super().__exit__(TimeoutError)
            self.worst = oldest
        else:
            super().__exit__(exc_type, *exc_info)

    def _oldest(self) -> float:
        """Return the age of the oldest message that is missing."""
        sent = [self._sent[text] for text in self._missing()]
        return time.monotonic() - min(sent) if sent else 0.0


class OneLinkProxy(Proxy):
    """One that swallows what goes over a single connection."""

    port_to_swallow = 0

    async def _swallow(self) -> None:
        for link in self._links:
            upstream = link.writers[-1]
            if upstream.get_extra_info("sockname")[1] == self.port_to_swallow:
                link.is_swallowed = True


class Stock:
    """What the tests' functions ask for, by the same names, of stock Odoo."""

    def __init__(self, stack: Stack, server: Odoo, proxy: Proxy | None = None) -> None:
        self.stack = stack
        self.server = server
        self.proxy = proxy
        self.records: list[dict[str, Any]] = []

    def run(self, scenario: Callable[..., None]) -> None:
        """Run a test's function; what fails there is recorded as well."""
        self.probe = BoundedProbe(self.stack, self.server, DATABASE)
        names = inspect.signature(scenario).parameters
        try:
            scenario(**{name: getattr(self, name) for name in names})
        except AssertionError as error:
            self.records.append({"scenario": scenario.__name__, "failed": str(error)})

    def record(self, fault: str, seconds: float, to_reach: float) -> None:
        self.records.append({"fault": fault, "seconds": seconds})

    def listening(self, server: Odoo, other_than: Sequence[int] = ()) -> int:
        """Return the backend of the listening connection, a new one if there is.

        It is the only connection that the process with the websockets has to the
        database "postgres".
        """
        if other_than:
            self.probe.wait_recovered()
        evented = evented_worker(server)
        [(pid, port)] = self.stack.execute(
            "SELECT pid, client_port FROM pg_stat_activity"
            f" WHERE datname = 'postgres' AND application_name = 'odoo-{evented.pid}'"
        ) or [(0, 0)]
        if self.proxy:
            self.proxy.port_to_swallow = port
        return pid

    def listeners(self, server: Odoo) -> list[int]:
        """Nobody's end is waited for: stock keeps a connection that has failed."""
        return []

    def sql(self, query: str, *args: object) -> None:
        connection = self.stack.connect("postgres", role="postgres")
        with contextlib.closing(connection), connection.cursor() as cr:
            cr.execute(query, args)


def start(
    stack: Stack, *args: str, addon: str | None = None, direct: bool = True
) -> Odoo:
    return stack.odoo(
        DATABASE,
        addon=addon,
        direct=direct,
        preload=False,
        args=["--max-cron-threads=0", *args],
    )


def measure_without_fault(stack: Stack) -> dict[str, float]:
    """Return the worst lateness while nothing goes wrong, `CAP` or more for never."""
    found = {}
    for name, (addon, direct) in WITHOUT_FAULT.items():
        with start(stack, addon=addon, direct=direct) as server:
            for seconds in (WARM_UP, QUIET):
                with BoundedProbe(stack, server, DATABASE) as probe:
                    time.sleep(seconds)
        found[name] = probe.worst
    return found


def measure_stock(stack: Stack) -> list[dict[str, Any]]:
    """Return the worst lateness under each of the faults that stock can have."""
    with start(stack) as server:
        stock = Stock(stack, server)
        for scenario in SCENARIOS:
            stock.run(scenario)
    with OneLinkProxy(stack.ports.postgres) as proxy:
        through_proxy = [f"--db_host={proxy.host}", f"--db_port={proxy.port}"]
        with start(stack, *through_proxy) as server:
            half_open = Stock(stack, server, proxy)
            half_open.run(tests.test_half_open)
    return stock.records + half_open.records


@contextlib.contextmanager
def running_tests(report: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The end-to-end tests of the faults, at the same time."""
    report.unlink(missing_ok=True)
    with report.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", *TESTS),
                *(f"--junitxml={report}", "-o", "junit_logging=system-out"),
            ],
            cwd=ROOT / "tests" / "e2e",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # An interrupt at the terminal is passed on once, not twice.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()


def read_report(report: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what the tests recorded, and the names of those that did not get to it."""
    records, failed = [], []
    if not report.exists():
        return [], [f"all, see {report.with_suffix('.log')}"]
    for case in ElementTree.parse(report).iter("testcase"):
        found = list(RECORD.finditer(case.findtext("system-out", "")))
        records += [
            {
                "fault": each["fault"],
                "to_reach": float(each["to_reach"]),
                "seconds": float(each["seconds"]),
            }
            for each in found
        ]
        if not found and any(case.find(x) is not None for x in ("failure", "error")):
            failed.append(case.get("name", ""))
    return records, failed


def measure(stack: Stack) -> dict[str, Any]:
    report = stack.logs / "faults.xml"
    stack.create_database(DATABASE)
    with step("Messages without a fault"):
        without_fault = measure_without_fault(stack)
    with step("Faults, one after the other"), running_tests(report) as process:
        stock = measure_stock(stack)
        process.wait()
    ours, failed = read_report(report)
    return {
        "without_fault": without_fault,
        "ours": ours,
        "failed": failed,
        "stock": stock,
        "cap": CAP,
    }
