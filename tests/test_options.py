"""Which names of options are mistaken for ours, and which are not."""

from odoo.tests.common import BaseCase

from ..listening import options


class TestMisspelt(BaseCase):
    def find(self, *names, **environ):
        found = options.find_misspelt(names, environ, "/etc/odoo.conf")
        return [(name, meant) for name, _where, meant in found]

    def test_what_was_meant(self):
        self.assertEqual(
            self.find("db_listn_host", "cron_db_port", "db_listen_pasword"),
            [
                ("cron_db_port", "db_listen_port"),
                ("db_listen_pasword", "db_listen_password"),
                ("db_listn_host", "db_listen_host"),
            ],
        )
        self.assertEqual(
            self.find(
                IMDISPATCHER_DB_HOST="pg",
                ODOO_DB_LISTEN_HOTS="pg",
                odoo_db_listen_port="5432",
            ),
            [
                ("IMDISPATCHER_DB_HOST", "ODOO_IMDISPATCHER_DB_HOST"),
                ("ODOO_DB_LISTEN_HOTS", "ODOO_DB_LISTEN_HOST"),
                ("odoo_db_listen_port", "ODOO_DB_LISTEN_PORT"),
            ],
        )

    def test_what_is_right_or_somebody_elses(self):
        self.assertEqual(
            self.find(
                "db_host",
                "db_password",
                "db_listen_host",
                "imdispatcher_db_port",
                "http_port",
                ODOO_DB_LISTEN_HOST="pg",
                DB_LISTEN_PORT="tcp://10.96.3.7:5432",
                ODOO_DB_LISTEN_SERVICE_HOST="10.96.3.7",
                ODOO_DB_LISTEN_PORT_5432_TCP_ADDR="10.96.3.7",
                DB_HOST="pg",
            ),
            [],
        )
