"""The listener, against the real PostgreSQL (and pooler) of this Odoo."""

import logging
import os
import queue
import socket
import threading
import time
from contextlib import contextmanager

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT

from odoo import sql_db
from odoo.tests.common import BaseCase
from odoo.tools import config

from ..listening import connecting, listener
from ..listening.backoff import Backoff
from ..listening.canary import CanaryWatch, SilenceWatch
from ..listening.settings import Settings
from ..listening.state import FALLBACK, State
from ..models import roads
from .common import DEADLINE, WaitCase

_logger = logging.getLogger(__name__)

CHANNEL = "bus_alt_connection_test"


def notify(payload, channel=CHANNEL):
    """Send NOTIFY as Odoo does, through its own pool."""
    with sql_db.db_connect("postgres").cursor() as cr:
        cr.execute("SELECT pg_notify(%s, %s)", (channel, payload))


def unread(opened):
    """Return what has come by a connection and was not read yet."""
    conn, _prepared = opened
    with socket.socket(fileno=os.dup(conn.fileno())) as peer:
        return peer.recv(2**20, socket.MSG_PEEK).decode(errors="replace")


class TestListener(WaitCase):
    def params(self):
        found = roads.listen_settings().connection_params()
        return {**found, "application_name": CHANNEL}

    def make(self, params=None, on_notifications=None, max_age=0, **kwargs):
        self.received = queue.Queue()
        self.listening_count = queue.Queue()
        return listener.Listener(
            Settings(params or self.params(), {}, max_age, True),
            on_notifications
            or (lambda payloads: [self.received.put(payload) for payload in payloads]),
            lambda: self.listening_count.put(True),
            **{"state": State(_logger, CHANNEL, "So what."), **kwargs},
        )

    @contextmanager
    def running(self, tested):
        thread = threading.Thread(target=tested.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            tested.stop()
            thread.join(DEADLINE)
        self.assertFalse(thread.is_alive())

    @contextmanager
    def listening(self, *args, **kwargs):
        """Run a listener in a thread; wait until it listens."""
        tested = self.make(*args, **kwargs)
        with self.assertLogs(_logger) as self.logs, self.running(tested):
            self.listening_count.get(timeout=DEADLINE)
            yield tested

    def terminate(self):
        self.direct(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = %s AND pid != pg_backend_pid()",
            CHANNEL,
        )

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

    def test_lost_connection_is_replaced_and_told(self):
        with self.listening():
            self.terminate()
            self.listening_count.get(timeout=DEADLINE)
            notify("after")
            self.assertEqual(self.receive(), "after")
        log = "".join(self.logs.output)
        self.assertIn("terminating connection", log)
        self.assertEqual(log.count("Listening on"), 2)

    def test_handler_that_raises_costs_nothing(self):
        def fail_at_first(payloads):
            self.received.put(payloads)
            if payloads == ["lost"]:
                raise ZeroDivisionError

        with self.listening(on_notifications=fail_at_first):
            notify("lost")
            self.assertEqual(self.receive(), ["lost"])
            notify("after")
            self.assertEqual(self.receive(), ["after"])
            self.assertTrue(self.listening_count.empty())
        self.assertIn("ZeroDivisionError", "".join(self.logs.output))

    def test_renewed_connection_listens_and_is_not_told(self):
        with self.listening(max_age=0.2):
            for _i in range(3):
                self.listening_count.get(timeout=DEADLINE)
            notify("after")
            self.wait_until(lambda: not self.received.empty())
        self.assertEqual(len(self.logs.output), 1)

    def test_silent_connection_is_opened_anew(self):
        """Between closing and opening something may have been missed."""
        self.patch(SilenceWatch, "SILENT_AFTER", (0.2, 0.2))
        with self.listening():
            self.listening_count.get(timeout=DEADLINE)
            notify("after")
            self.wait_until(lambda: not self.received.empty())
        self.assertEqual(len(self.logs.output), 1)

    def test_server_that_is_asked_answers(self):
        self.patch(SilenceWatch, "ASK_AFTER", 0.05)
        with self.listening():
            before, first = self.backends(), self.last_queries()
            self.wait_until(lambda: self.last_queries() != first)
            [(_start, query)] = self.last_queries()
            self.assertEqual(query, f'LISTEN "{CHANNEL}"')
            notify("after")
            self.assertEqual(self.receive(), "after")
            self.assertEqual(self.backends(), before)

    def backends(self):
        return self.direct(
            "SELECT pid FROM pg_stat_activity"
            " WHERE application_name = %s AND pid != pg_backend_pid()",
            CHANNEL,
        )

    def last_queries(self):
        return self.direct(
            "SELECT query_start, query FROM pg_stat_activity"
            " WHERE application_name = %s AND pid != pg_backend_pid()",
            CHANNEL,
        )

    def test_dead_first_server_does_not_keep_us_from_the_second(self):
        params = self.params()
        params["host"] = f"127.0.0.1,{params.get('host', '')}"
        params["port"] = f"1,{params['port']}"
        with self.listening(params):
            notify("here")
            self.assertEqual(self.receive(), "here")

    def test_stops_while_it_cannot_connect(self):
        params = {**self.params(), "host": "127.0.0.1", "port": "1"}
        tested = self.make(params)
        with self.assertLogs(_logger, "ERROR") as logs, self.running(tested):
            self.wait_until(lambda: logs.output)
        self.assertIn("refused", logs.output[0])
        self.assertIn("So what.", logs.output[0])
        self.assertNotIn("Traceback", logs.output[0])

    def test_what_was_never_proven_is_doubted(self):
        """It listens, but no canary can be sent: that is no state to start from."""
        self.patch(CanaryWatch, "EXPIRY", 0.5)
        tested = self.make(
            road=roads.road("no_such_database"), notify_query=roads.notify_query()
        )
        with self.assertLogs(_logger, "WARNING") as logs, self.running(tested):
            self.wait_until(lambda: "no_such_database" in "".join(logs.output))
            self.assertEqual(tested._state.name, FALLBACK)

    def test_canary_behind_many_notifications_has_come(self):
        """A process that has stood still reads everything before it misses one."""
        self.patch(CanaryWatch, "DEADLINE", 0.2)
        road, gate = roads.road(roads.notify_database()), threading.Event()
        query = road.query
        road.query = lambda *args: gate.wait(DEADLINE) and query(*args)

        def stand_still(payloads):
            if payloads[0] != "stand still":
                return
            self.direct(
                "SELECT pg_notify(%s, rpad(i::text, 100))"
                " FROM generate_series(1, 600) AS i",
                CHANNEL,
            )
            gate.set()
            self.wait_until(lambda: tested._sender.sent)
            canary = tested._sender.sent
            self.wait_until(lambda: canary.token in unread(opened[0]))
            self.wait_until(lambda: time.monotonic() > canary.at + CanaryWatch.DEADLINE)

        tested = self.make(
            on_notifications=stand_still, road=road, notify_query=roads.notify_query()
        )
        opened, connect = [], tested._connector.connect
        tested._connector.connect = lambda: opened.append(connect()) or opened[-1]
        with self.assertLogs(_logger) as logs, self.running(tested):
            self.listening_count.get(timeout=DEADLINE)
            notify("stand still")
            self.wait_until(lambda: tested._state.is_listening)
        self.assertEqual(tested._state.metrics.deaf, 0, logs.output)

    def test_pooler_is_refused(self):
        params = roads.road_params("postgres")
        if (config["db_host"], str(config["db_port"])) == (
            self.params().get("host"),
            self.params().get("port"),
        ):
            self.skipTest("this Odoo is not behind a connection pooler")
        tested = self.make(params)
        with self.assertRaisesRegex(connecting.ConnectionFailed, "connection pooler"):
            tested._connector.connect()


class TestSingleServers(BaseCase):
    def test_one(self):
        params = {"host": "a", "port": "1", "user": "u"}
        self.assertEqual(connecting.single_servers(params), [params])

    def test_socket(self):
        self.assertEqual(connecting.single_servers({"user": "u"}), [{"user": "u"}])

    def test_lists(self):
        self.assertEqual(
            connecting.single_servers({"host": "a, b", "port": "1,2"}),
            [{"host": "a", "port": "1"}, {"host": "b", "port": "2"}],
        )
        self.assertEqual(
            connecting.single_servers({"host": "a,b", "port": "1"}),
            [{"host": "a", "port": "1"}, {"host": "b", "port": "1"}],
        )
        self.assertEqual(
            connecting.single_servers({"host": "a,,b"}),
            [{"host": "a"}, {}, {"host": "b"}],
        )


class TestBackoff(BaseCase):
    def test_first_at_once_then_doubling_up_to_the_cap(self):
        backoff = Backoff(first=0.0, longest=15.0)
        for expected in (0, 0.5, 1, 2, 4, 8, 15, 15):
            self.assertAlmostEqual(backoff.delay(), expected, delta=0.2 * expected)

    def test_never_overflows(self):
        backoff = Backoff(first=0.0, longest=15.0)
        for _i in range(5000):
            self.assertLessEqual(backoff.delay(), 18)

    def test_reset(self):
        backoff = Backoff(first=0.0, longest=15.0)
        for _i in range(5):
            backoff.delay()
        backoff.reset()
        self.assertEqual(backoff.delay(), 0)
