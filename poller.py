"""The bus table is the truth: reading it when NOTIFY cannot be relied upon.

Rows of ``bus_bus`` are the messages; NOTIFY only tells that there are some. So nothing
is lost as long as somebody looks into the table: often while nobody is known to listen,
once after each LISTEN for what came before it, and now and then for the sake of rows
whose NOTIFY was never sent.

The :class:`Poller` reads by the road of Odoo's own queries, in a thread of its own. It
wakes only the channels that have new rows: a catch-up of 1,000 websockets of which 10
have mail costs 10 fetches.
"""

import collections
import json
import logging
import threading
import time

from .reach import one_line
from .throttle import Throttle

_logger = logging.getLogger(__name__)


class Table:
    """New rows of one database's ``bus_bus``, whatever the order of their commits.

    An id is given when a row is inserted, but the row is seen when its transaction
    commits, so that a smaller id can appear after a greater one. Every gap below the
    greatest id seen is therefore remembered, and looked into again until no row can
    appear there any more: when all transactions have ended that had begun when the gap
    was first seen (``txid_snapshot_xmin`` has passed that snapshot's ``xmax``), and
    :data:`GRACE` seconds later, because a transaction gets its own id just after it
    took one from the sequence.
    """

    #: Seconds for which a gap is kept at least.
    GRACE = 10.0

    #: How many ids before the greatest one are searched for gaps at first.
    LOOK_BACK = 1000

    #: How many rows are read at once from after the last one, and from a gap.
    MAX_ROWS = 10000

    #: How many gaps are kept apart. Each is a transaction that is open, or was rolled
    #: back since the oldest open one began. With more of them neighbours are merged,
    #: at the cost that rows between them are read again.
    MAX_GAPS = 200

    # One statement, for one snapshot. The first row is about that, the others are rows
    # of the table: after the last one seen (number 0), or in the gap of that number.
    # LATERAL keeps the planner from scanning the table for many gaps at once.
    QUERY = """
        WITH start AS (
            SELECT coalesce(max(id), 0) AS greatest,
                   coalesce(%(last)s, coalesce(max(id), 0) - %(look_back)s) AS last
            FROM bus_bus
        )
        SELECT -1 AS number, greatest AS id,
               concat_ws(' ', last, txid_snapshot_xmin(txid_current_snapshot()),
                         txid_snapshot_xmax(txid_current_snapshot())) AS channel
        FROM start
        UNION ALL
        (SELECT 0, id, channel FROM bus_bus
         WHERE id > (SELECT last FROM start) ORDER BY id LIMIT %(max_rows)s)
        UNION ALL
        SELECT gap.number, late.id, late.channel
        FROM unnest(%(firsts)s::bigint[], %(lasts)s::bigint[])
             WITH ORDINALITY AS gap(first, last, number),
             LATERAL (SELECT id, channel FROM bus_bus
                      WHERE id BETWEEN gap.first AND gap.last
                      ORDER BY id LIMIT %(max_rows)s) AS late
    """

    def __init__(self):
        self._last = None
        # list of (first id, last id, xmax of the snapshot, monotonic time)
        self._gaps = []
        # (xmax, monotonic time) of the first snapshot, until nothing can appear any
        # more that was open then
        self._first_snapshot = None

    def fetch(self, query):
        """Return the channels that have rows not returned before.

        :param query: callable that executes a query with arguments and returns rows
        :return: set of str, as in ``bus_bus.channel``; None means that any may have
        """
        channels = set()
        while True:
            try:
                found, is_complete = self._fetch(query)
            except BaseException:
                if channels != set():
                    # these were read, and are not returned: wake everybody next time
                    self.__init__()
                raise
            if found is None or channels is None:
                channels = None
            else:
                channels |= found
            if is_complete:
                return channels

    def _fetch(self, query):
        now = time.monotonic()
        rows = query(
            self.QUERY,
            {
                "last": self._last,
                "look_back": self.LOOK_BACK,
                "max_rows": self.MAX_ROWS,
                "firsts": [gap[0] for gap in self._gaps],
                "lasts": [gap[1] for gap in self._gaps],
            },
        )
        by_number = collections.defaultdict(list)
        # sorted, because UNION ALL promises no order
        for number, *row in sorted(rows):
            by_number[number].append(row)
        [(greatest, snapshot)] = by_number.pop(-1)
        start, xmin, xmax = map(int, snapshot.split())
        if greatest < start and self._last is not None:
            # rows were deleted, or the database was replaced by another one
            self.__init__()
            return self._fetch(query)

        new = by_number.pop(0, [])
        channels = {channel for _id, channel in new}
        channels.update(
            channel for found in by_number.values() for _id, channel in found
        )
        if self._last is None:
            channels = None
            self._first_snapshot = xmax, now
        elif self._is_over(self._first_snapshot, xmin, now):
            channels = None
            self._first_snapshot = None
        self._keep_gaps(by_number, xmin, now)
        self._last = new[-1][0] if new else start
        self._gaps += [
            (first, last, xmax, now)
            for first, last in gaps_between(start + 1, self._last, ids(new))
        ]
        self._merge_gaps()
        return channels, len(new) < self.MAX_ROWS

    def _is_over(self, snapshot, xmin, now):
        """Whether all that was open at a snapshot has ended (xmax, monotonic time)."""
        return snapshot and xmin >= snapshot[0] and now - snapshot[1] >= self.GRACE

    def _keep_gaps(self, by_number, xmin, now):
        """Split the gaps where rows have appeared; drop those where none can."""
        self._gaps = [
            (first, last, *snapshot)
            for number, (gap_first, gap_last, *snapshot) in enumerate(self._gaps, 1)
            if not self._is_over(snapshot, xmin, now)
            # or if there may be more than were read of it
            or len(by_number.get(number, [])) == self.MAX_ROWS
            for first, last in gaps_between(
                gap_first, gap_last, ids(by_number.get(number, []))
            )
        ]

    def _merge_gaps(self):
        """Have no more than :data:`MAX_GAPS`."""
        while len(self._gaps) > self.MAX_GAPS:
            self._gaps.sort()
            self._gaps = [
                (
                    pair[0][0],
                    pair[-1][1],
                    max(gap[2] for gap in pair),
                    max(gap[3] for gap in pair),
                )
                for pair in (
                    self._gaps[i : i + 2] for i in range(0, len(self._gaps), 2)
                )
            ]


def ids(rows):
    """Return the ids of rows (id, channel)."""
    return [row[0] for row in rows]


def gaps_between(first, last, ids):
    """Return the ranges (first, last) that ``ids`` leave out between two bounds.

    :param list ids: ascending
    """
    gaps = []
    for found in [*ids, last + 1]:
        if found > first:
            gaps.append((first, found - 1))
        first = found + 1
    return gaps


class Poller:
    """Read ``bus_bus`` of every database that has subscribers, and wake these.

    :param make_road: callable that returns the :class:`~.reach.Road` to the database
        of that name
    :param get_databases: callable that returns the names of the databases (set of str)
    :param wake: called with a database's name and the channels (set of tuples) that
        have new rows, or None for all of them
    :param state.State state: tells whether NOTIFY is known to arrive; is told which
        databases can be read
    """

    #: Seconds between two readings of a database while nobody is known to listen: with
    #: the readings themselves a message is 1 s late at the worst. So it is with up to
    #: some 50 databases. A reading takes 1 ms by an open connection and 10 ms by a new
    #: one, and at most half of the time is spent on it: with 500 databases it is 10 s.
    INTERVAL = 0.8

    #: Seconds between two readings while NOTIFY arrives, for rows whose NOTIFY was
    #: never sent: their sender died between COMMIT and NOTIFY.
    SAFETY_INTERVAL = 30.0

    #: Seconds until a database is read again that could not be read, or as many times
    #: as long as that took as there are databases, up to six: one that hangs does not
    #: keep the others waiting all the time.
    FAILED_INTERVAL = 2.0
    MOST_TIMES = 6

    #: How many connections are kept open while nobody is known to listen.
    MAX_OPEN = 50

    def __init__(self, make_road, get_databases, wake, state):
        self._make_road = make_road
        self._get_databases = get_databases
        self._wake = wake
        self._state = state
        self._tables = {}
        self._roads = {}
        self._due = {}
        self._hurry = threading.Event()
        self._stopped = False
        self._failed_log = Throttle(_logger)

    def hurry(self):
        """Read every database at once. To be called from any thread."""
        self._hurry.set()

    def stop(self):
        """Make :meth:`run` return soon. To be called from any thread."""
        self._stopped = True
        self._hurry.set()

    def run(self):
        """Read until stopped. Raises nothing."""
        while not self._stopped:
            if self._hurry.is_set():
                # cleared first: what is asked for from now on is another round
                self._hurry.clear()
                # but in the old order, so that everybody's turn comes
                now = time.monotonic()
                self._due = {name: min(due, now) for name, due in self._due.items()}
            try:
                self._round()
            except Exception:
                self._failed_log.log(
                    logging.ERROR, "Reading the bus table failed", exc_info=True
                )
            self._hurry.wait(self.INTERVAL)
        for road in self._roads.values():
            road.close()

    def _round(self):
        databases = self._get_databases()
        for gone in set(self._due) - databases:
            self._tables.pop(gone, None)
            self._due.pop(gone)
            self._state.databases.pop(gone, None)
            self._close(gone)
        for database in sorted(databases, key=lambda name: self._due.get(name, 0)):
            if self._stopped or self._hurry.is_set():
                return
            started = time.monotonic()
            if started >= self._due.get(database, started):
                self._read(database)
                # so that many databases keep this thread, and the pooler, half idle
                self._hurry.wait(min(time.monotonic() - started, 0.1))

    def _read(self, database):
        """Read one database, and set when it is to be read again."""
        table = self._tables.setdefault(database, Table())
        road = self._roads.get(database) or self._make_road(database)
        self._roads[database] = road
        started = time.monotonic()
        try:
            found = table.fetch(road.query)
        except Exception as error:
            self._failed_log.log(
                logging.WARNING,
                'Cannot read the bus table of the database "%s": %s',
                database,
                one_line(error),
            )
            self._state.databases[database] = False
            now = time.monotonic()
            times = min(len(self._tables), self.MOST_TIMES)
            delay = max(self.FAILED_INTERVAL, times * (now - started))
            self._due[database] = now + delay
            self._close(database)
            return
        self._state.databases[database] = True
        if self._state.is_listening:
            self._due[database] = time.monotonic() + self.SAFETY_INTERVAL
            self._close(database)
        else:
            self._due[database] = time.monotonic()
            if len(self._roads) > self.MAX_OPEN:
                self._close(database)
        if found is None:
            self._wake(database, None)
        elif found:
            self._wake(database, set(filter(None, map(_channel, found))))

    def _close(self, database):
        road = self._roads.pop(database, None)
        if road:
            road.close()


def _channel(text):
    """Return the key under which Odoo keeps the channel of a row; None for junk."""
    try:
        channel = tuple(json.loads(text))
        hash(channel)
    except (TypeError, ValueError, RecursionError):
        return None
    return channel
