"""The bus table is the truth: reading it when NOTIFY cannot be relied upon.

Rows of ``bus_bus`` are the messages; NOTIFY only tells that there are some. So nothing
is lost as long as somebody looks into the table: often while nobody is known to listen,
once after each LISTEN for what came before it, and now and then for the sake of rows
whose NOTIFY was never sent.

The :class:`Poller` reads through Odoo's ordinary pool, in a thread of its own, since a
pool can be full and a query can hang. It wakes only the channels that have new rows: a
catch-up of 1,000 websockets of which 10 have mail costs 10 fetches.
"""

import json
import logging
import threading
import time

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

    #: How many new rows are read at once; with more of them everybody is woken.
    MAX_ROWS = 10000

    #: How many gaps are kept: the newest. Each is a transaction that is open or was
    #: rolled back since the oldest open one began.
    MAX_GAPS = 1000

    def __init__(self):
        self._last = None
        # list of (first id, last id, xmax of the snapshot, monotonic time)
        self._gaps = []

    def fetch(self, cr):
        """Return the channels that have rows not returned before.

        :param cr: cursor, in a transaction of isolation level REPEATABLE READ
        :return: set of str, as in ``bus_bus.channel``; None means that any may have
        """
        cr.execute(
            "SELECT txid_snapshot_xmin(snapshot), txid_snapshot_xmax(snapshot),"
            " (SELECT coalesce(max(id), 0) FROM bus_bus)"
            " FROM txid_current_snapshot() AS snapshot"
        )
        xmin, xmax, greatest = cr.fetchone()
        if self._last is not None and greatest < self._last:
            # rows were deleted, or the database was replaced by another one
            self._start_over()
        start = self._last
        if start is None:
            start = greatest - self.LOOK_BACK
        cr.execute(
            "SELECT id, channel FROM bus_bus WHERE id > %s ORDER BY id LIMIT %s",
            (start, self.MAX_ROWS + 1),
        )
        rows = cr.fetchall()
        if len(rows) > self.MAX_ROWS:
            self._start_over()
            return self.fetch(cr)
        channels = self._read_gaps(cr)
        is_first = self._last is None
        self._forget_gaps(xmin)
        self._add_gaps(start, [row[0] for row in rows], xmax)
        self._last = max(start, rows[-1][0] if rows else start)
        return None if is_first else channels.union(row[1] for row in rows)

    def _start_over(self):
        self._last = None
        self._gaps = []

    def _read_gaps(self, cr):
        """Return the channels of rows that have appeared in gaps; split these."""
        if not self._gaps:
            return set()
        cr.execute(
            "SELECT id, channel"
            " FROM unnest(%s::bigint[], %s::bigint[]) AS gap(first, last)"
            " JOIN bus_bus ON id BETWEEN gap.first AND gap.last ORDER BY id",
            ([gap[0] for gap in self._gaps], [gap[1] for gap in self._gaps]),
        )
        rows = cr.fetchall()
        found = [row[0] for row in rows]
        if found:
            self._gaps = [
                (first, last, xmax, since)
                for gap_first, gap_last, xmax, since in self._gaps
                for first, last in gaps_between(
                    gap_first,
                    gap_last,
                    [i for i in found if gap_first <= i <= gap_last],
                )
            ]
        return {row[1] for row in rows}

    def _forget_gaps(self, xmin):
        """Drop the gaps in which nothing can appear any more."""
        now = time.monotonic()
        self._gaps = [
            gap for gap in self._gaps if xmin < gap[2] or now - gap[3] < self.GRACE
        ]

    def _add_gaps(self, start, ids, xmax):
        if ids:
            now = time.monotonic()
            self._gaps += [
                (first, last, xmax, now)
                for first, last in gaps_between(start + 1, ids[-1], ids)
            ]
            self._gaps = self._gaps[-self.MAX_GAPS :]


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

    :param open_cursor: callable that returns a context manager with a cursor on the
        database of that name
    :param get_databases: callable that returns the names of the databases (set of str)
    :param wake: called with a database's name and the channels (set of tuples) that
        have new rows, or None for all of them
    :param is_listening: callable that tells whether NOTIFY is known to arrive
    """

    #: Seconds between two readings of a database while nobody is known to listen, and
    #: so the worst lateness then. It costs two index scans a second and database.
    INTERVAL = 1.0

    #: Seconds between two readings while NOTIFY arrives, for rows whose NOTIFY was
    #: never sent: their sender died between COMMIT and NOTIFY.
    SAFETY_INTERVAL = 30.0

    #: Seconds until a database is read again that could not be read.
    FAILED_INTERVAL = 2.0

    def __init__(self, open_cursor, get_databases, wake, is_listening):
        self._open_cursor = open_cursor
        self._get_databases = get_databases
        self._wake = wake
        self._is_listening = is_listening
        self._tables = {}
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
                self._due.clear()
            try:
                self._round()
            except Exception:
                self._failed_log.log(
                    logging.ERROR, "Reading the bus table failed", exc_info=True
                )
            self._hurry.wait(self.INTERVAL)

    def _round(self):
        databases = self._get_databases()
        for gone in set(self._tables) - databases:
            self._tables.pop(gone)
            self._due.pop(gone, None)
        for database in databases:
            if self._stopped or self._hurry.is_set():
                return
            started = time.monotonic()
            if started < self._due.get(database, started):
                continue
            self._read(database)
            # so that 500 databases keep this thread, and the pooler, half idle
            time.sleep(time.monotonic() - started)

    def _read(self, database):
        """Read one database, and set when it is to be read again."""
        table = self._tables.setdefault(database, Table())
        try:
            with self._open_cursor(database) as cr:
                found = table.fetch(cr)
        except Exception as error:
            self._failed_log.log(
                logging.WARNING,
                'Cannot read the bus table of the database "%s": %s',
                database,
                " ".join(str(error).split()),
            )
            self._due[database] = time.monotonic() + self.FAILED_INTERVAL
            return
        delay = self.SAFETY_INTERVAL if self._is_listening() else 0
        self._due[database] = time.monotonic() + delay
        if found is None:
            self._wake(database, None)
        elif found:
            self._wake(database, {_channel(text) for text in found})


def _channel(text):
    """Return the key under which Odoo keeps the channel of a row."""
    try:
        return tuple(json.loads(text))
    except (TypeError, ValueError, RecursionError):
        return None
