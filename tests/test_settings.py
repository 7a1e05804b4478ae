"""The options: where they are read from, what becomes of them, what is refused."""

from odoo.tests.common import BaseCase

from ..listening import settings
from ..listening.display import describe, one_line

ODOO = {
    "db_host": "pooler",
    "db_port": 6432,
    "db_user": "odoo",
    "db_password": "odoo-secret",
    "db_sslmode": "prefer",
}


def load(environ=(), **config):
    return settings.load({**ODOO, **config}.get, dict(environ), "/etc/odoo.conf")


class TestSettings(BaseCase):
    def assertParams(self, found, **expected):
        self.assertEqual({key: found.params.get(key) for key in expected}, expected)

    def assertProblem(self, *words, without=(), count=1, **kwargs):
        with self.assertRaises(settings.SettingsError) as caught:
            load(**kwargs)
        self.assertEqual(len(caught.exception.problems), count)
        for text in (str(caught.exception), repr(caught.exception)):
            for word in words:
                self.assertIn(word, text)
            for word in without:
                self.assertNotIn(word, text)

    def test_nothing_set_is_odoos_own_connection(self):
        found = load()
        self.assertFalse(found.own_endpoint)
        self.assertParams(
            found,
            host="pooler",
            port="6432",
            user="odoo",
            password="odoo-secret",
            sslmode="prefer",
            dbname="postgres",
        )

    def test_where_odoo_goes_already_is_no_endpoint_of_our_own(self):
        same = {"db_listen_host": "pooler", "db_listen_port": "6432"}
        self.assertFalse(load(**same).own_endpoint)
        self.assertFalse(load(db_listen_dsn="host=pooler port=6432").own_endpoint)
        self.assertTrue(load(db_listen_dsn="host=pooler").own_endpoint)
        self.assertTrue(load(db_listen_port="5432").own_endpoint)
        self.assertTrue(load(db_listen_dsn="service=pg").own_endpoint)
        unset = {"db_host": False, "db_port": False}
        self.assertFalse(load(db_listen_port="5432", **unset).own_endpoint)
        self.assertTrue(load(db_listen_dsn="hostaddr=10.0.0.5", **unset).own_endpoint)

    def test_no_host_at_all_is_the_local_socket(self):
        found = load(db_host=False, db_port=False)
        self.assertParams(found, host=None, port=None)
        self.assertIn("(local socket)", str(found))

    def test_file(self):
        found = load(
            db_listen_host="pg",
            db_listen_port="5432",
            db_listen_user="listener",
            db_listen_password="listen-secret",
            db_listen_sslmode="require",
            db_listen_name="system",
        )
        self.assertTrue(found.own_endpoint)
        self.assertParams(
            found,
            host="pg",
            port="5432",
            user="listener",
            password="listen-secret",
            sslmode="require",
            dbname="system",
        )

    def test_environment_before_file(self):
        found = load({"ODOO_DB_LISTEN_HOST": "from-env"}, db_listen_host="from-file")
        self.assertParams(found, host="from-env")

    def test_empty_and_false_mean_unset(self):
        for unset in ("", " ", "False", "false", "None", False, None):
            with self.subTest(unset=unset):
                found = load(
                    {"ODOO_DB_LISTEN_HOST": "" if unset is None else str(unset)},
                    db_listen_host=unset,
                    db_listen_port=unset,
                )
                self.assertFalse(
                    found.own_endpoint and unset is not None, found.sources
                )

    def test_an_empty_variable_leaves_the_file_in_force(self):
        found = load({"ODOO_DB_LISTEN_HOST": ""}, db_listen_host="from-file")
        self.assertParams(found, host="from-file")

    def test_either_host_or_port_is_enough(self):
        self.assertParams(load(db_listen_port="5432"), host="pooler", port="5432")
        self.assertParams(load(db_listen_host="pg"), host="pg", port="6432")

    def test_names_of_the_oca_addon(self):
        found = load(imdispatcher_db_host="pg", imdispatcher_db_port="5432")
        self.assertTrue(found.own_endpoint)
        self.assertParams(found, host="pg", port="5432")
        self.assertParams(load({"ODOO_IMDISPATCHER_DB_HOST": "env"}), host="env")
        self.assertParams(
            load({"ODOO_IMDISPATCHER_DB_HOST": "old"}, db_listen_host="new"), host="new"
        )

    def test_lists(self):
        found = load(db_listen_host="a,b", db_listen_port="5432,5433")
        self.assertParams(found, host="a,b", port="5432,5433")
        load(db_listen_host="a,b")
        load(db_listen_host="a,b", db_listen_port="5432")
        self.assertProblem(
            "db_listen_port", db_listen_host="a,b", db_listen_port="1,2,3"
        )

    def test_database_is_db_system_where_the_series_has_it(self):
        self.assertParams(load(db_system="system"), dbname="system")
        self.assertParams(load(db_system="system", db_listen_name="x"), dbname="x")

    def test_wrong_db_system_beside_a_dsn(self):
        self.assertProblem(
            "db_system (in /etc/odoo.conf)", db_listen_dsn="host=pg", db_system="a@b"
        )

    def test_dsn_is_whole(self):
        found = load(
            db_listen_dsn="postgresql://u:dsn-secret@pg:5433/db?sslrootcert=/ca.pem",
            db_sslmode="verify-full",
        )
        self.assertParams(
            found,
            host="pg",
            port="5433",
            user="u",
            password="dsn-secret",
            dbname="db",
            sslrootcert="/ca.pem",
            sslmode=None,
        )

    def test_nothing_of_odoo_is_added_to_a_dsn_but_the_database(self):
        found = load(db_listen_dsn="keepalives_idle=60", db_system="system")
        self.assertParams(
            found,
            host=None,
            port=None,
            user=None,
            password=None,
            dbname="system",
            keepalives_idle="60",
        )
        self.assertParams(load(db_listen_dsn="host=pg"), dbname="postgres")

    def test_nothing_stands_beside_a_dsn(self):
        self.assertProblem(
            "db_listen_dsn (in /etc/odoo.conf)",
            "db_listen_port (environment variable ODOO_DB_LISTEN_PORT)",
            "db_listen_user (in /etc/odoo.conf)",
            environ={"ODOO_DB_LISTEN_PORT": "5432"},
            db_listen_dsn="host=pg",
            db_listen_user="u",
        )
        load(db_listen_dsn="host=pg", db_listen_max_age="60")

    def test_names_of_the_oca_addon_stand_in_for_what_is_unset_only(self):
        found = load(db_listen_dsn="host=pg", imdispatcher_db_host="old")
        self.assertParams(found, host="pg")

    def test_service_is_left_alone(self):
        found = load(db_listen_dsn="service=listen")
        self.assertEqual(found.params, {"service": "listen"})
        self.assertIn("listen", str(found))

    def test_what_people_write(self):
        for values, words in (
            ({"db_listen_host": "db:5432"}, ["db_listen_host = db", "_port = 5432"]),
            ({"db_listen_host": '"localhost"'}, ["without the quotes"]),
            ({"db_listen_port": "'5432'"}, ["without the quotes"]),
            ({"db_listen_host": "[::1]"}, ["without brackets: ::1"]),
            ({"db_listen_host": "a,b:5432"}, ["db_listen_host = b"]),
            ({"db_listen_port": "tcp://10.96.3.7:5432"}, ["enableServiceLinks"]),
        ):
            with self.subTest(values=values):
                self.assertProblem(*values, *words, **values)
        self.assertParams(load(db_listen_host="::1"), host="::1")

    def test_an_idle_connection_is_watched_by_tcp(self):
        self.assertParams(
            load(),
            connect_timeout="5",
            keepalives="1",
            keepalives_idle="10",
            keepalives_interval="3",
            keepalives_count="3",
        )

    def test_connection_says_who_it_is(self):
        name = load().connection_params()["application_name"]
        self.assertIn("bus_alt_connection", name)
        found = load(db_listen_dsn="host=pg application_name=me")
        self.assertEqual(found.connection_params()["application_name"], "me")

    def test_wrong_port(self):
        for port in ("abc", "99999", "0", "-1", "5432,x", "²"):
            with self.subTest(port=port):
                self.assertProblem(
                    "db_listen_port",
                    "/etc/odoo.conf",
                    port,
                    "65535",
                    db_listen_port=port,
                )
        self.assertProblem(
            "environment variable ODOO_DB_LISTEN_PORT",
            environ={"ODOO_DB_LISTEN_PORT": "abc"},
        )
        self.assertProblem("db_listen_dsn", "port", db_listen_dsn="host=pg port=abc")

    def test_wrong_sslmode(self):
        self.assertProblem(
            "db_listen_sslmode", "yes", "verify-full", db_listen_sslmode="yes"
        )

    def test_every_wrong_value_is_named(self):
        with self.assertRaises(settings.SettingsError) as caught:
            load(db_listen_port="abc", db_listen_sslmode="yes")
        self.assertEqual(len(caught.exception.problems), 2)

    def test_no_password_in_an_error(self):
        for dsn in (
            "postgresql://u:hidden@pg:port@x/db",
            "host=pg password=hidden nonsense",
            "hidden",
            "postgresql://u:hidden@[pg/db",
        ):
            with self.subTest(dsn=dsn):
                self.assertProblem(
                    "db_listen_dsn", without=["hidden"], db_listen_dsn=dsn
                )
        for host in (
            "postgresql://u:hidden@pg/db",
            "pg password=hidden",
            "u:hidden@pg",
        ):
            with self.subTest(host=host):
                self.assertProblem(
                    "db_listen_host",
                    "db_listen_dsn",
                    without=["hidden"],
                    db_listen_host=host,
                )

    def test_no_password_that_is_not_percent_encoded(self):
        for environ in (
            {"ODOO_DB_LISTEN_DSN": "postgresql://u:12345/hidden@pg:5432/db"},
            {"ODOO_DB_LISTEN_NAME": "postgresql://u:hidden@pg/db"},
            {"ODOO_DB_LISTEN_NAME": "password=hidden"},
            {"ODOO_DB_LISTEN_USER": "u:hidden@pg"},
        ):
            with self.subTest(environ=environ):
                [variable] = environ
                self.assertProblem(
                    variable, without=["hidden", "12345"], environ=environ
                )

        self.assertProblem(
            "port in db_listen_dsn",
            "dbname in db_listen_dsn",
            count=2,
            without=["hidden"],
            environ={"ODOO_DB_LISTEN_DSN": "postgresql://u:hidden/x@pg:5432/db"},
        )

    def test_undecodable_environment(self):
        dsn = b"host=pg password=caf\xe9".decode(errors="surrogateescape")
        self.assertProblem("db_listen_dsn", environ={"ODOO_DB_LISTEN_DSN": dsn})

    def test_ports_go_with_odoos_own_hosts(self):
        found = load(db_host="a,b", db_listen_port="5432,5433")
        self.assertParams(found, host="a,b", port="5432,5433")

    def test_timeouts_that_mean_for_ever(self):
        for timeout in ("0", "-1", " 5 "):
            load(db_listen_dsn=f"host=pg connect_timeout='{timeout}'")
        for timeout in ("abc", "99999999999"):
            self.assertProblem(
                "connect_timeout",
                db_listen_dsn=f"host=pg connect_timeout={timeout}",
            )

    def test_max_age(self):
        self.assertEqual(load().max_age, 3600)
        self.assertEqual(load(db_listen_max_age="0").max_age, 0)
        self.assertProblem("db_listen_max_age", '"1h"', db_listen_max_age="1h")

    def test_no_password_in_a_repr(self):
        found = load(db_listen_password="hidden", db_listen_host="pg")
        self.assertNotIn("hidden", repr(found))
        self.assertNotIn("hidden", str(found))
        self.assertNotIn("hidden", repr(found.sources))

    def test_no_password_of_odoos_own_options(self):
        """Which nobody has checked: a URI in db_host, say, which libpq quotes, too."""
        uri = "postgresql://odoo:hid@d hiden@pooler/postgres"
        for params in ({"host": uri}, {"user": "odoo:hidden@pooler"}, {"dbname": uri}):
            text = describe(params)
            self.assertIn("not shown", text)
            self.assertNotIn("hid", text)
        error = one_line(f'could not translate host name "{uri}" to address:\n unknown')
        self.assertNotIn("hid", error)
        self.assertIn('@pooler/postgres" to address: unknown', error)
