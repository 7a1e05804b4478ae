"""The reading of ``bus_bus`` misses no committed row: what its docstring proves, tried.

Random schedules of transactions on a real server, where a seed that fails tells itself
and what happened; ``BUS_TABLE_SEED=<seed> setup/test test_bus_table.py -k "<kind>"``
runs it again. And mutants of the algorithm, each without one of its ideas, which must
fail in the very same schedules. Then what can be told by a single case.
"""

import contextlib
import copy
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import provision
import psycopg2
import pytest
from mutants import MUTANTS
from ports import Ports
from schedules import KINDS, QUIET, WRITERS, Schedule
from stack import Stack

from listening.bus_table import BusTable

SEEDS = 40
#: So many more are tried for each kind by the slow test.
MORE_SEEDS = int(os.environ.get("BUS_TABLE_SEEDS", 300))
ONE_SEED = os.environ.get("BUS_TABLE_SEED")

DATABASE = "bus_table"
TABLE = """
    DROP TABLE IF EXISTS bus_bus;
    CREATE TABLE bus_bus (
        id serial PRIMARY KEY, channel varchar, message varchar, create_date timestamp
    )
"""
INSERT = "INSERT INTO bus_bus (channel, message) VALUES (%s, 'x')"


@pytest.fixture(scope="module")
def cluster():
    """A cluster of its own: here it is restarted, and can prepare transactions."""
    environment = provision.provision(with_test_tools=True)
    folder = environment.data / "bus_table"
    with Stack(environment, folder, Ports.free(), fsync=False) as cluster:
        cluster.execute("ALTER SYSTEM SET max_prepared_transactions = 20")
        cluster.drop_database(DATABASE)
        cluster.execute(f"CREATE DATABASE {DATABASE} OWNER odoo")
        # Statements that would wait for each other fail instead.
        cluster.execute(f"ALTER DATABASE {DATABASE} SET lock_timeout = '5s'")
        cluster.restart_postgres()
        yield cluster
        cluster.drop_database(DATABASE)


@pytest.fixture
def connect(cluster):
    """Open connections in autocommit, that are closed at the end."""
    with contextlib.ExitStack() as stack:

        def connect(role="odoo", pooled=False):
            conn = cluster.connect(DATABASE, role, pooled)
            stack.callback(conn.close)
            conn.autocommit = True
            return conn

        yield connect


@pytest.fixture
def run(connect):
    """Run a schedule. Readings go through PgBouncer or not, as it happens."""
    writers = [connect() for _i in range(WRITERS)]
    readers = [connect(pooled=True), connect(pooled=True), connect()]

    def run(*args, **kwargs):
        return Schedule(writers, readers, *args, **kwargs).run()

    return run


@pytest.fixture
def table(connect):
    """An empty ``bus_bus`` that was read once, and how to execute and to read."""
    return Read(connect)


class Read:
    """A BusTable and what reads it."""

    def __init__(self, connect):
        self.execute = connect().cursor().execute
        self.execute(TABLE)
        self.bus_table = BusTable()
        self.reader = connect(pooled=True)
        assert self.read() == (None, True, False)

    def read(self):
        """Return the news, of their rows the channels alone."""
        news = self.bus_table.fetch(self.query)
        return news if news.rows is None else news._replace(rows=set(news.rows))

    def query(self, query, args):
        with self.reader.cursor() as cr:
            cr.execute(query, args)
            return cr.fetchall()


def check(run, kind, seeds, record_property):
    total = Counter()
    if ONE_SEED:
        seeds = [int(ONE_SEED)]
    for seed in seeds:
        schedule = run(kind, seed)
        faults = {
            "missed": schedule.missed,
            "repeated": schedule.repeated,
            "endless": schedule.endless,
        }
        if kind in QUIET and seed % 2 == 0 and schedule.count["everybody"] > 1:
            faults["too often"] = schedule.count["everybody"]
        if any(faults.values()):
            print("\n".join(schedule.log))
            pytest.fail(f"kind {kind!r}, seed {seed}: {faults}")
        total += schedule.count
    record_property("counts", dict(total))
    print(f"{kind}: {dict(total)}")
    assert ONE_SEED or total["rows"] > 10 * len(seeds), "they do hardly anything"
    # In a schedule that truncates, everybody is woken for a reason; not all the time.
    assert ONE_SEED or total["everybody"] < 0.6 * total["readings"]


@pytest.mark.parametrize("kind", KINDS)
def test_random_schedules(kind, run, record_property):
    check(run, kind, range(SEEDS), record_property)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_more_random_schedules(kind, run, record_property):
    check(run, kind, range(SEEDS, SEEDS + MORE_SEEDS), record_property)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_is_caught(mutant, run):
    table, kind, fault, options = MUTANTS[mutant]
    for seed in range(SEEDS):
        schedule = run(kind, seed, table=table(), **options)
        if channels := getattr(schedule, fault):
            print(f"{mutant}: seed {seed}, {fault} {len(channels)} rows")
            return
    pytest.fail("not caught")


def test_smaller_id_is_committed_later(table, connect):
    """The later transaction has the smaller id, and stays open for long."""
    early, late = connect().cursor(), connect().cursor()
    early.execute("BEGIN; SELECT txid_current()")
    late.execute("BEGIN; SELECT txid_current()")
    late.execute(INSERT, ["late"])
    early.execute(INSERT, ["early"])
    early.execute("COMMIT")
    assert table.read().rows == {"early"}
    for _i in range(100):
        # Others come and go meanwhile.
        table.execute(INSERT, [f"other {_i}"])
        assert table.read().rows == {f"other {_i}"}
    late.execute("COMMIT")
    assert table.read().rows == {"late"}
    for _i in range(3):
        assert table.read() == (set(), False, False)


def test_first_reading_beside_writers(table, connect):
    """Whose rows may have smaller ids: everybody is woken as each of them ends."""
    writers = [connect().cursor() for _i in range(3)]
    for i, writer in enumerate(writers):
        writer.execute("BEGIN")
        writer.execute(INSERT, [f"writer {i}"])
    table.execute(INSERT, ["committed"])
    table.bus_table = BusTable()
    assert table.read() == (None, True, False)
    assert table.read() == (set(), False, False)
    for writer, verb in zip(writers, ["COMMIT", "ROLLBACK", "COMMIT"], strict=True):
        writer.execute(verb)
        assert table.read() == (None, False, False)
        assert table.read() == (set(), False, False)


def test_ids_of_the_rows(table):
    """In order, and each once."""
    for channel in "aba":
        table.execute(INSERT, [channel])
    assert table.bus_table.fetch(table.query).rows == {"a": [1, 3], "b": [2]}
    assert table.bus_table.fetch(table.query).rows == {}


def test_too_many_at_once(table):
    table.execute(
        "INSERT INTO bus_bus (channel) SELECT 'x' FROM generate_series(1, %s)",
        [BusTable.MAX_ROWS + 1],
    )
    assert table.read() == (None, False, False)
    assert table.read() == (set(), False, False)


def test_greatest_id_is_collected(table, connect):
    """While a smaller one is committed, between snapshot and look at the locks."""
    late = connect().cursor()
    late.execute("BEGIN")
    late.execute(INSERT, ["late"])
    table.execute(INSERT, ["collected"])
    assert table.read().rows == {"collected"}
    table.execute("DELETE FROM bus_bus")

    def query(*args):
        [rows] = table.query(*args)
        late.execute("COMMIT")
        [locks] = table.query(*args)
        return [(*rows[:3], locks[3], *rows[4:])]

    assert table.bus_table.fetch(query).rows == {}
    table.execute(INSERT, ["after"])
    assert table.read().rows == {"late", "after"}
    for _i in range(4):
        assert table.read() == (set(), False, False)


@pytest.mark.parametrize("identity", ["RESTART", "CONTINUE"])
def test_truncated(table, identity):
    table.execute(INSERT, ["before"])
    assert table.read().rows == {"before"}
    table.execute(f"TRUNCATE bus_bus {identity} IDENTITY")
    table.execute(INSERT, ["after"])
    assert table.read() == (None, True, False)
    table.execute(INSERT, ["later"])
    assert table.read() == ({"later"}, False, False)


def test_restarted(cluster, table, connect):
    """Also beside a prepared transaction, which survives."""
    table.execute("BEGIN")
    table.execute(INSERT, ["prepared"])
    table.execute("PREPARE TRANSACTION 'x'")
    cluster.restart_postgres()
    table.reader, execute = connect(), connect().cursor().execute
    execute(INSERT, ["after"])
    assert table.read() == (None, True, False)
    assert table.read() == (set(), False, False)
    execute("COMMIT PREPARED 'x'")
    assert table.read() == (None, False, False)
    assert table.read() == (set(), False, False)


def test_standby(cluster, table, connect):
    """It cannot know who writes, so that it is an error; until it is promoted."""
    table.execute(INSERT, ["before"])
    assert table.read().rows == {"before"}
    primary = connect()
    with cluster.standby() as standby:
        table.reader = psycopg2.connect(
            host=primary.info.host,
            port=standby.port,
            dbname=DATABASE,
            user=primary.info.user,
            password=primary.info.password,
        )
        table.reader.autocommit = True
        table.execute(INSERT, ["after"])
        known = copy.deepcopy(vars(table.bus_table))
        for _i in range(2):
            with pytest.raises(psycopg2.NotSupportedError, match="during recovery"):
                table.read()
        assert vars(table.bus_table) == known

        table.reader, at_standby = primary, table.reader
        assert table.read() == ({"after"}, False, False)

        table.reader = at_standby
        standby.promote()
        assert table.read() == (None, True, True)
        assert table.read() == (set(), False, False)
        at_standby.close()


def test_stress(table, connect):
    """At full speed, with all that threads do to the order of things."""
    is_over = threading.Event()
    # However far it falls behind.
    table.bus_table.MAX_ROWS = 10**6

    def write(name):
        chance = random.Random(name)
        cursor = connections[name].cursor()
        committed = []
        for i in range(10**9):
            channels = [f"{name} {i} {j}" for j in range(chance.randint(1, 3))]
            cursor.execute("BEGIN")
            if chance.random() < 0.5:
                cursor.execute("SELECT txid_current()")
            for channel in channels:
                cursor.execute(INSERT, [channel])
            if chance.random() < 0.3:
                time.sleep(chance.choice([0.001, 0.01, 0.1]))
            if chance.random() < 0.2:
                cursor.execute("ROLLBACK")
            else:
                cursor.execute("COMMIT")
                committed += channels
            if is_over.is_set():
                return committed

    connections = [connect() for _i in range(6)]
    found, readings = [], 0
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(write, name) for name in range(len(connections))]
        try:
            end = time.monotonic() + 3
            while time.monotonic() < end:
                found += table.read().rows
                readings += 1
        finally:
            is_over.set()
    found += table.read().rows
    committed = [channel for future in running for channel in future.result()]
    print(f"{len(committed)} rows, {readings} readings")
    assert set(committed) - set(found) == set(), "missed"
    assert len(found) == len(set(found)), "repeated"
    assert table.read() == (set(), False, False)
