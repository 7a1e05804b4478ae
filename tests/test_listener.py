"""The listener, against the real PostgreSQL (and pooler) of this Odoo."""

import queue
import threading
import time
from contextlib import contextmanager

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT

from odoo import sql_db
from odoo.tests.common import BaseCase
from odoo.tools import config

from .. import listener, reach
from ..models.connection import listen_settings
from ..state import FALLBACK, State

#: Seconds to wait for what must happen; generous, as no test depends on speed.
DEADLINE = 30

CHANNEL = "bus_alt_connection_test"


def notify(payload, channel=CHANNEL):
    """Send NOTIFY as Odoo does, through its own pool."""
    with sql_db.db_connect("postgres").cursor() as cr:
        cr.execute("SELECT pg_notify(%s, %s)", (channel, payload))


class TestListener(BaseCase):
    def params(self):
        return {**listen_settings().connection_params(), "application_name": CHANNEL}

    @contextmanager
    def listening(self, get_params=None):
        """Run a listener in a thread; wait until it listens."""
        self.received = queue.Queue()
        self.listening_count = queue.Queue()
        tested = listener.Listener(
            get_params or self.params,
            CHANNEL,
            lambda payloads: [self.received.put(payload) for payload in payloads],
            lambda: self.listening_count.put(True),
        )
        thread = threading.Thread(target=tested.run, daemon=True)
        with self.assertLogs(listener._logger) as self.logs:
            thread.start()
            try:
                self.listening_count.get(timeout=DEADLINE)
                yield tested
            finally:
                tested.stop()
                thread.join(DEADLINE)
            self.assertFalse(thread.is_alive())

    def direct(self, query, *args):
        conn = psycopg2.connect(**self.params())
        try:
            conn.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
            with conn.cursor() as cr:
                cr.execute(query, args)
                return cr.fetchall()
        finally:
            conn.close()

    def receive(self):
        return self.received.get(timeout=DEADLINE)

    def test_notifications_come_in_order_and_from_this_channel_only(self):
        with self.listening():
            notify("another", channel="another_channel")
            for number in range(100):
                notify(str(number))
            self.assertEqual(
                [self.receive() for _i in range(100)], [str(n) for n in range(100)]
            )

    def test_lost_connection_is_replaced_and_announced(self):
        with self.listening():
            self.direct(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = %s AND pid != pg_backend_pid()",
                CHANNEL,
            )
            self.listening_count.get(timeout=DEADLINE)
            notify("after")
            self.assertEqual(self.receive(), "after")
        self.assertIn("terminating connection", "".join(self.logs.output))

    def test_handler_that_raises_costs_nothing(self):
        with self.listening() as tested:
            received = tested._on_notifications
            tested._on_notifications = lambda payloads: 1 / 0
            notify("lost")
            deadline = time.monotonic() + DEADLINE
            while "ZeroDivisionError" not in "".join(self.logs.output):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)
            tested._on_notifications = received
            notify("after")
            self.assertEqual(self.receive(), "after")

    def test_dead_first_server_does_not_keep_us_from_the_second(self):
        params = self.params()
        params["host"] = f"127.0.0.1,{params.get('host', '')}"
        params["port"] = f"1,{params['port']}"
        with self.listening(lambda: params):
            notify("here")
            self.assertEqual(self.receive(), "here")

    def test_stops_while_it_cannot_connect(self):
        params = {**self.params(), "host": "127.0.0.1", "port": "1"}
        tested = listener.Listener(lambda: params, CHANNEL, None, None)
        thread = threading.Thread(target=tested.run, daemon=True)
        with self.assertLogs(listener._logger, "ERROR") as logs:
            thread.start()
            deadline = time.monotonic() + DEADLINE
            while not logs.output:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)
            tested.stop()
            thread.join(DEADLINE)
        self.assertFalse(thread.is_alive())
        self.assertIn("refused", logs.output[0])
        self.assertNotIn("Traceback", logs.output[0])

    def test_what_was_never_proven_expires_too(self):
        """It listens, but no canary can be sent: that is no state to start from."""

        def send_canary(payload):
            raise reach.ConnectionFailed("the pooler does not know the database")

        self.addCleanup(setattr, listener.Watch, "EXPIRY", listener.Watch.EXPIRY)
        listener.Watch.EXPIRY = 0.5
        changed = threading.Event()
        state = State(on_change=changed.set)
        tested = listener.Listener(
            self.params,
            CHANNEL,
            None,
            lambda: None,
            state=state,
            send_canary=send_canary,
        )
        thread = threading.Thread(target=tested.run, daemon=True)
        with self.assertLogs(listener._logger, "WARNING") as logs:
            thread.start()
            self.assertTrue(changed.wait(DEADLINE))
            tested.stop()
            thread.join(DEADLINE)
        self.assertEqual(state.name, FALLBACK)
        self.assertIn("nothing came for", logs.output[0])

    def test_pooler_is_refused(self):
        if (config["db_host"], str(config["db_port"])) == (
            self.params().get("host"),
            self.params().get("port"),
        ):
            self.skipTest("this Odoo is not behind a connection pooler")
        tested = listener.Listener(None, CHANNEL, None, None)
        params = sql_db.connection_info_for("postgres")[1]
        with self.assertRaisesRegex(reach.ConnectionFailed, "db_listen_host"):
            reach.connect(params, tested._start_listening)


class TestSingleServers(BaseCase):
    def test_one(self):
        params = {"host": "a", "port": "1", "user": "u"}
        self.assertEqual(reach.single_servers(params), [params])

    def test_socket(self):
        self.assertEqual(reach.single_servers({"user": "u"}), [{"user": "u"}])

    def test_lists(self):
        self.assertEqual(
            reach.single_servers({"host": "a, b", "port": "1,2"}),
            [{"host": "a", "port": "1"}, {"host": "b", "port": "2"}],
        )
        self.assertEqual(
            reach.single_servers({"host": "a,b", "port": "1"}),
            [{"host": "a", "port": "1"}, {"host": "b", "port": "1"}],
        )
        self.assertEqual(
            reach.single_servers({"host": "a,,b"}),
            [{"host": "a"}, {}, {"host": "b"}],
        )


class TestBackoff(BaseCase):
    def test_first_at_once_then_doubling_up_to_the_cap(self):
        backoff = listener.Backoff()
        for expected in (0, 0.5, 1, 2, 4, 8, 15, 15):
            self.assertAlmostEqual(backoff.delay(), expected, delta=0.2 * expected)

    def test_never_overflows(self):
        backoff = listener.Backoff()
        for _i in range(5000):
            self.assertLessEqual(backoff.delay(), 18)

    def test_only_a_connection_that_held_resets(self):
        backoff = listener.Backoff()
        delays = [backoff.delay() for _i in range(5)]
        backoff.held_for(1)
        self.assertGreater(backoff.delay(), delays[-1])
        backoff.held_for(60)
        self.assertEqual(backoff.delay(), 0)
