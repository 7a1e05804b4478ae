"""What must hold of PostgreSQL, of Odoo's processes and of the log, whatever fails."""

from __future__ import annotations

import re
import time
from typing import Any

import psutil
import psycopg2

from soaking.faults import Site
from soaking.ledger import Ledger
from soaking.traffic import Actor

OURS = "/* bus_alt_connection */%"
"""What the queries by our roads begin with."""

OUTLIVES = 5.0
"""Seconds for which a backend outlives who has left it: they wait for locks for 3 s."""

LEAVERS = ("evented_killed", "pooler_restarted", "backends_terminated")
"""Faults after which a road is another one than before."""

GROWTH = {"descriptors": 12, "threads": 8, "MiB": 60}
"""What a process may have more than at its first calm moment."""

LINES_PER_FAULT = 15
"""Of ours in the log."""

BUG = re.compile(
    r" (?:WARNING|ERROR|CRITICAL) .*bus_alt_connection\.[\w.]+: .*\n(?=Traceback)"
)
"""A line of ours with a traceback: something that was not foreseen."""


class Backends(Actor):
    """Looks again and again how many of our queries PostgreSQL has at once."""

    def __init__(self, site: Site, ledger: Ledger) -> None:
        super().__init__()
        self.most = 0
        self._site = site
        self._ledger = ledger
        self._left: list[float] = []

    def left(self) -> None:
        """A fault has made somebody leave a query of ours."""
        self._left.append(time.monotonic())

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._watch()
            except (psycopg2.Error, OSError):
                self.pause(0.5)

    def _watch(self) -> None:
        conn = self._site.stack.connect("postgres", role="postgres")
        conn.autocommit = True
        with conn.cursor() as cr:
            while not self._stopped.is_set():
                self._look(cr)
                self.pause(0.3)

    def _look(self, cr: Any) -> None:
        cr.execute(
            "SELECT datname, count(*) FROM pg_stat_activity"
            " WHERE query LIKE %s AND state = 'active' GROUP BY datname",
            (OURS,),
        )
        since = time.monotonic() - OUTLIVES
        left = sum(at > since for at in self._left)
        for database, count in cr.fetchall():
            self.most = max(self.most, count)
            if count > 1 + left:
                self._ledger.violated(f"{count} backends of one road to {database}")


class Processes:
    """What the evented process and the cron worker use, in calm moments."""

    def __init__(self, site: Site, ledger: Ledger) -> None:
        self.seen: list[dict[str, Any]] = []
        self._site = site
        self._ledger = ledger
        self._first: dict[int, dict[str, float]] = {}

    def look(self) -> None:
        for kind, process in (
            ("evented", self._site.evented()),
            ("cron", psutil.Process(self._site.cron_pid())),
        ):
            used = {
                "descriptors": process.num_fds(),
                "threads": process.num_threads(),
                "MiB": round(process.memory_info().rss / 2**20),
            }
            self.seen.append({"kind": kind, "pid": process.pid, **used})
            first = self._first.setdefault(process.pid, used)
            for what, growth in GROWTH.items():
                if used[what] > first[what] + growth:
                    self._ledger.violated(
                        f"{kind} process {process.pid}: {first[what]} {what} before,"
                        f" {used[what]} now"
                    )


class Log:
    """The addon's lines in the server's log."""

    def __init__(self, server: Any, ledger: Ledger) -> None:
        self.lines = 0
        self._path = server.log
        self._ledger = ledger
        self._read = 0

    def look(self, faults: int) -> None:
        """Judge what was written since the last time, with so many faults."""
        with self._path.open() as log:
            log.seek(self._read)
            text = log.read()
            self._read = log.tell()
        lines = sum(" odoo.addons.bus_alt_connection" in x for x in text.splitlines())
        self.lines += lines
        if lines > LINES_PER_FAULT * (faults + 1):
            self._ledger.violated(f"{lines} lines of ours in the log")
        for found in BUG.findall(text):
            self._ledger.violated(f"a traceback in the log: {found.strip()}")
