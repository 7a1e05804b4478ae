"""What reaches the websockets, 16.0 to 19.0."""

import json
import logging

from odoo.tests.common import BaseCase

from odoo.addons.bus import websocket as odoo_websocket
from odoo.addons.bus.models import bus as odoo_bus

from ..listening.log import Log
from ..listening.state import State
from ..models import bus, series
from ..models.websockets import Websockets
from .common import Case

_logger = logging.getLogger(__name__)


def make_audience(dispatcher):
    return Websockets(bus.known, dispatcher, State(_logger, bus.CHANNEL, ""))


class FakeWebsocket:
    def __init__(self):
        self.triggered = 0

    def trigger_notification_dispatching(self):
        self.triggered += 1


class ClosedWebsocket(FakeWebsocket):
    def trigger_notification_dispatching(self):
        raise OSError("closed")


class TestDispatch(Case):
    def setUp(self):
        super().setUp()
        # not Odoo's own `dispatch`, which other tests use; and never started
        self.dispatcher = odoo_bus.ImDispatch()
        self.websocket = self.subscribe(("db", "res.partner", 3))
        # where nothing was told yet
        self.audience = make_audience(self.dispatcher)

    def subscribe(self, *channels, websocket=None):
        websocket = websocket or FakeWebsocket()
        for channel in channels:
            self.dispatcher._channels_to_ws.setdefault(channel, set()).add(websocket)
        return websocket

    def dispatch(self, *payloads):
        self.audience.notify(payloads)

    def test_only_subscribers_are_woken_and_once_a_batch(self):
        other = self.subscribe(("db", "broadcast"))
        self.dispatch('[["db","res.partner",3]]', '[["db","res.partner",3]]')
        self.assertEqual((self.websocket.triggered, other.triggered), (1, 0))

    def test_unknown_channel_is_nothing_to_speak_of(self):
        with self.assertNoLogs(_logger):
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
            "[5]",
            '["db"]',
            "[null]",
        )
        for payload in junk:
            with self.subTest(payload=payload[:50]):
                self.websocket.triggered = 0
                self.audience._state.log = Log(_logger)
                with self.assertLogs(_logger, "WARNING") as logs:
                    self.dispatch(payload, json.dumps([valid]))
                self.assertEqual(self.websocket.triggered, 1)
                self.assertEqual(len(logs.output), 1)
                self.assertLess(len(logs.output[0]), 300)
        self.websocket.triggered = 0
        self.dispatch(json.dumps([{}, [["db"]], valid, 5]))
        self.assertEqual(self.websocket.triggered, 1)

    def test_junk_is_logged_once_a_minute(self):
        with self.assertLogs(_logger, "WARNING") as logs:
            for _i in range(1000):
                self.dispatch("not json")
        self.assertEqual(len(logs.output), 1)

    def test_one_broken_websocket_does_not_keep_the_others_waiting(self):
        channel = ("db", "broadcast")
        others = [self.subscribe(channel) for _i in range(20)]
        self.subscribe(channel, websocket=ClosedWebsocket())
        with self.assertLogs(_logger, "WARNING"):
            self.dispatch(json.dumps([channel]))
        self.assertEqual([other.triggered for other in others], [1] * 20)

    def test_catch_up_wakes_everyone_once(self):
        both = self.subscribe(("db", "a"), ("db2", "b"))
        self.audience.wake("db", None)
        self.assertEqual((self.websocket.triggered, both.triggered), (1, 1))

    def test_catch_up_wakes_nobody_else(self):
        other = self.subscribe(("db", "a"), ("db2", "b"))
        self.audience.wake("db2", None)
        self.audience.wake("db", {'["db","res.partner",3]': [1], '["db","c"]': [2]})
        self.assertEqual((self.websocket.triggered, other.triggered), (1, 1))


class TestJunkInTheTable(BaseCase):
    def test_what_stands_beside_it_is_woken(self):
        dispatcher = odoo_bus.ImDispatch()
        websocket = FakeWebsocket()
        dispatcher._channels_to_ws[("db", "a")] = {websocket}
        with self.assertLogs(_logger, "WARNING"):
            make_audience(dispatcher).wake("db", {"junk": [1], '["db","a"]': [2]})
        self.assertEqual(websocket.triggered, 1)


class SeenWebsocket(FakeWebsocket):
    """A websocket that has seen these ids."""

    def __init__(self, last, *history):
        super().__init__()
        self._last_notif_sent_id = last
        self._notif_history = [(id_, 0.0) for id_ in history]

    @property
    def has_forgotten(self):
        return self._last_notif_sent_id == 0 and not self._notif_history


class TestWhoHasGotAll(BaseCase):
    """By NOTIFY, before the table was read."""

    def wake(self, *seen):
        """Have rows with the ids 6, 8 and 9 found; return who is woken."""
        dispatcher = odoo_bus.ImDispatch()
        dispatcher._channels_to_ws[("db", "a")] = set(seen)
        dispatcher._channels_to_ws[("db", "b")] = {seen[0]}
        rows = {'["db","a"]': [6, 8], '["db","b"]': [9]}
        make_audience(dispatcher).wake("db", rows)
        return [websocket.triggered for websocket in seen]

    def test_it_is_left_alone(self):
        websockets = [
            SeenWebsocket(8, 9),
            SeenWebsocket(5, 6, 8),
            SeenWebsocket(0, 6, 8),
            SeenWebsocket(7, 8),
            SeenWebsocket(8),
            SeenWebsocket(20),
        ]
        self.assertEqual(self.wake(*websockets), [0, 0, 0, 0, 0, 0])

    def test_it_is_woken_if_that_is_not_known(self):
        """And keeps nobody else from being woken."""
        with self.assertLogs(_logger, "ERROR"):
            self.assertEqual(self.wake(SeenWebsocket(None), SeenWebsocket(5)), [1, 1])
        self.assertEqual(self.wake(FakeWebsocket()), [1])

    def test_who_lacks_one_is_woken_once(self):
        websockets = [
            SeenWebsocket(0),
            SeenWebsocket(5, 6),
            SeenWebsocket(5, 8),
            SeenWebsocket(7),
        ]
        self.assertEqual(self.wake(*websockets), [1, 1, 1, 1])
        # of its other channel
        self.assertEqual(self.wake(SeenWebsocket(5, 6, 8)), [1])


class TestRewind(BaseCase):
    """When a failover has lost rows, ids begin again below those that were seen."""

    def rewind(self, last_id, is_failover=False):
        """Return which of three websockets forget what they have seen."""
        dispatcher = odoo_bus.ImDispatch()
        seen = [SeenWebsocket(5), SeenWebsocket(5, 8), SeenWebsocket(12)]
        dispatcher._channels_to_ws[("db", "a")] = set(seen)
        dispatcher._channels_to_ws[("other", "a")] = {SeenWebsocket(1000)}
        audience = make_audience(dispatcher)
        with self.assertLogs(_logger) as logs:
            _logger.info("something, so that there is some")
            audience.rewind("db", is_failover, lambda: last_id)
        forgotten = [websocket.has_forgotten for websocket in seen]
        told = [line for line in logs.output if "gone back" in line]
        self.assertEqual(len(told), any(forgotten))
        return forgotten

    def test_who_is_ahead_forgets(self):
        self.assertEqual(self.rewind(4), [True, True, True])
        self.assertEqual(self.rewind(5), [False, True, True])
        self.assertEqual(self.rewind(8), [False, False, True])
        self.assertEqual(self.rewind(12), [False, False, False])

    def test_all_do_after_a_promotion(self):
        """The ids may have come back up before we looked."""
        self.assertEqual(self.rewind(100, is_failover=True), [True, True, True])

    def test_odoos_websocket_has_what_we_set(self):
        websocket = odoo_websocket.Websocket.__init__.__code__.co_names
        self.assertIn("_last_notif_sent_id", websocket)
        # before, it has only the other
        self.assertEqual("_notif_history" in websocket, series.MAJOR >= 17)
