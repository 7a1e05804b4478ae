"""The override: what reaches the websockets, and how Odoo is patched."""

import json
import threading

from odoo.tests.common import BaseCase

from odoo.addons.bus.models import bus as odoo_bus

from ..models import bus
from ..state import State


class FakeWebsocket:
    def __init__(self):
        self.triggered = 0

    def trigger_notification_dispatching(self):
        self.triggered += 1


class ClosedWebsocket(FakeWebsocket):
    def trigger_notification_dispatching(self):
        raise OSError("closed")


class NewerDispatcher:
    """What matters of the dispatcher in Odoo's newer line."""

    def __init__(self):
        self.ids = []

    def _dispatch_notifications(self, items):
        self.ids += [notification_id for _channel, notification_id in items]


class TestDispatch(BaseCase):
    def setUp(self):
        super().setUp()
        # not Odoo's own `dispatch`, which other tests use; and never started
        self.dispatcher = odoo_bus.ImDispatch()
        self.websocket = self.subscribe(("db", "res.partner", 3))
        bus._junk_log.reset()

    def subscribe(self, *channels, websocket=None):
        websocket = websocket or FakeWebsocket()
        for channel in channels:
            self.dispatcher._channels_to_ws.setdefault(channel, set()).add(websocket)
        return websocket

    def dispatch(self, *payloads):
        bus.dispatch_payloads(self.dispatcher, payloads)

    def test_only_subscribers_are_woken_and_once_a_batch(self):
        other = self.subscribe(("db", "broadcast"))
        self.dispatch('[["db","res.partner",3]]', '[["db","res.partner",3]]')
        self.assertEqual((self.websocket.triggered, other.triggered), (1, 0))

    def test_unknown_channel_is_nothing_to_speak_of(self):
        with self.assertNoLogs(bus._logger):
            self.dispatch('[["other_db","res.partner",3]]')
        self.assertEqual(self.websocket.triggered, 0)

    def test_junk_is_skipped_and_what_stands_beside_it_is_not(self):
        valid = ["db", "res.partner", 3]
        junk = (
            "not json",
            "",
            "{}",
            "null",
            "3",
            "[" * 7999,
            "[" * 990 + "]" * 990,
            "9" * 7999,
            '"\\ud800"',
            "x" * 7999,
            json.dumps([[["db20", "res.partner", 3], 4567]]),
            json.dumps([{"db": 1}, 5, None, [["db"], {}]]),
        )
        for payload in junk:
            with self.subTest(payload=payload[:50]):
                self.websocket.triggered = 0
                bus._junk_log.reset()
                with self.assertLogs(bus._logger, "WARNING") as logs:
                    self.dispatch(payload, json.dumps([valid]))
                self.assertEqual(self.websocket.triggered, 1)
                self.assertEqual(len(logs.output), 1)
                self.assertLess(len(logs.output[0]), 300)
        self.websocket.triggered = 0
        self.dispatch(json.dumps([{}, [["db"]], valid, 5]))
        self.assertEqual(self.websocket.triggered, 1)

    def test_junk_is_logged_once_a_minute(self):
        with self.assertLogs(bus._logger, "WARNING") as logs:
            for _i in range(1000):
                self.dispatch("not json")
        self.assertEqual(len(logs.output), 1)

    def test_one_broken_websocket_does_not_keep_the_others_waiting(self):
        channel = ("db", "broadcast")
        others = [self.subscribe(channel) for _i in range(20)]
        self.subscribe(channel, websocket=ClosedWebsocket())
        with self.assertLogs(bus._logger, "WARNING"):
            self.dispatch(json.dumps([channel]))
        self.assertEqual([other.triggered for other in others], [1] * 20)

    def test_catch_up_wakes_everyone_once(self):
        both = self.subscribe(("db", "a"), ("db2", "b"))
        bus.wake(self.dispatcher, "db", None)
        self.assertEqual((self.websocket.triggered, both.triggered), (1, 1))

    def test_catch_up_wakes_nobody_else(self):
        other = self.subscribe(("db", "a"), ("db2", "b"))
        bus.wake(self.dispatcher, "db2", None)
        bus.wake(self.dispatcher, "db", {("db", "res.partner", 3), ("db", "c")})
        self.assertEqual((self.websocket.triggered, other.triggered), (1, 1))

    def test_newer_dispatcher_gets_the_items(self):
        dispatcher = NewerDispatcher()
        bus.dispatch_payloads(dispatcher, ['[[["db","a"],1],[["db","b"],2]]'])
        self.assertEqual(dispatcher.ids, [1, 2])

    def test_newer_dispatcher_gets_the_valid_items_beside_junk(self):
        dispatcher = NewerDispatcher()
        with self.assertLogs(bus._logger, "WARNING") as logs:
            bus.dispatch_payloads(
                dispatcher, ["junk", '[[["db","a"],1],5,{},[["db","b"],2]]']
            )
        self.assertEqual(dispatcher.ids, [1, 2])
        self.assertEqual(len(logs.output), 1)


class TestPatch(BaseCase):
    def test_odoo_is_patched_on_the_class(self):
        self.assertIs(odoo_bus.ImDispatch.loop, bus.loop)
        self.assertEqual(odoo_bus.dispatch.loop.__func__, bus.loop)
        self.assertIsNot(bus.loop.stock, bus.loop)
        self.assertEqual(bus.loop.stock.__module__, odoo_bus.__name__)

    def test_patching_twice_changes_nothing(self):
        stock = bus.loop.stock
        bus.patch()
        self.assertIs(odoo_bus.ImDispatch.loop, bus.loop)
        self.assertIs(bus.loop.stock, stock)

    def test_unknown_dispatcher_is_left_alone(self):
        dispatcher_class, stock_loop = odoo_bus.ImDispatch, bus.loop.stock
        self.addCleanup(setattr, odoo_bus, "ImDispatch", dispatcher_class)
        self.addCleanup(setattr, dispatcher_class, "loop", bus.loop)
        dispatcher_class.loop = stock_loop
        del odoo_bus.ImDispatch
        self.patch_state()
        bus.patch()
        with self.assertLogs(bus._logger, "ERROR") as logs:
            bus.announce()
        self.assertIs(dispatcher_class.loop, stock_loop)
        self.assertIn("ImDispatch.loop", logs.output[0])
        self.assertEqual(bus.state.health, "fail")

    def patch_state(self):
        self.addCleanup(setattr, bus, "state", bus.state)
        bus.state = State()

    def test_stock_loop_ends_and_nothing_else_does(self):
        event = threading.Event()

        def stock_loop():
            return bus_event.is_set()

        bus_event = bus._StopEventForStockLoop(event, stock_loop)
        self.assertTrue(stock_loop())
        self.assertFalse(bus_event.is_set())
        self.assertFalse(bus_event.wait(0))
        bus_event.set()
        self.assertTrue(event.is_set())
        self.assertTrue(bus_event.is_set())
