"""Reading the bus table: each row once, whatever the order of commits."""

import threading
import uuid

from odoo import sql_db
from odoo.tests.common import BaseCase, get_db_name

from .. import poller
from ..models.connection import road
from ..state import State

DEADLINE = 30


def cursor(database=None):
    return sql_db.db_connect(database or get_db_name()).cursor()


class PollerCase(BaseCase):
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


class TestTable(PollerCase):
    def setUp(self):
        super().setUp()
        self.table = poller.Table()
        self.road = road(get_db_name())
        self.addCleanup(self.road.close)

    def fetch(self):
        found = self.table.fetch(self.road.query)
        return found and {channel for channel in found if self.name in channel}

    def test_at_first_any_channel_may_have_news(self):
        self.commit(1)
        self.assertIsNone(self.fetch())
        self.assertFalse(self.fetch())

    def test_each_row_once(self):
        self.fetch()
        self.commit(1)
        self.commit(2)
        self.assertEqual(self.fetch(), {self.channel(1), self.channel(2)})
        self.assertFalse(self.fetch())

    def without_grace(self):
        """Get over the first snapshot."""
        self.table.GRACE = 0
        self.fetch()
        self.assertIsNone(self.fetch())

    def test_smaller_id_that_is_committed_later(self):
        self.without_grace()
        with cursor() as early:
            first = self.insert(early, 1)
            self.assertGreater(self.commit(2), first)
            self.assertEqual(self.fetch(), {self.channel(2)})
            for _i in range(3):
                self.assertFalse(self.fetch())
        self.assertEqual(self.fetch(), {self.channel(1)})
        self.assertFalse(self.fetch())

    def test_smaller_id_that_was_open_before_the_first_reading(self):
        with cursor() as early:
            self.insert(early, 1)
            self.commit(2)
            self.assertIsNone(self.fetch())
        self.assertEqual(self.fetch(), {self.channel(1)})

    def test_several_open_transactions(self):
        self.fetch()
        with cursor() as first, cursor() as second:
            self.insert(first, 1)
            self.insert(second, 2)
            self.insert(first, 3)
            self.commit(4)
            self.assertEqual(self.fetch(), {self.channel(4)})
            second.commit()
            self.assertEqual(self.fetch(), {self.channel(2)})
        self.assertEqual(self.fetch(), {self.channel(1), self.channel(3)})
        self.assertFalse(self.fetch())

    def test_gap_of_a_rollback_is_forgotten(self):
        self.without_grace()
        with cursor() as cr:
            self.insert(cr, 1)
            cr.rollback()
        self.commit(2)
        self.fetch()
        self.fetch()
        self.assertEqual(self.table._gaps, [])

    def test_more_rows_than_are_read_at_once(self):
        self.table.MAX_ROWS = 3
        self.fetch()
        with cursor() as early:
            self.insert(early, 1)
            for number in range(2, 10):
                self.commit(number)
            self.assertEqual(self.fetch(), {self.channel(n) for n in range(2, 10)})
        self.assertEqual(self.fetch(), {self.channel(1)})

    def test_reading_that_fails_halfway(self):
        self.table.MAX_ROWS = 3
        self.fetch()
        for number in range(5):
            self.commit(number)
        answers = []

        def fail_at_the_second(*args):
            if answers:
                raise OSError("away")
            answers.append(self.road.query(*args))
            return answers[0]

        with self.assertRaises(OSError):
            self.table.fetch(fail_at_the_second)
        self.assertIsNone(self.fetch(), "some were read and not returned")

    def test_late_commit_of_more_rows_than_are_read_at_once(self):
        self.without_grace()
        self.table.MAX_ROWS = 3
        with cursor() as early:
            for number in range(8):
                self.insert(early, number)
            self.commit(8)
            self.assertEqual(self.fetch(), {self.channel(8)})
        found = set()
        for _i in range(4):
            found |= self.fetch() or set()
        self.assertEqual(found, {self.channel(number) for number in range(8)})

    def test_more_gaps_than_are_kept_apart(self):
        self.table.MAX_GAPS = 3
        self.fetch()
        with cursor() as early:
            self.insert(early, 1)
            for number in range(2, 12):
                with cursor() as cr:
                    self.insert(cr, 0)
                    cr.rollback()
                self.commit(number)
                self.fetch()
            self.assertLessEqual(len(self.table._gaps), 3)
        self.assertIn(self.channel(1), self.fetch())

    def test_transaction_longer_than_what_is_looked_back(self):
        self.table.GRACE = 0
        self.table.LOOK_BACK = 2
        with cursor() as early:
            self.insert(early, 1)
            for number in range(2, 12):
                self.commit(number)
            self.assertIsNone(self.fetch())
            self.assertFalse(self.fetch())
        self.assertIsNone(self.fetch(), "anybody may have missed it")
        self.commit(12)
        self.assertEqual(self.fetch(), {self.channel(12)})

    def test_rows_that_vanish(self):
        self.fetch()
        self.commit(1)
        self.fetch()
        self.delete()
        self.fetch()
        self.commit(2)
        found = self.fetch()
        self.assertTrue(found is None or found == {self.channel(2)})

    def test_gaps_between(self):
        self.assertEqual(poller.gaps_between(1, 9, [1, 2, 5, 9]), [(3, 4), (6, 8)])
        self.assertEqual(poller.gaps_between(1, 3, []), [(1, 3)])
        self.assertEqual(poller.gaps_between(1, 3, [1, 2, 3]), [])


class TestPoller(PollerCase):
    def setUp(self):
        super().setUp()
        self.databases = {get_db_name()}
        self.state = State()
        self.woken = []
        self.is_woken = threading.Event()
        self.poller = poller.Poller(road, lambda: self.databases, self.wake, self.state)
        self.thread = threading.Thread(target=self.poller.run, daemon=True)
        self.addCleanup(self.stop)

    def stop(self):
        self.poller.stop()
        self.thread.join(DEADLINE)
        self.assertFalse(self.thread.is_alive())

    def wake(self, database, channels):
        self.woken.append((database, channels))
        self.is_woken.set()

    def wait(self):
        self.assertTrue(self.is_woken.wait(DEADLINE))
        self.is_woken.clear()
        return self.woken[-1]

    def test_wakes_everybody_at_first_and_then_who_has_news(self):
        self.thread.start()
        self.assertEqual(self.wait(), (get_db_name(), None))
        self.commit(1)
        database, channels = self.wait()
        self.assertIn((get_db_name(), self.name, 1), channels)

    def test_in_a_hurry_it_does_not_wait_for_the_safety_interval(self):
        self.state.proven()
        self.thread.start()
        self.wait()
        self.commit(1)
        self.poller.hurry()
        self.assertIn((get_db_name(), self.name, 1), self.wait()[1])

    def test_a_database_that_is_gone_does_not_keep_the_others_waiting(self):
        self.databases.add("no_such_database")
        with self.assertLogs(poller._logger, "WARNING") as logs:
            self.thread.start()
            self.assertEqual(self.wait(), (get_db_name(), None))
            while len(logs.output) < 1:
                self.commit(1)
                self.wait()
        self.assertIn("no_such_database", logs.output[0])
