"""What the answer over HTTP says of each state."""

import json
import logging

from odoo.tests.common import BaseCase

from odoo.addons.bus.models import bus as odoo_bus

from ..listening.state import State
from ..models import bus, health, override


class TestHealth(BaseCase):
    def setUp(self):
        super().setUp()
        logger = logging.Logger("nobody")
        logger.addHandler(logging.NullHandler())
        self.state = State(logger, "imbus", "")

    def report(self, *databases):
        """Return the status of a state with these databases, readable or not."""
        for number, is_readable in enumerate(databases):
            if is_readable:
                self.state.table_read(str(number))
            else:
                self.state.table_failed(str(number), OSError("secret"))
        report = health.describe(self.state)
        self.assertNotIn("secret", json.dumps(report))
        return report["status"]

    def test_starting(self):
        self.assertEqual(self.report(), "pass")
        self.assertEqual(self.report(False), "fail")

    def test_listening(self):
        self.state.proven("there")
        self.assertEqual(self.report(), "pass")
        self.assertEqual(self.report(True, True), "pass")
        self.assertEqual(self.report(True, False), "warn")
        self.assertEqual(self.report(False, False), "warn")

    def test_fallback(self):
        self.state.failed(OSError("secret"))
        self.assertEqual(self.report(), "warn")
        self.assertEqual(self.report(True, False), "warn")
        self.state.table_forgotten("0")
        self.assertEqual(self.report(False), "fail")

    def test_a_reading_that_hangs_has_failed(self):
        self.state.failed(OSError("secret"))
        self.assertEqual(self.report(True), "warn")
        self.state.table_wanted("0")
        self.assertEqual(self.report(), "warn")
        self.state.OVERDUE_AFTER = 0
        self.state.table_wanted("0")
        self.assertEqual(self.report(), "fail")

    def test_unsupported_or_stuck(self):
        self.state.is_stuck = lambda: True
        self.assertEqual(self.report(), "fail")
        self.assertEqual(health.describe(self.state)["live_messages"], "stuck")
        self.state.is_unsupported = True
        self.assertEqual(self.report(), "fail")
        self.assertEqual(health.describe(self.state)["live_messages"], "unsupported")

    def test_a_loop_of_another_addon(self):
        self.addCleanup(setattr, odoo_bus.ImDispatch, "loop", bus.loop)
        odoo_bus.ImDispatch.loop = lambda self: None
        self.state.is_overridden = lambda: bus._loop in override.Override.find_lost()
        self.addCleanup(setattr, bus._loop, "_is_told", False)
        with self.assertLogs(override._logger, "ERROR") as logs:
            report = health.describe(self.state)
        self.assertEqual(report["status"], "fail")
        self.assertEqual(report["live_messages"], "overridden")
        self.assertIn("ImDispatch.loop", logs.output[0])
        odoo_bus.ImDispatch.loop = bus.loop
        self.assertEqual(self.report(), "pass")
