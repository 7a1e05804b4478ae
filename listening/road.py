"""A kept connection for our own queries through the pooler: at most one backend.

A query that is given up by its client goes on in PostgreSQL, and a pooler whose client
has gone does not count its backend any more: a client that waits for a lock, gives up
and tries again exhausts ``max_connections``. So

- each query carries its own time-outs, in the same message, below our deadline: the
  backend gives up first. ``lock_timeout`` acts on the lock of NOTIFY as well, which is
  taken at COMMIT, when ``statement_timeout`` does not act any more.
- who gets no answer at all (a frozen pooler, a frozen backend) is patient, and more so
  each time, before a connection is closed with its query under way.
"""

from __future__ import annotations

from typing import Any, Callable

import psycopg2
from psycopg2 import errorcodes

from .connecting import Connector, query

#: Seconds for which a query may wait for a lock, and run. The former acts first, and so
#: tells what the matter is. Their sum is the longest that a backend works for us:
#: statement_timeout does not act on the lock that COMMIT waits for.
LOCK_TIMEOUT = 3.0
STATEMENT_TIMEOUT = 4.0

#: What each message begins with. The comment tells who asks, in ``pg_stat_activity``.
PREFIX = (
    "/* bus_alt_connection */"
    f" SET LOCAL lock_timeout = {LOCK_TIMEOUT * 1000:.0f};"
    f" SET LOCAL statement_timeout = {STATEMENT_TIMEOUT * 1000:.0f}; "
)


class Blocked(OSError):
    """Somebody holds a lock that the query needs; the text says which."""


class Road:
    """A connection that is opened when it is needed, and again when it was lost.

    :param get_params: returns the libpq connection parameters
    """

    #: Seconds for an answer: 4 + 3 s and 3 s for the ways. Each time that none comes it
    #: is doubled, up to the longest: who freezes every backend gets another one after
    #: 10, 30, 70 and 130 s, and then one a minute.
    PATIENCE = 10.0
    LONGEST_PATIENCE = 60.0

    def __init__(self, get_params: Callable[[], dict]) -> None:
        self._connector = Connector(get_params)
        self._conn = None
        self._patience = self.PATIENCE
        #: how many times it was opened
        self.openings = 0

    def query(self, text: Any, args: Any = None, lock: str = "a lock") -> list[tuple]:
        """Execute a query in a transaction of its own; return its rows.

        A kept connection that is found dead is opened once more in silence.

        :param text: composable or str
        :param lock: what it may have to wait for, in words
        :raise Blocked: if it had to wait for that in vain
        :raise ConnectionFailed: if there is no connection to be had
        :raise TimeoutError: if there is no answer in time
        :raise psycopg2.Error: if it failed
        """
        was_kept = self._conn is not None
        try:
            return self._query(text, args)
        except psycopg2.Error as error:
            if error.pgcode == errorcodes.LOCK_NOT_AVAILABLE:
                raise Blocked(f"waits for {lock}") from error
            is_dead = was_kept and self._conn.closed
            self.close()
            if is_dead:
                return self.query(text, args, lock)
            raise
        except BaseException as error:
            if isinstance(error, TimeoutError):
                self._patience = min(self._patience * 2, self.LONGEST_PATIENCE)
            self.close()
            raise

    @property
    def is_open(self) -> bool:
        """Whether a connection is kept."""
        return self._conn is not None

    def close(self) -> None:
        """Close the connection if there is one."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _query(self, text: Any, args: Any) -> list[tuple]:
        if self._conn is None:
            self._conn, _none = self._connector.connect()
            self.openings += 1
        if not isinstance(text, str):
            text = text.as_string(self._conn)
        rows = query(self._conn, PREFIX + text, args, timeout=self._patience)
        # of a LISTEN that somebody else has lost on the pooler's server connection
        self._conn.notifies.clear()
        self._patience = self.PATIENCE
        return rows
