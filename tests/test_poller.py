"""When the bus tables are read, and who is told. What is read: tests/e2e."""

import logging
import queue
import threading
import time
import uuid
from types import SimpleNamespace

from odoo import sql_db
from odoo.tests.common import get_db_name

from ..listening.poller import Poller, _Database
from ..listening.state import State
from ..models import roads
from .common import DEADLINE, WaitCase

_logger = logging.getLogger(__name__)


def cursor(database=None):
    return sql_db.db_connect(database or get_db_name()).cursor()


class PollerCase(WaitCase):
    def setUp(self):
        super().setUp()
        self.name = uuid.uuid4().hex
        self.addCleanup(self.delete)

    def delete(self):
        with cursor() as cr:
            cr.execute("DELETE FROM bus_bus WHERE channel LIKE %s", (f"%{self.name}%",))

    def channel(self, number):
        return f'["{get_db_name()}","{self.name}",{number}]'

    def insert(self, cr, number):
        cr.execute(
            "INSERT INTO bus_bus (channel, message) VALUES (%s, '{}') RETURNING id",
            (self.channel(number),),
        )
        return cr.fetchone()[0]

    def commit(self, number):
        with cursor() as cr:
            return self.insert(cr, number)


class TestPoller(PollerCase):
    def setUp(self):
        super().setUp()
        self.databases = {get_db_name()}
        self.state = State(_logger, "imbus", "")
        self.news = queue.Queue()
        self.others = queue.Queue()
        self.audience = SimpleNamespace(
            databases=lambda: self.databases,
            wake=lambda *args: self.news.put(args),
            rewind=self.rewind,
        )
        self.poller = Poller(roads.road, self.audience, self.state)
        self.thread = threading.Thread(target=self.poller.run, daemon=True)
        self.addCleanup(self.stop)

    def stop(self):
        self.poller.stop()
        if self.thread.ident:
            self.thread.join(DEADLINE)
            self.assertFalse(self.thread.is_alive())

    def rewind(self, database, is_failover, last_id):
        self.others.put((database, is_failover, last_id()))

    def wait(self):
        return self.news.get(timeout=DEADLINE)

    def test_wakes_everybody_at_first_and_then_who_has_news(self):
        first = self.commit(0)
        self.thread.start()
        self.assertEqual(self.wait(), (get_db_name(), None))
        database, is_failover, last_id = self.others.get(timeout=DEADLINE)
        self.assertEqual((database, is_failover), (get_db_name(), False))
        self.assertGreaterEqual(last_id, first)
        self.commit(1)
        database, channels = self.wait()
        self.assertIn(self.channel(1), channels)

    def test_what_is_asked_for_does_not_wait_for_the_safety_interval(self):
        self.state.proven("there")
        self.thread.start()
        self.wait()
        self.commit(1)
        self.poller.read_all()
        self.assertIn(self.channel(1), self.wait()[1])

    def test_what_is_asked_for_during_a_reading_is_another_one(self):
        self.state.proven("there")
        begun, release = threading.Event(), threading.Event()
        self.addCleanup(release.set)

        def read_slowly(database, channels):
            self.news.put((database, channels))
            begun.set()
            release.wait(DEADLINE)

        self.audience.wake = read_slowly
        self.thread.start()
        self.assertTrue(begun.wait(DEADLINE))
        self.commit(1)
        self.poller.read_all()
        release.set()
        self.wait()
        self.assertIn(self.channel(1), self.wait()[1])

    def test_without_doubt_the_pool_is_left_alone(self):
        """No connection is kept, and the readings of many are spread."""
        self.state.proven("there")
        for number in range(20):
            database = _Database(roads.road(get_db_name()), 0.0)
            database.started = 0.0
            self.poller._plan(database, True)
            self.poller._databases[str(number)] = database
            self.assertFalse(database.road.is_open)
        due = sorted(database.due for database in self.poller._databases.values())
        gaps = [later - sooner for sooner, later in zip(due, due[1:])]
        self.assertGreaterEqual(min(gaps), 0.99 * self.poller.SAFETY_SPACING)
        self.poller._databases.clear()

    def test_safety_readings_do_not_move_away(self):
        """However often the connection was lost and all were read instead."""
        self.state.proven("there")
        database = _Database(roads.road(get_db_name()), 0.0)
        self.poller._databases["one"] = database
        for _i in range(500):
            self.poller.read_all()
            database.started = time.monotonic()
            self.poller._plan(database, True)
        latest = time.monotonic() + 1.2 * self.poller.SAFETY_INTERVAL
        self.assertLess(database.due, latest)
        self.poller._databases.clear()

    def test_readings_apart_postpone_none_that_was_asked_for(self):
        databases = [_Database(roads.road(get_db_name()), 0.0) for _i in range(9)]
        self.poller._databases = dict(enumerate(databases))
        now = time.monotonic()
        for database in databases[::2]:
            database.started = now
        self.poller.read_all()
        asked = [database.due for database in databases]
        self.poller.read_all(apart=1000)
        self.assertEqual([database.due for database in databases], asked)
        self.poller._databases.clear()

    def test_news_that_nobody_could_be_told_of_are_not_forgotten(self):
        failures = []

        def fail_at_first(*args):
            if not failures:
                failures.append(1)
                raise OSError("away")
            self.rewind(*args)

        self.audience.rewind = fail_at_first
        self.poller.FAILED_INTERVAL = 0.01
        with self.assertLogs(_logger, "WARNING"):
            self.thread.start()
            for _i in range(2):
                self.assertEqual(self.wait(), (get_db_name(), None))
        self.assertTrue(self.others.get(timeout=DEADLINE))

    def test_databases_that_hang_leave_places_for_the_others(self):
        """As those of a second server behind the same pooler, which is frozen."""
        self.poller.MAX_READINGS, self.poller.RESERVED = 5, 2
        self.poller.INTERVAL = self.poller.FAILED_INTERVAL = 0.05
        self.poller.SLOW_AFTER = 0.0
        hanging, release = [], threading.Event()
        self.addCleanup(release.set)
        self.databases |= {f"hanging-{number}" for number in range(10)}

        def make_road(database):
            if not database.startswith("hanging-"):
                return roads.road(database)
            answers = iter([TimeoutError("no answer")])

            def query(*args):
                for error in answers:
                    raise error
                hanging.append(database)
                release.wait(DEADLINE)
                raise TimeoutError("no answer")

            return SimpleNamespace(query=query, close=lambda: None, is_open=True)

        self.poller._make_road = make_road
        with self.assertLogs(_logger, "WARNING"):
            self.thread.start()
            self.wait_until(lambda: len(hanging) == 3)
            before = self.state.metrics.readings
            self.wait_until(lambda: self.state.metrics.readings > before + 10)
            self.assertEqual(len(hanging), 3)

    def test_channels_are_not_walked_for_each_reading(self):
        self.state.proven("there")
        walks = []
        self.audience.databases = lambda: walks.append(1) or self.databases
        self.poller._start_readings()
        self.wait()
        database = self.poller._databases[get_db_name()]
        for _i in range(3):
            self.wait_until(lambda: database.started is None)
            self.commit(1)
            database.due = 0.0
            self.poller._start_readings()
            self.wait()
        self.assertEqual(len(walks), 1)

    def test_a_database_that_is_gone_does_not_keep_the_others_waiting(self):
        self.databases.add("no_such_database")
        with self.assertLogs(_logger, "WARNING") as logs:
            self.thread.start()
            self.assertEqual(self.wait(), (get_db_name(), None))
            while len(logs.output) < 1:
                self.commit(1)
                self.wait()
        self.assertIn("no_such_database", logs.output[0])
        self.assertEqual(self.state.health, "warn")

    def test_a_database_that_nobody_uses_any_more_is_forgotten(self):
        self.thread.start()
        self.wait()
        self.databases.clear()
        self.wait_until(lambda: not self.poller._databases)
