"""What several of the tests need."""

import contextlib
import logging
import time
from unittest import mock

from odoo.tests.common import BaseCase

#: Seconds to wait for what must happen; generous, as no test depends on speed.
DEADLINE = 30


class Case(BaseCase):
    """What not every series has."""

    def patch(self, owner, name, value):
        """As of Odoo 15.0: have something else there until the end of the test."""
        patcher = mock.patch.object(owner, name, value)
        patcher.start()
        self.addCleanup(patcher.stop)

    @contextlib.contextmanager
    def assertNoLogs(self, logger=None, level="INFO"):
        """As of Python 3.10; that of Odoo 16.0 wants a level."""
        with self.assertLogs(logger, level) as logs:
            yield
            # there has to be one
            found = logger if isinstance(logger, logging.Logger) else None
            (found or logging.getLogger(logger)).critical("the only one")
        self.assertEqual(len(logs.output), 1, logs.output)


class WaitCase(Case):
    """A test that waits for what others do."""

    def wait_until(self, condition):
        deadline = time.monotonic() + DEADLINE
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
