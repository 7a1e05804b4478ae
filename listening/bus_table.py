"""New rows of one database's ``bus_bus``, whatever the order of their commits.

An id is given when a row is inserted, but the row is seen when its transaction commits,
so that a smaller id may appear after a greater one. Who only asks for ``id > last``
misses it. We ask, in the same statement, who may still be writing: whoever inserts has
locked the table (ROW EXCLUSIVE) from before the row gets its id until others can see
the row or it is gone, and ``pg_locks`` tells who that is.

Why no row is missed. A statement takes its snapshot S first and looks at the locks, L,
afterwards; the next reading comes later still: S1 < L1 < S2 < L2 ...

1. Let M1 be the greatest id that S1 sees. A row with a smaller id that S1 does not see
   got this id before M1's row was committed, hence before S1; its writer had the lock
   even earlier, and so before L1.
2. A lock is released only after the transaction has become visible. So by L1 that
   writer either has ended, and S2 sees the row, or is among the writers that L1 finds.
3. When none of these is found any more, by L1 or a later L, the next snapshot has seen
   every row up to M1 that there will ever be. From then on rows are read from behind
   M1. Until then they are read again, and those returned before are left out.

That holds for savepoints and prepared transactions, whose locks are the transaction's,
and for deleted rows, which are of no interest. It does not hold for ids that are not
taken from the sequence by the INSERT itself, or by a sequence with CACHE > 1: Odoo does
neither.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Callable, Dict, List, Optional

#: New rows: for each channel, as in ``bus_bus.channel``, their ids in order; None means
#: that any may have some.
Rows = Optional[Dict[str, List[int]]]

News = namedtuple("News", "rows is_other is_failover")
News.__doc__ = """What one reading found.

- ``rows``: those not returned before (:data:`Rows`)
- ``is_other``: whether this is not known to be the table of the reading before: it is
  the first one, or the server was restarted, replaced or promoted, or the table
  truncated. Ids may have gone back.
- ``is_failover``: whether it is known to be another server, because it ran already at
  the reading before: a standby that was promoted. Rows of the former one may be missing
"""


#: The greatest id that the sequence has given so far, to rows that are seen or not.
LAST_ID = (
    "coalesce(pg_sequence_last_value(pg_get_serial_sequence('bus_bus', 'id')),"
    " (SELECT max(id) FROM bus_bus), 0)"
)


class BusTable:
    """Remembers what of ``bus_bus`` was read. One thread at a time.

    When it is another table, or too much at once, everybody is to be woken instead, and
    once more when each writer of that moment has ended; these hold up nobody.
    """

    #: How many rows are read at most, beyond which everybody is woken: 20,000 channels
    #: of 100 bytes are 2 MB. Each row is read by three readings at the least, and so
    #: these are 20,000 / (3 * 300 s) = 22 messages a second between safety readings.
    MAX_ROWS = 20000

    # Who is no primary shall say so, and not tell of a table without writers.
    QUERY = f"""
        SET TRANSACTION READ WRITE;
        SELECT pg_postmaster_start_time(),
               concat_ws(' ', pg_database.oid, pg_relation_filenode('bus_bus')),
               (SELECT coalesce(max(id), 0) FROM bus_bus),
               ARRAY(SELECT virtualtransaction FROM pg_locks
                     WHERE database = pg_database.oid
                     AND relation = 'bus_bus'::regclass AND mode = 'RowExclusiveLock'),
               ARRAY(SELECT id FROM bus_bus WHERE id > %(last)s
                     ORDER BY id LIMIT %(limit)s),
               ARRAY(SELECT channel FROM bus_bus WHERE id > %(last)s
                     ORDER BY id LIMIT %(limit)s),
               {LAST_ID},
               clock_timestamp()
        FROM pg_database WHERE datname = current_database()
    """

    def __init__(self) -> None:
        # What tells the table: since when its server runs, its own number, its last id.
        self._start = self._number = None
        self._last_id = 0
        # When it was read, by the server's clock.
        self._read_at = None
        # Read from behind _last; when _writers have ended, from behind _next, once a
        # further reading has seen what they left: that is _after by then.
        self._last = self._next = self._after = 0
        self._writers: set[str] = set()
        # Writers whose end wakes everybody.
        self._watched: set[str] = set()
        self._seen: set[int] = set()

    def fetch(self, query: Callable[[str, dict], list[tuple]]) -> News:
        """Read once.

        :param query: executes a query with arguments in a transaction of its own and
            returns the rows; what it raises is raised, and nothing is forgotten
        """
        [(start, number, greatest, writers, ids, channels, last_id, now)] = query(
            self.QUERY, {"last": self._last, "limit": self.MAX_ROWS + 1}
        )
        writers = set(writers)
        is_restarted = start != self._start
        is_failover = is_restarted and bool(self._read_at) and start < self._read_at
        is_other = is_restarted or number != self._number or last_id < self._last_id
        new: dict[str, list[int]] = {}
        for id_, channel in zip(ids, channels):
            if id_ not in self._seen:
                new.setdefault(channel, []).append(id_)
        self._start, self._number, self._last_id = start, number, last_id
        self._read_at, self._seen = now, set(ids)
        if is_other or len(ids) > self.MAX_ROWS:
            self._last = self._next = self._after = greatest
            self._writers, self._watched = set(), writers
            return News(None, is_other, is_failover)
        has_one_ended = not self._watched <= writers
        # new sets, since who reads may go back to a copy
        self._watched = self._watched & writers
        self._writers = self._writers & writers
        if not self._writers:
            # the greatest row may have been deleted; that is no reason to go back
            greatest = max(greatest, self._after)
            self._last, self._next, self._after = self._next, self._after, greatest
            self._writers = writers - self._watched
        return News(None if has_one_ended else new, False, False)
