"""What is advised after messages that the end-to-end tests do not provoke."""

from odoo.tests.common import BaseCase

from ..listening.advice import (
    NO_PRIMARY,
    PORT_UNSET,
    TO_DB_HOST,
    UNREACHABLE,
    advise,
)
from ..listening.canary import NOT_SENT
from ..listening.server import POOLED, STANDBY, mismatch

HBA = 'FATAL: no pg_hba.conf entry for host "::1", user "u", database "d", {}'
REFUSED = 'connection to server at "::1", port 5432 failed: Connection refused'


class TestAdvice(BaseCase):
    def advise(self, *reasons, options=("db_listen_port",), own_endpoint=True):
        return advise(list(reasons), options, own_endpoint)

    def test_what_is_not_understood_gets_none(self):
        for reason in (
            "FATAL: Passwort-Authentifizierung für Benutzer »odoo« fehlgeschlagen",
            "FATAL: the database system is starting up",
            "FATAL: Tenant or user not found",
            "server closed the connection unexpectedly",
            "the server does not answer: no answer within 5 s",
        ):
            with self.subTest(reason=reason):
                self.assertEqual(self.advise(reason), "")
                self.assertEqual(self.advise(reason, own_endpoint=False), "")

    def test_the_host_is_doubted_only_if_nobody_answers(self):
        for reason in (REFUSED, "no answer within 5 s", "timeout expired"):
            self.assertEqual(self.advise(reason), UNREACHABLE)
        for reason in (
            HBA.format("no encryption"),
            'FATAL: role "u" does not exist',
            "FATAL: sorry, too many clients already",
            'FATAL: database "d" does not exist',
        ):
            with self.subTest(reason=reason):
                self.assertTrue(self.advise(reason))
                self.assertNotIn("Correct db_listen_host", self.advise(reason))

    def test_port_that_is_unset(self):
        self.assertIn(PORT_UNSET, self.advise(REFUSED, options=("db_listen_host",)))
        self.assertNotIn(PORT_UNSET, self.advise(REFUSED, options=("db_listen_dsn",)))

    def test_tls(self):
        plain, tls = HBA.format("no encryption"), HBA.format("SSL encryption")
        self.assertIn("to require", self.advise(plain))
        self.assertIn("to require", self.advise(HBA.format("SSL off")))
        self.assertIn("to disable", self.advise(tls))
        # libpq has tried both, so that it is neither
        self.assertNotIn("sslmode", self.advise(f"{tls} {plain}"))
        for reason in (
            "SSL error: certificate verify failed",
            'root certificate file "/root/.postgresql/root.crt" does not exist',
            'server certificate for "a" does not match host name "b"',
        ):
            self.assertIn("db_listen_sslmode", self.advise(reason))

    def test_pooler(self):
        self.assertIn("to PostgreSQL itself", self.advise(POOLED))
        for reason in (
            'FATAL: no such user "u"',
            "FATAL: no such database: d",
            "FATAL: server login has been failing, try again later"
            " (server_login_retry)",
            "FATAL: query_wait_timeout",
            "FATAL: no more connections allowed (max_client_conn)",
        ):
            self.assertIn("the answer of PgBouncer", self.advise(reason))

    def test_what_db_host_says_is_not_about_the_listening_server(self):
        """A canary could not be sent."""
        for answer in (
            "FATAL: no more connections allowed (max_client_conn)",
            "FATAL: query_wait_timeout",
            REFUSED,
        ):
            for own_endpoint in (True, False):
                doubt = f"nothing came for 9 s, and {NOT_SENT}: {answer}"
                found = self.advise(doubt, options=(), own_endpoint=own_endpoint)
                self.assertEqual(found, TO_DB_HOST)

    def test_listens_where_nothing_is_sent(self):
        here, name = ("started", "postgres"), "db_listen_name"
        self.assertIn(name, self.advise(mismatch(here, ("started", "system"))))
        self.assertIn("to the PostgreSQL", self.advise(mismatch(here, ("other", "x"))))

    def test_where_db_host_leads(self):
        """Another pooler may say what PostgreSQL says."""
        wrong = 'FATAL: password authentication failed for user "u"'
        self.assertNotIn("pooler", self.advise(wrong))
        found = self.advise(wrong, own_endpoint=False)
        self.assertIn("If that is a connection pooler", found)

    def test_lists(self):
        self.assertIn("list of all servers", self.advise(STANDBY))
        self.assertEqual(self.advise(STANDBY, STANDBY), NO_PRIMARY)
        self.assertEqual(self.advise(STANDBY, REFUSED), UNREACHABLE)
        self.assertEqual(self.advise(STANDBY, "FATAL: what?"), "")
        self.assertEqual(self.advise(REFUSED, REFUSED), UNREACHABLE)
        self.assertEqual(
            self.advise("session is read-only", "server is in hot standby mode"),
            NO_PRIMARY,
        )
