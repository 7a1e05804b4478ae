"""Messages flow through the dispatchers of other series, on the handed connection."""

import json
import logging
import random
import threading
import time

from odoo import sql_db
from odoo.tests.common import get_db_name

from ..listening.state import LISTENING, State
from ..models import bus, series
from ..models.dispatcher import Dispatcher
from ..models.handed_bus import HandedLoop
from . import standins
from .common import DEADLINE, Case

_logger = logging.getLogger(__name__)


class Shape:
    """The tests of one shape; the classes below say which."""

    # otherwise Odoo would run only what stands in the class itself
    allow_inherited_tests_method = True
    module = kind = loop = None

    def setUp(self):
        super().setUp()
        self.module.stopped.clear()
        self.known = Dispatcher(self.module, self.kind, self.loop)
        self.dispatcher = self.known.kind()
        self.state = State(_logger, "imbus", "")
        self.audience = HandedLoop(self.known, self.dispatcher, self.state)
        self.audience.PAUSE = 0.01
        # two of the test's database, one of another
        self.channel = (get_db_name(), "a")
        self.event = self.dispatcher.subscribe(self.channel)
        self.beside = self.dispatcher.subscribe((get_db_name(), "res.partner", 3))
        self.other = self.dispatcher.subscribe(("other_db", "a"))

    def run_loop(self, loop=None):
        def stop():
            self.module.stopped.set()
            self.audience.put_everything()
            thread.join(DEADLINE)
            self.assertFalse(thread.is_alive())

        loop = loop or getattr(self.known.kind, self.loop)
        thread = threading.Thread(target=self.audience.run, args=(loop,), daemon=True)
        thread.start()
        self.addCleanup(stop)

    def payload(self):
        return f'[["{get_db_name()}","a"]]'

    def test_it_is_recognised(self):
        self.assertFalse(self.known.has_websockets)
        self.assertFalse(self.known.is_running)
        self.assertIsNotNone(self.known.channels)
        names = {get_db_name(), "other_db"}
        self.assertEqual(self.audience.databases(), names)

    def test_a_database_stays_in_use_between_two_requests(self):
        self.audience.databases()
        getattr(self.dispatcher, self.known.channels).clear()
        self.assertIn("other_db", self.audience.databases())

    def test_who_is_notified_and_who_is_not(self):
        self.run_loop()
        self.audience.notify([self.payload()])
        self.assertTrue(self.event.wait(DEADLINE))
        self.assertFalse(self.beside.is_set())

    def test_junk_is_skipped_and_what_stands_beside_it_is_not(self):
        self.run_loop()
        with self.assertLogs(_logger, "WARNING"):
            self.audience.notify(
                ["junk", "{}", "5", '[{},5,[{"a":1}],' + self.payload()[1:]]
            )
        self.assertTrue(self.event.wait(DEADLINE))

    def test_anything_beside_a_channel(self):
        """At random, and always the same."""
        dice = random.Random(13)
        valid = json.loads(self.payload())[0]
        items = ["db", "", "\ud800", 0, 10**30, 1e999, float("nan"), None, True, valid]

        def anything(depth):
            kind = dice.randrange(4) if depth else 0
            if kind == 1:
                return {str(dice.choice(items)): anything(depth - 1)}
            if kind > 1:
                return [anything(depth - 1) for _i in range(dice.randrange(4))]
            return dice.choice(items)

        with self.assertLogs(_logger, "WARNING") as logs:
            for _i in range(2000):
                beside = [anything(3) for _i in range(dice.randrange(4))]
                junk = json.dumps(anything(4))
                cut = junk[: dice.randrange(len(junk) + 1)]
                found = [*beside, valid, *beside]
                self.audience.notify([junk, cut, json.dumps(found)])
                self.audience.poll()
                # what the loop does with each: it must not fail
                payloads = [notify.payload for notify in self.audience.notifies]
                self.audience.notifies.clear()
                for payload in payloads:
                    for channel in json.loads(payload):
                        hash(self.known.key(channel))
                self.assertIn(valid, json.loads(payloads[-1]))
        self.assertEqual(len(logs.output), 1)

    def test_new_rows_of_the_table(self):
        self.run_loop()
        with self.assertLogs(_logger, "WARNING"):
            self.audience.wake(get_db_name(), {self.payload()[1:-1], "junk"})
        self.assertTrue(self.event.wait(DEADLINE))
        self.assertFalse(self.beside.is_set())

    def test_everybody_of_a_database(self):
        self.run_loop()
        self.audience.wake(get_db_name(), None)
        self.assertTrue(self.event.wait(DEADLINE))
        self.assertTrue(self.beside.wait(DEADLINE))
        self.assertFalse(self.other.is_set())

    def test_a_loop_that_fails_is_run_again_for_everybody(self):
        loop = getattr(self.known.kind, self.loop)
        failures = []

        def fail_once(dispatcher):
            if not failures:
                failures.append(1)
                raise ZeroDivisionError
            loop(dispatcher)

        with self.assertLogs(_logger, "ERROR") as logs:
            self.run_loop(fail_once)
            self.assertTrue(self.event.wait(DEADLINE))
            self.assertTrue(self.other.wait(DEADLINE))
        self.assertIn("ZeroDivisionError", logs.output[0])

    def test_a_loop_that_does_not_poll_is_stuck(self):
        self.state.proven("there")
        self.audience.STUCK_AFTER = 0
        self.assertEqual(self.state.health, "pass")
        self.audience.notify([self.payload()])
        self.assertEqual((self.state.name, self.state.health), ("stuck", "fail"))
        with self.assertLogs(_logger, "ERROR") as logs:
            self.audience.notify([self.payload()])
        self.assertIn("does not take", logs.output[0])

    def test_by_notify_and_by_the_table(self):
        """The whole way, from a transaction on the pooler."""
        stops = []
        self.patch(series, "on_stop", stops.append)
        self.patch(bus, "state", self.state)
        listening = threading.Thread(
            target=bus.listen, args=(self.audience,), daemon=True
        )
        self.run_loop()
        with self.assertLogs(_logger) as logs:
            listening.start()
            deadline = time.monotonic() + DEADLINE
            while "Listening on" not in "".join(logs.output):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)
        self.assertEqual(self.state.name, LISTENING)
        event = self.dispatcher.subscribe(("nobody", "b"))
        with sql_db.db_connect("postgres").cursor() as cr:
            cr.execute("""SELECT pg_notify('imbus', '[["nobody","b"]]')""")
        self.assertTrue(event.wait(DEADLINE))
        for stop in stops:
            stop()
        listening.join(DEADLINE)
        self.assertFalse(listening.is_alive())


class TestLongPolling(Shape, Case):
    module, kind, loop = standins.module_15, "ImDispatch", "loop"

    def test_nobody_waits_any_more(self):
        """Odoo leaves an empty set behind."""
        self.dispatcher.channels[("gone_db", "a")] = set()
        self.assertNotIn("gone_db", self.audience.databases())

    def test_who_registers_after_the_message(self):
        """Having read before it."""
        self.audience.AGAIN_AFTER = 3
        self.run_loop()
        for hand in (
            lambda: self.audience.notify([self.payload()]),
            lambda: self.audience.wake(get_db_name(), None),
        ):
            self.register_when_woken(self.event, self.channel)
            hand()
            self.assertTrue(self.event.wait(DEADLINE))
            self.assertTrue(self.event.late.wait(DEADLINE))
            self.event = self.dispatcher.subscribe(self.channel)

    def test_who_registers_for_what_nobody_had(self):
        """When all of the database were woken, for it is not known who has news."""
        self.audience.AGAIN_AFTER = 3
        self.run_loop()
        self.register_when_woken(self.event, (get_db_name(), "b"))
        self.audience.wake(get_db_name(), None)
        self.assertTrue(self.event.wait(DEADLINE))
        self.assertTrue(self.event.late.wait(DEADLINE))

    def register_when_woken(self, event, channel):
        """Have somebody register when all that waited for the message were woken."""

        def set_event():
            event.late = self.dispatcher.subscribe(channel)
            woken()

        woken, event.set = event.set, set_event

    def test_a_channel_without_a_database(self):
        """In 14.0."""
        self.run_loop()
        event = self.dispatcher.subscribe("broadcast")
        self.audience.notify(['["broadcast"]'])
        self.assertTrue(event.wait(DEADLINE))
        event = self.dispatcher.subscribe("broadcast")
        self.audience.wake(get_db_name(), None)
        self.assertTrue(event.wait(DEADLINE))


class TestNewest(Shape, Case):
    module, kind, loop = standins.module_20, "BusDispatcher", "_listener_loop"

    def test_a_nested_channel(self):
        self.run_loop()
        event = self.dispatcher.subscribe(("db", ("a", 1)))
        self.audience.notify(['[["db",["a",1]]]'])
        self.assertTrue(event.wait(DEADLINE))

    def test_nothing_is_kept_to_be_handed_again(self):
        self.audience.notify([self.payload()])
        self.audience.wake(get_db_name(), None)
        self.assertFalse(self.audience._again._arrived)
