"""The bus table is the truth: reading it when NOTIFY cannot be relied upon.

Rows of ``bus_bus`` are the messages; NOTIFY only tells that there are some. So nothing
is lost as long as somebody looks into the table: often while nobody is known to listen,
once after each LISTEN for what came before it, and now and then for the sake of rows
whose NOTIFY was never sent.

The :class:`Poller` reads by the road of Odoo's own queries. It tells which channels
have new rows: a catch-up of 1,000 websockets of which 10 have mail costs 10 fetches.

A reading that is due is a thread of its own, a handful at a time. One that is slow,
because its table is locked or its server frozen, gives its place up after a second and
goes on; so it delays no other.
"""

from __future__ import annotations

import copy
import random
import threading
import time
from typing import Any, Callable

from .bus_table import LAST_ID, BusTable, News
from .road import Road
from .state import State

#: What a reading may have to wait for: ACCESS EXCLUSIVE, by LOCK TABLE, ALTER TABLE,
#: VACUUM FULL.
LOCK = "a lock on bus_bus"


class _Database:
    """One that has subscribers. ``due`` and ``started``: ``time.monotonic()``."""

    def __init__(self, road: Road, due: float) -> None:
        self.table = BusTable()
        self.road = road
        self.due = due
        self.started: float | None = None
        #: whether the last reading has succeeded
        self.is_good = False


class Poller:
    """Read ``bus_bus`` of every database that has subscribers.

    :param make_road: returns the road to the database of that name
    :param audience: ``databases()`` returns the names of the databases, and may take
        long; ``wake(database, rows)`` is told of new rows (:data:`.bus_table.Rows`),
        and ``rewind(database, is_failover, last_id)`` that they may be others than
        those seen before (:class:`.bus_table.News`); ``last_id()`` returns the greatest
        id given so far
    :param state: tells whether NOTIFY is known to arrive; is told of the readings
    """

    #: Seconds between two readings of a database while nobody is known to listen: with
    #: the readings themselves a message is 1 s late at the worst.
    INTERVAL = 0.8

    #: Seconds between two readings while NOTIFY arrives, for rows whose NOTIFY was
    #: never sent: their sender died between COMMIT and NOTIFY. Two databases are so
    #: many seconds apart that the pooler, which keeps a server connection for 30 s
    #: after each (``server_idle_timeout``), never has more than 30 / 2.75 = 11 of them.
    SAFETY_INTERVAL = 300.0
    SAFETY_SPACING = 2.75

    #: Seconds until a database is read again that could not be read.
    FAILED_INTERVAL = 2.0

    #: How many readings are under way at once: of those that began within the last
    #: SLOW_AFTER seconds, as many again of databases that have not been read the last
    #: time; and in all, of which some are for those that have. So many connections are
    #: kept as well, while nobody is known to listen.
    MAX_FRESH = 5
    SLOW_AFTER = 1.0
    MAX_READINGS = 50
    RESERVED = 10

    #: Finding the databases takes 1 / so much of the time at most: with 200,000
    #: channels it takes 87 ms.
    WALK_SHARE = 20

    def __init__(
        self, make_road: Callable[[str], Road], audience: Any, state: State
    ) -> None:
        self._make_road = make_road
        self._audience = audience
        self._state = state
        self._databases: dict[str, _Database] = {}
        # between what plans a reading and what asks for one
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._stopped = False
        # time.monotonic(): when to look for databases; the last safety reading planned
        self._next_walk = 0.0
        self._last_slot = 0.0

    def read_all(self, within: float = 0.0, apart: float = 0.0) -> None:
        """Read every database. To be called from any thread.

        :param within: in so many seconds at the latest
        :param apart: so many seconds apart, those first that are due first
        """
        due = time.monotonic() + within
        with self._lock:
            for database in sorted(
                list(self._databases.values()), key=lambda each: each.due
            ):
                # one that is being read may have looked too early
                begun = database.started
                if database.due > due or (begun and database.due <= begun):
                    database.due = due
                due += apart
            if not apart:
                # none of the safety readings will be when it was planned
                self._last_slot = 0.0
        self._next_walk = min(self._next_walk, time.monotonic() + within)
        self._woken.set()

    def stop(self) -> None:
        """Make :meth:`run` return soon. To be called from any thread."""
        self._stopped = True
        self._woken.set()

    def run(self) -> None:
        """Read until stopped. Raises nothing."""
        while not self._stopped:
            # cleared first: what is asked for from now on is another round
            self._woken.clear()
            try:
                wait = self._start_readings()
            except Exception:
                self._state.bug("The bus tables cannot be read")
                wait = self.INTERVAL
            self._woken.wait(wait)

    def _start_readings(self) -> float:
        """Begin the readings that are due; return the seconds until the next one."""
        now = time.monotonic()
        if now >= self._next_walk:
            self._find_databases(now)
        databases = list(self._databases.items())
        running = [d for _name, d in databases if d.started is not None]
        fresh = [d for d in running if now - d.started < self.SLOW_AFTER]
        # those that may fail are on their own, so as not to delay the others
        places = {
            is_good: min(
                self.MAX_FRESH - sum(d.is_good == is_good for d in fresh),
                self.MAX_READINGS - reserved - len(running),
            )
            for is_good, reserved in ((True, 0), (False, self.RESERVED))
        }
        next_due = self._next_walk
        # a place becomes free with an end, which wakes us, or when one is slow
        next_place = min((d.started + self.SLOW_AFTER for d in fresh), default=now + 1)
        for name, database in sorted(databases, key=lambda item: item[1].due):
            if database.started is not None:
                continue
            if database.due > now:
                next_due = min(next_due, database.due)
                break
            if places[database.is_good] <= 0:
                next_due = min(next_due, next_place)
                continue
            places[database.is_good] -= 1
            self._start(name, database, now)
        return max(next_due - time.monotonic(), 0.0)

    def _find_databases(self, now: float) -> None:
        found = set(self._audience.databases())
        took = time.monotonic() - now
        for name in set(self._databases) - found:
            # one that is being read keeps its road, which is the only one to it
            if self._databases[name].started is None:
                self._databases.pop(name).road.close()
                self._state.table_forgotten(name)
        for name in found - set(self._databases):
            self._databases[name] = _Database(self._make_road(name), now)
        interval = self.SAFETY_INTERVAL if self._state.is_listening else self.INTERVAL
        self._next_walk = now + max(interval, self.WALK_SHARE * took)

    def _start(self, name: str, database: _Database, now: float) -> None:
        database.started = now
        try:
            threading.Thread(
                target=self._read,
                args=(name, database),
                name=f"{__name__}.{name}",
                daemon=True,
            ).start()
        except BaseException:
            database.started = None
            raise

    def _read(self, name: str, database: _Database) -> None:
        """Read one database, in a thread of its own, and plan its next reading."""
        is_good = False
        self._state.table_wanted(name)
        # what cannot be told of it now, the next reading finds again
        table = copy.copy(database.table)
        try:
            news = table.fetch(lambda text, args: database.road.query(text, args, LOCK))
            self._pass_on(name, database.road, news)
            database.table, is_good = table, True
            self._state.table_read(name)
        except Exception as error:
            self._state.table_failed(name, error)
        finally:
            self._plan(database, is_good)
            self._woken.set()

    def _pass_on(self, name: str, road: Road, news: News) -> None:
        """Tell of news."""

        def last_id() -> int:
            return road.query(f"SELECT {LAST_ID}", lock=LOCK)[0][0]

        try:
            if news.is_other:
                self._audience.rewind(name, news.is_failover, last_id)
        finally:
            if news.rows is None or news.rows:
                self._audience.wake(name, news.rows)

    def _plan(self, database: _Database, is_good: bool) -> None:
        """Set when to read a database again."""
        now = time.monotonic()
        is_listening = self._state.is_listening
        if not is_good:
            due = now + self.FAILED_INTERVAL
        elif is_listening:
            due = now + self.SAFETY_INTERVAL * random.uniform(0.9, 1.1)
            self._last_slot = due = max(due, self._last_slot + self.SAFETY_SPACING)
        else:
            due = now + self.INTERVAL
        is_open = [other.road.is_open for other in list(self._databases.values())]
        if is_listening or sum(is_open) > self.MAX_READINGS:
            database.road.close()
        with self._lock:
            database.is_good = is_good
            # unless it was asked for meanwhile
            if database.due <= database.started:
                database.due = due
            database.started = None
