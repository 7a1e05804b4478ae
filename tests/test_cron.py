"""The connection that Odoo's cron loops are given, and how Odoo is patched."""

import select

import psycopg2

import odoo
from odoo.service import server as odoo_server
from odoo.tests.common import BaseCase

from ..models import cron


class TestCronConnection(BaseCase):
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
        self.connection._arrive(["one", "two"])
        self.assertTrue(self.is_readable())
        self.assertEqual(
            self.poll(), [("cron_trigger", "one"), ("cron_trigger", "two")]
        )
        self.assertFalse(self.is_readable())
        self.assertEqual(self.poll(), [])

    def test_a_flood_neither_blocks_nor_is_lost(self):
        for number in range(100000):
            self.connection._arrive([str(number)])
        notifies = self.poll()
        self.assertLess(len(notifies), 2000)
        self.assertIn(("cron_trigger", odoo_server.cron_database_list()[0]), notifies)
        self.assertFalse(self.is_readable())

    def test_whatever_was_missed_is_every_database(self):
        known = odoo_server.cron_database_list()
        self.assertTrue(known)
        self.connection._miss()
        self.assertTrue(self.is_readable())
        self.assertEqual(self.poll(), [("cron_trigger", name) for name in known])


class TestPatch(BaseCase):
    def test_only_the_server_sees_another_connection(self):
        self.assertIsInstance(odoo_server.sql_db, cron.SqlDb)
        self.assertIs(odoo_server.sql_db.close_db, odoo.sql_db.close_db)
        self.assertNotIsInstance(odoo.sql_db, cron.SqlDb)
        ordinary = odoo_server.sql_db.db_connect("another")
        self.assertIsInstance(ordinary, odoo.sql_db.Connection)
        cursor = odoo_server.sql_db.db_connect("postgres").cursor()
        self.assertIsInstance(cursor, cron.CronCursor)

    def test_patching_twice_changes_nothing(self):
        patched = odoo_server.sql_db
        cron.patch()
        self.assertIs(odoo_server.sql_db, patched)
        self.assertIsNot(cron.cron_database_list.stock, cron.cron_database_list)

    def test_unknown_server_is_left_alone(self):
        patched = odoo_server.sql_db
        self.addCleanup(setattr, odoo_server, "sql_db", patched)
        del odoo_server.sql_db
        cron.patch()
        with self.assertLogs(cron._logger, "ERROR") as logs:
            cron.announce()
        self.assertIn("no sql_db", logs.output[0])
        self.assertFalse(hasattr(odoo_server, "sql_db"))

    def test_databases_as_last_known_while_they_are_away(self):
        known = odoo_server.cron_database_list()
        self.addCleanup(
            setattr, cron.cron_database_list, "stock", cron.cron_database_list.stock
        )

        def away():
            raise psycopg2.OperationalError("away")

        cron.cron_database_list.stock = away
        cron._away_log.reset()
        with self.assertLogs(cron._logger, "WARNING") as logs:
            self.assertEqual(odoo_server.cron_database_list(), known)
        self.assertIn("away", logs.output[0])
