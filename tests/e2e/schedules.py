"""Random schedules of transactions on ``bus_bus``, and readings in between.

No timing decides what happens: one thread drives all connections of a real server, a
statement at a time, and the seed says which comes next. What a reading owes is known
exactly, because the thread knows what is committed.

A reading takes its snapshot, looks at the locks afterwards, and others go on meanwhile.
No statement can be stopped there, so some are made of two: the rows of one and the
locks of the next, with steps in between.
"""

import random
from collections import Counter, namedtuple
from dataclasses import dataclass, field

import psycopg2.errors

from listening.bus_table import BusTable

WRITERS = 6
STEPS = 80

Kind = namedtuple("Kind", "weights id_type max_rows", defaults=["serial", 2000])
Kind.__doc__ = """What may happen in a schedule, and how often in relation."""

PLAIN = {"begin": 6, "xid": 3, "insert": 6, "commit": 3, "rollback": 1, "read": 4}
SAVEPOINTS = {"savepoint": 4, "rollback_to": 3, "release": 1}
TWO_PHASE = {"prepare": 4, "finish": 3}
COLLECT = {"collect": 2}
TRUNCATE = {"truncate": 1}
JUMP = {"jump": 3}
KINDS = {
    "plain": Kind(PLAIN),
    "savepoints": Kind(PLAIN | SAVEPOINTS),
    "two-phase": Kind(PLAIN | TWO_PHASE),
    "garbage": Kind(PLAIN | COLLECT),
    "truncate": Kind(PLAIN | TRUNCATE),
    "jumps": Kind(PLAIN | JUMP),
    "big ids": Kind(PLAIN | {"big_jump": 1}, "bigserial"),
    "too many": Kind(PLAIN, max_rows=6),
    "mixed": Kind(
        PLAIN | SAVEPOINTS | TWO_PHASE | COLLECT | TRUNCATE | JUMP | {"big_jump": 1},
        "bigserial",
        20,
    ),
}

#: The kinds in which only the first reading may wake everybody, if nobody writes then.
QUIET = {"plain", "savepoints", "two-phase", "jumps", "big ids"}


@dataclass
class Transaction:
    """What would be committed. Of savepoints: how much there was."""

    rows: list = field(default_factory=list)
    deleted: list = field(default_factory=list)
    savepoints: list = field(default_factory=list)
    has_lock: bool = False


class Writer:
    """A connection and its transaction, if one is open."""

    def __init__(self, name, connection):
        self.name = name
        self._cursor = connection.cursor()
        self.transaction = None

    def execute(self, query, *args):
        self._cursor.execute(query, args)
        return self._cursor.fetchall() if self._cursor.description else []

    def insert(self, channels):
        values = ", ".join(["(%s, 'x', now() AT TIME ZONE 'UTC')"] * len(channels))
        self.execute(
            f"INSERT INTO bus_bus (channel, message, create_date) VALUES {values}",
            *channels,
        )


class Schedule:
    """One run. Afterwards its counts tell what went wrong:

    - ``missed``: channels of rows committed before a reading that did not cover them
    - ``repeated``: channels returned although a reading before had covered them
    - ``endless``: what the last readings, with nothing written in between, were still
      about
    - ``count``: of readings, rows committed, ...

    Covered is a row whose channel the very next reading returns, or None. Channels are
    unique, so they stand for the rows.

    :param writers: connections in autocommit; ``readers`` too
    :param is_snapshot_first: whether readings look at the locks after their snapshot,
        as PostgreSQL does, or before
    """

    def __init__(
        self, writers, readers, kind, seed, table=None, is_snapshot_first=True
    ):
        self._kind = KINDS[kind]
        self._random = random.Random(f"{kind} {seed}")
        self._is_snapshot_first = is_snapshot_first
        self._writers = [Writer(i, conn) for i, conn in enumerate(writers)]
        self._readers = [conn.cursor() for conn in readers]
        self._table = table or BusTable()
        self._table.MAX_ROWS = self._kind.max_rows
        self._is_quiet_first = seed % 2 == 0
        self._prepared = {}
        self._numbers = iter(range(10**9))
        # Committed and not covered yet, and what the running reading must cover.
        self._pending, self._due = set(), set()
        self._covered = set()
        self._last = None
        self.log = []
        self.missed, self.repeated, self.endless = set(), set(), set()
        self.count = Counter()

    def run(self):
        setup = self._writers[0]
        setup.execute(
            "DROP TABLE IF EXISTS bus_bus, elsewhere;"
            "CREATE TABLE elsewhere (id serial);"
            f"CREATE TABLE bus_bus (id {self._kind.id_type} PRIMARY KEY,"
            " channel varchar, message varchar, create_date timestamp)"
        )
        if self._is_quiet_first:
            self._read(between=0)
        else:
            writing = self._without("read")
            for _i in range(STEPS // 4):
                self._step(writing)
        for _i in range(STEPS):
            self._step(self._kind.weights)
        for writer in self._writers:
            self._end(writer)
        for gid in list(self._prepared):
            self._end_prepared(setup, gid)
        self._settle()
        return self

    def _settle(self):
        """Nothing is written any more: soon nothing is returned nor read again."""
        [(greatest,)] = self._writers[0].execute("SELECT max(id) FROM bus_bus")
        for i in range(5):
            rows = self._read(between=0).rows
            if i:
                self.endless.update(["everybody"] if rows is None else rows)
        # greater where the greatest row was deleted
        if self._last < (greatest or 0):
            self.endless.add(f"read from behind {self._last}, not {greatest}")

    def _without(self, *names):
        return {k: v for k, v in self._kind.weights.items() if k not in names}

    def _step(self, weights):
        """Do one of the things that are possible now."""
        writer = self._random.choice(self._writers)
        transaction = writer.transaction
        possible = {"jump", "big_jump", "read", "truncate"}
        if transaction is None:
            possible |= {"begin"} | ({"finish"} if self._prepared else set())
        else:
            possible |= {"xid", "insert", "commit", "rollback", "savepoint", "prepare"}
            possible |= {"collect"}
            if transaction.savepoints:
                possible |= {"rollback_to", "release"}
        names = [name for name in weights if name in possible]
        if not names:
            return
        [name] = self._random.choices(names, [weights[name] for name in names])
        self.log.append(f"{writer.name} {name}")
        getattr(self, f"_{name}")(writer)

    def _begin(self, writer):
        # Odoo's, and PostgreSQL's own.
        level = self._random.choice(["REPEATABLE READ", "READ COMMITTED"])
        writer.execute(f"BEGIN ISOLATION LEVEL {level}")
        writer.transaction = Transaction()

    def _xid(self, writer):
        writer.execute("INSERT INTO elsewhere DEFAULT VALUES")

    def _new_channels(self):
        count = self._random.randint(1, 3)
        return [f"channel {next(self._numbers)}" for _i in range(count)]

    def _insert(self, writer):
        channels = self._new_channels()
        self.log[-1] += f" {channels}"
        writer.transaction.has_lock = True
        writer.insert(channels)
        writer.transaction.rows += channels

    def _collect(self, writer):
        writer.transaction.has_lock = True
        limit = self._random.choice([3, 10, 1000])
        try:
            # Waiting for each other they would wait for ever: it is one thread.
            found = writer.execute(
                "DELETE FROM bus_bus WHERE id IN (SELECT id FROM bus_bus"
                " ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING channel",
                limit,
            )
        except psycopg2.errors.SerializationFailure:
            self._rollback(writer)
            return
        writer.transaction.deleted += [channel for (channel,) in found]

    def _savepoint(self, writer):
        transaction = writer.transaction
        writer.execute(f"SAVEPOINT s{len(transaction.savepoints)}")
        transaction.savepoints.append((len(transaction.rows), len(transaction.deleted)))

    def _rollback_to(self, writer):
        transaction = writer.transaction
        index = self._random.randrange(len(transaction.savepoints))
        self.log[-1] += f" s{index}"
        writer.execute(f"ROLLBACK TO s{index}")
        rows, deleted = transaction.savepoints[index]
        del transaction.savepoints[index + 1 :]
        del transaction.rows[rows:], transaction.deleted[deleted:]

    def _release(self, writer):
        savepoints = writer.transaction.savepoints
        index = self._random.randrange(len(savepoints))
        self.log[-1] += f" s{index}"
        writer.execute(f"RELEASE s{index}")
        del savepoints[index:]

    def _commit(self, writer):
        writer.execute("COMMIT")
        self._committed(writer.transaction)
        writer.transaction = None

    def _rollback(self, writer):
        writer.execute("ROLLBACK")
        writer.transaction = None

    def _committed(self, transaction):
        self.count["rows"] += len(transaction.rows)
        self._pending.update(transaction.rows)
        self._pending.difference_update(transaction.deleted)

    def _prepare(self, writer):
        gid = f"gid {next(self._numbers)}"
        self.log[-1] += f" {gid}"
        writer.execute("PREPARE TRANSACTION %s", gid)
        self._prepared[gid] = writer.transaction
        writer.transaction = None

    def _finish(self, writer):
        self._end_prepared(writer, self._random.choice(list(self._prepared)))

    def _end_prepared(self, writer, gid):
        verb = self._random.choice(["COMMIT", "COMMIT", "ROLLBACK"])
        self.log.append(f"{writer.name} {verb} PREPARED {gid}")
        writer.execute(f"{verb} PREPARED %s", gid)
        transaction = self._prepared.pop(gid)
        if verb == "COMMIT":
            self._committed(transaction)

    def _end(self, writer):
        if writer.transaction:
            verb = self._random.choice(["commit", "commit", "rollback"])
            self.log.append(f"{writer.name} {verb}")
            getattr(self, f"_{verb}")(writer)

    def _truncate(self, writer):
        """Empty the table once nobody is in the way, perhaps with new rows at once."""
        for other in self._writers:
            if other is writer or other.transaction and other.transaction.has_lock:
                self._end(other)
        for gid, transaction in list(self._prepared.items()):
            if transaction.has_lock:
                self._end_prepared(writer, gid)
        identity = self._random.choice(["RESTART", "CONTINUE"])
        channels = self._new_channels() if self._random.random() < 0.5 else []
        verb = self._random.choice(["COMMIT", "COMMIT", "ROLLBACK"])
        self.log.append(f"{writer.name} TRUNCATE {identity} {channels} {verb}")
        writer.execute(f"BEGIN; TRUNCATE bus_bus {identity} IDENTITY")
        if channels:
            writer.insert(channels)
        writer.execute(verb)
        if verb == "COMMIT":
            self._pending.clear()
            self._committed(Transaction(rows=channels))

    def _jump(self, writer, count=None):
        count = count or self._random.randint(1, 10**6)
        if writer.transaction:
            # The sequence's, which stands in the way of TRUNCATE as well.
            writer.transaction.has_lock = True
        writer.execute(
            "SELECT setval('bus_bus_id_seq', last_value + %s) FROM bus_bus_id_seq",
            count,
        )

    def _big_jump(self, writer):
        self._jump(writer, 2**31)

    def _read(self, _writer=None, between=None):
        if between is None:
            between = self._random.choice([0, 0, 1, 2, 4])
        reader = self._random.choice(self._readers)

        def query(query, args):
            self._last = args["last"]
            self._due = set(self._pending)
            reader.execute(query, args)
            first = reader.fetchall()
            if not between:
                return first
            # A reading has locked the table, so that TRUNCATE would wait for it.
            writing = self._without("read", "truncate")
            self.log.append("(")
            for _i in range(between):
                self._step(writing)
            self.log.append(")")
            if not self._is_snapshot_first:
                self._due = set(self._pending)
            reader.execute(query, args)
            second = reader.fetchall()
            rows, locks = first, second
            if not self._is_snapshot_first:
                rows, locks = second, first
            return [(*rows[0][:3], locks[0][3], *rows[0][4:])]

        news = self._table.fetch(query)
        self.log.append(f"read {news}")
        self.count["readings"] += 1
        if news.rows is None:
            # Whoever is woken now, sees what was committed until now.
            self.count["everybody"] += 1
            self._covered |= self._due
            self._pending.clear()
        else:
            channels = set(news.rows)
            self.repeated |= channels & self._covered
            self.missed |= self._due - channels
            self._covered |= channels
            self._pending -= self._due
        return news
