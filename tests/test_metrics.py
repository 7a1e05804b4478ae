"""What is counted, and what of it is told; that it is Prometheus' format: tests/e2e."""

import logging
import os
import re
from unittest import mock

from odoo.addons.bus.models import bus as odoo_bus

from ..listening.canary import Deaf
from ..listening.connecting import ConnectionFailed, ConnectionLost
from ..listening.metrics import Metrics, Slots
from ..listening.state import State
from ..models import bus, cron, metrics, override, roads, slots
from ..models.websockets import tell_junk
from .common import Case


class MetricsCase(Case):
    def setUp(self):
        super().setUp()
        logger = logging.Logger("nobody")
        logger.addHandler(logging.NullHandler())
        self.state = State(logger, bus.CHANNEL, "")
        self.patch(bus, "state", self.state)
        self.slots = Slots()
        self.patch(slots, "shared", self.slots)
        # not in 14.0
        self.patch(cron, "has_triggers", lambda: True)

    def values(self):
        """Return the values by their names and labels."""
        text = metrics.answer()[1]
        return {
            name: float(value)
            for name, value in re.findall(
                r"^bus_alt_connection_(\S+) (.+)$", text, re.MULTILINE
            )
        }

    def assertValues(self, **expected):
        found = self.values()
        self.assertEqual({name: found[name] for name in expected}, expected)


class TestBus(MetricsCase):
    def test_one_state_is_so(self):
        for tell, name in (
            (lambda: None, "starting"),
            (lambda: self.state.proven("there"), "listening"),
            (lambda: self.state.failed(OSError("away")), "fallback"),
            (lambda: setattr(self.state, "is_unsupported", True), "unsupported"),
        ):
            tell()
            states = {
                key: value
                for key, value in self.values().items()
                if key.startswith("state{")
            }
            self.assertEqual(len(states), len(State.STATES))
            self.assertEqual(states.pop(f'state{{state="{name}"}}'), 1)
            self.assertFalse(any(states.values()))
            self.assertValues(state_since_timestamp_seconds=self.state.since)

    def test_connections(self):
        self.state.metrics.connects += 1
        self.state.failed(ConnectionLost("gone"))
        self.state.failed(ConnectionFailed("away"))
        self.state.failed(ConnectionFailed("away"))
        self.state.metrics.connects += 1
        self.state.failed(Deaf("not arrived"))
        of_bus = '{channel="imbus"}'
        self.assertValues(
            **{
                "connects_total" + of_bus: 2,
                "losses_total" + of_bus: 2,
                "connect_failures_total" + of_bus: 2,
                "canaries_lost_total": 1,
            }
        )

    def test_tables(self):
        self.state.table_read("one")
        self.state.table_read("one")
        self.state.table_failed("two", OSError("away"))
        self.assertValues(
            **{
                'table_readings_total{result="success"}': 2,
                'table_readings_total{result="failure"}': 1,
                'databases{readable="yes"}': 1,
                'databases{readable="no"}': 1,
            }
        )
        self.state.table_forgotten("two")
        self.assertValues(**{'databases{readable="no"}': 0})

    def test_none_ever_goes_back(self):
        """Prometheus takes that for a restart, and adds all up that was before."""
        test, told = self, []

        class Watched(Metrics):
            def __setattr__(self, name, value):
                Metrics.__setattr__(self, name, value)
                told.append(test.values()['table_readings_total{result="success"}'])

        self.state.metrics = Watched()
        self.state.table_read("one")
        self.state.table_failed("two", OSError("away"))
        self.assertEqual(told[-1], 1)
        self.assertEqual(told, sorted(told))

    def test_a_reading_that_hangs(self):
        self.state.table_read("one")
        self.state.OVERDUE_AFTER = 0
        self.state.table_wanted("one")
        self.assertValues(**{'databases{readable="no"}': 1})

    def test_junk_and_round_trip(self):
        self.assertNotIn("canary_round_trip_seconds", self.values())
        tell_junk(self.state, 5)
        self.state.metrics.round_trip = 0.25
        self.assertValues(junk_total=1, canary_round_trip_seconds=0.25)

    def test_no_names_are_told(self):
        self.state.table_failed("secret", OSError("secret"))
        self.state.failed(OSError("secret"))
        self.assertNotIn("secret", metrics.answer()[1])

    def test_a_loop_of_another_addon(self):
        self.assertValues(overrides_lost=0)
        self.addCleanup(setattr, odoo_bus.ImDispatch, "loop", bus.loop)
        odoo_bus.ImDispatch.loop = lambda self: None
        self.state.is_overridden = lambda: bus._loop in override.Override.find_lost()
        self.addCleanup(setattr, bus._loop, "_is_told", False)
        with self.assertLogs(override._logger, "ERROR"):
            self.assertValues(overrides_lost=1, **{'state{state="overridden"}': 1})


class TestCron(MetricsCase):
    def listener(self, metrics):
        return State(logging.getLogger("nobody"), cron.CHANNEL, "", metrics=metrics)

    def test_each_listener_is_counted_as_long_as_it_is_there(self):
        first, second = self.slots.take(), self.slots.take()
        self.listener(first).proven("there")
        self.listener(second)
        self.assertValues(
            **{
                'cron_listeners{state="listening"}': 1,
                'cron_listeners{state="starting"}': 1,
                'cron_listeners{state="fallback"}': 0,
            }
        )
        self.slots.give_back(first)
        self.assertValues(
            **{
                'cron_listeners{state="listening"}': 0,
                'cron_listeners{state="starting"}': 1,
            }
        )

    def test_one_whose_settings_are_wrong_is_there_until_it_is_closed(self):
        """Cron threads take a new connection each ``limit_time_worker_cron``."""
        self.patch(roads, "listen_settings", lambda: None)
        connection = cron.CronConnection()
        connection.listen()
        self.assertValues(**{'cron_listeners{state="fallback"}': 1})
        connection.close()
        self.assertValues(**{'cron_listeners{state="fallback"}': 0})

    def test_what_was_counted_stays(self):
        first = self.slots.take()
        self.listener(first).metrics.connects += 1
        self.slots.give_back(first)
        self.listener(self.slots.take()).metrics.connects += 1
        self.assertValues(**{'connects_total{channel="cron_trigger"}': 2})

    def test_more_than_there_are_slots(self):
        taken = [self.slots.take() for _i in range(Slots.COUNT)]
        self.assertTrue(all(each is not None for each in taken))
        self.assertIsNone(self.slots.take())
        self.listener(None).metrics.connects += 1

    def test_nothing_of_cron_where_nobody_listens_for_it(self):
        self.patch(slots, "shared", None)
        self.assertNotIn("cron", metrics.answer()[1])

    def test_the_file_of_before_a_restart_is_forgotten(self):
        """The process is the same, and its evented worker would look for it."""
        self.patch(slots, "Slots", mock.Mock(side_effect=OSError("no space left")))
        with mock.patch.dict(os.environ, {slots.VARIABLE: "/proc/1/fd/1"}):
            with self.assertLogs(slots._logger, "WARNING"):
                self.assertIsNone(slots.find())
            self.assertNotIn(slots.VARIABLE, os.environ)
