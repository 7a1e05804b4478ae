"""How Odoo's bus dispatcher is patched."""

import logging
import threading
from unittest import mock

from odoo.addons.bus.models import bus as odoo_bus

from ..listening.state import State
from ..models import bus
from ..models.override import Override
from .common import Case

_logger = logging.getLogger(__name__)


class TestPatch(Case):
    def test_odoo_is_patched_on_the_class(self):
        self.assertIs(odoo_bus.ImDispatch.loop, bus.loop)
        self.assertEqual(odoo_bus.dispatch.loop.__func__, bus.loop)
        self.assertEqual(bus._loop.original.__module__, odoo_bus.__name__)
        self.assertNotIn(bus._loop, Override.find_lost())

    def test_patching_twice_changes_nothing(self):
        original, applied = bus._loop.original, list(Override.applied)
        bus.patch()
        self.assertIs(odoo_bus.ImDispatch.loop, bus.loop)
        self.assertIs(bus._loop.original, original)
        self.assertEqual(Override.applied, applied)

    def test_what_fails_at_the_start_leaves_no_poller(self):
        """Odoo calls the loop again: there is to be one poller then."""
        self.patch(bus, "Listener", mock.Mock(side_effect=OSError(24)))
        before = threading.active_count()
        with self.assertRaises(OSError):
            bus.listen(mock.Mock(databases=set))
        self.assertEqual(threading.active_count(), before)

    def test_unknown_dispatcher_is_left_alone(self):
        self.patch(bus, "_loop", Override(odoo_bus, "NoDispatch.loop", bus.loop))
        self.patch(bus, "state", State(_logger, bus.CHANNEL, ""))
        bus.patch()
        with self.assertLogs(bus._logger, "ERROR") as logs:
            bus.announce()
        self.assertIn("no NoDispatch.loop", logs.output[0])
        self.assertEqual(bus.state.health, "fail")
