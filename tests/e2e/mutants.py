"""The reading of ``bus_bus`` with one of its ideas taken away.

Each of them misses or repeats rows. A test that lets one pass proves nothing.
"""

from listening.bus_table import BusTable


class NoDelay(BusTable):
    """Reads from behind the greatest id that the reading before has seen."""

    def fetch(self, query):
        news = super().fetch(query)
        self._last = self._next = self._after
        self._writers = set()
        return news


class NoWriters(BusTable):
    """Waits for two more readings, but for nobody."""

    def fetch(self, query):
        news = super().fetch(query)
        self._writers = set()
        return news


class NoFurtherReading(BusTable):
    """Does not read what writers left that ended while it looked at the locks."""

    def fetch(self, query):
        news = super().fetch(query)
        self._next = self._after
        return news


class NoWatched(BusTable):
    """Forgets who wrote when everybody was woken."""

    def fetch(self, query):
        news = super().fetch(query)
        self._watched = set()
        return news


class NoSeen(BusTable):
    """Returns again what it reads again."""

    def fetch(self, query):
        news = super().fetch(query)
        self._seen = set()
        return news


class NoIdentity(BusTable):
    """Does not notice another table."""

    def fetch(self, query):
        def anonymous(*args):
            return [(row[0], "", *row[2:6], 0, row[7]) for row in query(*args)]

        return super().fetch(anonymous)


#: The class, the kind of schedules that tells, the fault that shows, and what else is
#: different in these schedules.
MUTANTS = {
    "no delay": (NoDelay, "plain", "missed", {}),
    "no writers": (NoWriters, "plain", "missed", {}),
    "no further reading": (NoFurtherReading, "plain", "missed", {}),
    "no watched": (NoWatched, "too many", "missed", {}),
    "no seen": (NoSeen, "plain", "repeated", {}),
    "no identity": (NoIdentity, "truncate", "missed", {}),
    "locks first": (BusTable, "too many", "missed", {"is_snapshot_first": False}),
}
