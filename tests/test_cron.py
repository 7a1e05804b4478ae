"""The connection that Odoo's cron loops are handed, and how Odoo is patched."""

import select
import threading
from contextlib import closing
from unittest import mock

import psycopg2

import odoo
from odoo.service import server as odoo_server
from odoo.tests.common import BaseCase

from ..models import cron, handed, roads
from ..models.override import ORIGINAL, Override
from .common import DEADLINE, Case


def terminate_own_backends():
    """Terminate the backends by which this process listens for triggers."""
    params = roads.listen_settings().connection_params()
    with closing(psycopg2.connect(**params)) as conn, conn.cursor() as cr:
        cr.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = %s AND query = %s",
            (params["application_name"], f'LISTEN "{cron.CHANNEL}"'),
        )


class TestHandedConnection(BaseCase):
    def setUp(self):
        super().setUp()
        self.connection = cron.CronConnection()

    def is_readable(self):
        return bool(select.select([self.connection], [], [], 0)[0])

    def poll(self):
        self.connection.poll()
        notifies = [(n.channel, n.payload) for n in self.connection.notifies]
        self.connection.notifies.clear()
        return notifies

    def test_readable_until_polled(self):
        self.assertFalse(self.is_readable())
        self.connection.put(["one", "two"])
        self.assertTrue(self.is_readable())
        self.assertEqual(
            self.poll(), [("cron_trigger", "one"), ("cron_trigger", "two")]
        )
        self.assertFalse(self.is_readable())
        self.assertEqual(self.poll(), [])

    def test_a_flood_neither_blocks_nor_is_lost(self):
        for number in range(100000):
            self.connection.put([str(number)])
        databases = {database for _channel, database in self.poll()}
        self.assertLessEqual(len(databases), 1002)
        self.assertFalse(self.is_readable())

    def test_what_a_flood_pushed_out_is_every_database(self):
        self.connection.MAX_ARRIVED = 10
        for number in range(15):
            self.connection.put([str(number)])
        notifies = self.poll()
        for name in cron.everything():
            self.assertIn((cron.CHANNEL, name), notifies)

    def test_everything_is_looked_at_again_after_a_loss(self):
        """The pooler may be back later than PostgreSQL."""
        self.connection.AGAIN_AFTER = 0.01
        looked = threading.Semaphore(0)
        self.connection.put_everything = looked.release
        self.addCleanup(self.connection.close)
        with self.assertLogs(cron._logger, "WARNING"):
            self.connection.listen()
            self.assertTrue(looked.acquire(timeout=DEADLINE))
            self.assertFalse(looked.acquire(timeout=0.1))
            terminate_own_backends()
            for _time in range(2):
                self.assertTrue(looked.acquire(timeout=DEADLINE))
        self.assertFalse(looked.acquire(timeout=0.1))

    def test_what_cannot_be_listed_now_is_not_forgotten(self):
        connection = handed.HandedConnection("channel", self.fail_once)
        self.failures = []
        connection.put_everything()
        with self.assertRaises(OSError):
            connection.poll()
        connection.poll()
        self.assertEqual([n.payload for n in connection.notifies], ["all"])

    def fail_once(self):
        if not self.failures:
            self.failures.append(1)
            raise OSError
        return ["all"]

    def test_more_databases_than_notifications_are_kept(self):
        connection = handed.HandedConnection("channel", lambda: list("abcdefgh"))
        connection.MAX_ARRIVED = 3
        connection.put_everything()
        connection.poll()
        self.assertEqual(len(connection.notifies), 8)

    def test_whatever_was_missed_is_every_database(self):
        known = cron.everything()
        # before 19.0, to be woken is enough
        self.assertEqual(bool(known), hasattr(odoo_server, "cron_database_list"))
        self.connection.put_everything()
        self.assertTrue(self.is_readable())
        self.assertEqual(self.poll(), [("cron_trigger", name) for name in known])

    def test_a_loop_that_takes_nothing_out_is_stuck(self):
        self.connection.STUCK_AFTER = 0
        self.assertFalse(self.connection.is_stuck)
        self.connection.put(["one"])
        self.assertTrue(self.connection.is_stuck)
        self.poll()
        self.assertFalse(self.connection.is_stuck)


class TestHanding(BaseCase):
    """The first connection of the thread that runs a loop, and no other one."""

    def connect(self, database="postgres"):
        return odoo.sql_db.db_connect(database)

    def test_only_in_the_thread_and_until_it_is_closed(self):
        made = []
        with handed.handing(lambda: made.append(1) or cron.CronConnection()):
            other = []
            thread = threading.Thread(target=lambda: other.append(self.connect()))
            thread.start()
            thread.join()
            self.assertIsInstance(other[0], odoo.sql_db.Connection)
            self.assertIsInstance(self.connect("another"), odoo.sql_db.Connection)
            cursor = self.connect().cursor()
            self.assertIsInstance(cursor, handed.HandedCursor)
            # what the jobs do
            self.assertIsInstance(self.connect(), odoo.sql_db.Connection)
            cursor.close()
            with self.connect().cursor() as again:
                self.assertIsInstance(again, handed.HandedCursor)
            kept = self.connect().cursor()
        self.assertEqual(len(made), 3)
        # as of a worker that has started
        kept.close()
        self.assertIsInstance(self.connect(), odoo.sql_db.Connection)

    def test_what_could_not_be_made_is_not_given(self):
        def fail():
            raise OSError("no descriptor left")

        with handed.handing(fail):
            for _i in range(2):
                with self.assertRaises(OSError):
                    self.connect().cursor()

    def test_what_the_loops_do_with_their_cursor(self):
        with handed.handing(lambda: handed.HandedConnection("channel", list)):
            cursor = self.connect().cursor()
        cursor.execute("SELECT pg_is_in_recovery()")
        self.assertFalse(cursor.fetchone()[0])
        cursor.execute("LISTEN channel")
        cursor.commit()
        self.assertFalse(cursor._cnx.closed)
        cursor._cnx.close()
        cursor.close()
        self.assertTrue(cursor._cnx.closed)

    def test_what_is_no_loop_is_told(self):
        with handed.handing(lambda: handed.HandedConnection("channel", list)):
            cursor = self.connect().cursor()
        with self.assertRaises(NotImplementedError):
            cursor.execute("SELECT pg_notify('imbus', '')")


class TestPatch(Case):
    def test_patching_twice_changes_nothing(self):
        before = list(Override.applied)
        originals = [override.original for override in before]
        cron.patch()
        self.assertEqual(Override.applied, before)
        self.assertEqual([override.original for override in before], originals)
        self.assertEqual(Override.find_lost(), [])

    def test_unknown_server_is_left_alone(self):
        # as of 15.0
        self.patch(cron, "has_triggers", lambda: True)
        prefork = odoo_server.PreforkServer
        self.addCleanup(setattr, prefork, "process_spawn", prefork.process_spawn)
        start = odoo_server.WorkerCron.start
        del prefork.process_spawn
        cron.patch()
        with self.assertLogs(cron._logger, "ERROR") as logs:
            cron.announce()
        self.assertIn("process_spawn", logs.output[0])
        self.assertIs(odoo_server.WorkerCron.start, start)

    def list_databases(self, *found):
        """Return what is told when Odoo finds these, or raises that."""
        self.patch(cron, "_known", [])
        stock = mock.Mock(side_effect=found)
        with mock.patch.object(cron.database_list, ORIGINAL, stock, create=True):
            return [cron.database_list() for _time in found]

    def test_databases_as_last_known_while_they_are_away(self):
        away = psycopg2.OperationalError("away")
        with self.assertLogs(cron._logger, "WARNING") as logs:
            self.assertEqual(self.list_databases(["one"], away), [["one"]] * 2)
        self.assertIn("away", logs.output[0])

    def test_no_databases_are_not_believed(self):
        """Odoo's list is empty as well if its query fails."""
        found = self.list_databases([], ["one"], [], ["two"])
        self.assertEqual(found, [[], ["one"], ["one"], ["two"]])

    def test_the_notify_database_is_the_one_that_is_handed(self):
        self.assertEqual(roads.notify_database(), "postgres")
