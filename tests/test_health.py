"""What the answer over HTTP says of each state, and how Odoo is patched."""

import json

from odoo import http
from odoo.tests.common import BaseCase

from ..models import health
from ..state import State


class TestHealth(BaseCase):
    def report(self, *databases):
        """Return the status of a state with these databases, readable or not."""
        self.state.databases = dict(enumerate(databases))
        return health.describe(self.state)["status"]

    def setUp(self):
        super().setUp()
        self.state = State()

    def test_starting(self):
        self.assertEqual(self.report(), "pass")

    def test_listening(self):
        self.state.proven()
        self.assertEqual(self.report(), "pass")
        self.assertEqual(self.report(True, True), "pass")
        self.assertEqual(self.report(True, False), "warn")
        self.assertEqual(self.report(False, False), "warn")

    def test_fallback(self):
        self.state.unproven("secret")
        self.assertEqual(self.report(), "warn")
        self.assertEqual(self.report(True, False), "warn")
        self.assertEqual(self.report(False), "fail")
        self.assertNotIn("secret", json.dumps(health.describe(self.state)))

    def test_unsupported(self):
        self.state.unsupported()
        self.assertEqual(self.report(), "fail")
        self.assertEqual(health.describe(self.state)["live_messages"], "unsupported")


class TestPatch(BaseCase):
    def test_patching_twice_changes_nothing(self):
        stock = health.call.stock
        health.patch()
        self.assertIs(type(http.root).__call__, health.call)
        self.assertIs(health.call.stock, stock)
        self.assertEqual(stock.__module__, http.__name__)

    def test_unknown_application_is_left_alone(self):
        self.addCleanup(setattr, http, "root", http.root)
        del http.root
        health.patch()
        with self.assertLogs(health._logger, "ERROR") as logs:
            health.announce()
        self.assertIn("no http.root", logs.output[0])
