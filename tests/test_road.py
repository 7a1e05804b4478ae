"""Our own queries through the pooler: one backend, whatever happens to them."""

import os
import socket
import threading
import uuid
from types import SimpleNamespace

import psycopg2

from odoo import sql_db
from odoo.tests.common import BaseCase, get_db_name

from ..listening import connecting, dns
from ..listening.connecting import ConnectionFailed, Connector
from ..listening.road import Blocked, Road
from ..models import roads
from .common import DEADLINE, Case, WaitCase


class TestRoad(BaseCase):
    def setUp(self):
        super().setUp()
        self.road = roads.road(get_db_name())
        self.addCleanup(self.road.close)

    def test_a_message_has_time_outs_of_its_own_and_leaves_none(self):
        [row] = self.road.query(
            "SELECT current_setting('lock_timeout'),"
            " current_setting('statement_timeout')"
        )
        self.assertEqual(row, ("3s", "4s"))
        with sql_db.db_connect(get_db_name()).cursor() as cr:
            cr.execute("SHOW lock_timeout")
            self.assertEqual(cr.fetchone()[0], "0")

    def test_a_lock_is_named_and_nobody_waits_for_it_any_more(self):
        table = f"locked_{uuid.uuid4().hex}"
        with sql_db.db_connect(get_db_name()).cursor() as cr:
            # neither of them is committed
            cr.execute("LOCK TABLE bus_bus IN ACCESS EXCLUSIVE MODE")
            with self.assertRaisesRegex(Blocked, "waits for a lock on bus_bus"):
                self.road.query(
                    f"SELECT '{table}', count(*) FROM bus_bus",
                    lock="a lock on bus_bus",
                )
            cr.execute(
                "SELECT query FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND query LIKE %s",
                (f"%{table}%",),
            )
            self.assertEqual(cr.fetchall(), [])
            cr.rollback()
        self.assertTrue(self.road.is_open)
        self.assertTrue(self.road.query("SELECT count(*) FROM bus_bus"))

    def test_a_query_that_takes_too_long_ends_at_the_server(self):
        with self.assertRaisesRegex(psycopg2.Error, "statement timeout"):
            self.road.query("SELECT pg_sleep(60)")
        self.assertEqual(self.road.query("SELECT 1"), [(1,)])

    def test_a_kept_connection_that_is_dead_is_opened_once_more(self):
        self.road.query("SELECT 1")
        # as a pooler does that was restarted, or that has a time-out for idle clients
        shut_down(self.road._conn)
        self.assertEqual(self.road.query("SELECT 1"), [(1,)])

    def test_what_cannot_be_had_is_raised(self):
        road = roads.road("no_such_database")
        for _i in range(2):
            with self.assertRaisesRegex(
                (ConnectionFailed, psycopg2.Error), "no_such_database"
            ):
                road.query("SELECT 1")

    def test_patience_grows_while_nothing_answers(self):
        road = Road(lambda: roads.road_params(get_db_name()))
        self.addCleanup(road.close)
        road._patience = 0.2
        with self.assertRaises(TimeoutError):
            road.query("SELECT pg_sleep(3)")
        self.assertFalse(road.is_open)
        self.assertEqual(road._patience, 0.4)
        with self.assertRaises(TimeoutError):
            road.query("SELECT pg_sleep(3)")
        self.assertEqual(road._patience, 0.8)
        road._patience = road.PATIENCE * 2
        road.query("SELECT 1")
        self.assertEqual(road._patience, road.PATIENCE)


def shut_down(conn):
    """Have both sides see the end of a connection."""
    with socket.socket(fileno=os.dup(conn.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


class SilentServer:
    """Accepts connections, and answers none of them."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.accepted = []
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def params(self):
        host, port = self.socket.getsockname()
        return {"host": host, "port": str(port), "connect_timeout": "1"}

    def accept(self):
        try:
            while True:
                self.accepted.append(self.socket.accept()[0])
        except OSError:
            return

    def close(self):
        self.socket.close()
        for each in self.accepted:
            each.close()


class TestConnector(WaitCase):
    def test_an_attempt_that_is_not_answered_is_continued(self):
        server = SilentServer()
        self.addCleanup(server.close)
        connector = Connector(lambda: server.params)
        for _i in range(3):
            with self.assertRaisesRegex(ConnectionFailed, "no answer within"):
                connector.connect()
        self.assertEqual(len(server.accepted), 1)
        connector.close()
        with self.assertRaises(ConnectionFailed):
            connector.connect()
        self.wait_until(lambda: len(server.accepted) == 2)
        connector.close()

    def test_a_process_that_stood_still_looks_again(self):
        """As under gevent, where the time is over before the socket is looked at."""
        clock = SimpleNamespace(now=0.0)
        conn, _none = Connector(lambda: roads.road_params(get_db_name())).connect()
        self.addCleanup(conn.close)
        timeouts = []
        # there is no answer before the first wait
        lock = f"SELECT pg_advisory_xact_lock({uuid.uuid4().int % 2**63})"
        holder = sql_db.db_connect(get_db_name()).cursor()
        self.addCleanup(holder.close)
        holder.execute(lock)

        stock_wait = connecting.wait

        def wait(conn, event, timeout):
            timeouts.append(timeout)
            if len(timeouts) == 1:
                holder.rollback()
                clock.now += 60.0
                return False
            return stock_wait(conn, event, DEADLINE)

        self.patch(connecting, "time", SimpleNamespace(monotonic=lambda: clock.now))
        self.patch(connecting, "wait", wait)
        rows = connecting.query(conn, lock, timeout=5.0)
        self.assertEqual(rows, [("",)])
        self.assertEqual(set(timeouts), {5.0})

    def test_begins_with_the_server_that_had_us_last(self):
        params = roads.road_params(get_db_name())
        params["host"] = f"127.0.0.1,{params['host']}"
        params["port"] = f"1,{params['port']}"
        connector = Connector(lambda: params)
        for _i in range(2):
            conn, _none = connector.connect()
            conn.close()
            self.assertNotEqual(connector._last["port"], "1")
        # so that the dead one comes first again
        connector.begin_with_another()
        conn, _none = connector.connect()
        conn.close()
        self.assertNotEqual(connector._last["port"], "1")

    def test_another_address_of_the_same_name(self):
        params = roads.road_params(get_db_name())
        found = [
            {**params, "hostaddr": address} for address in ("127.0.0.1", "127.0.0.2")
        ]
        self.patch(connecting, "addresses", lambda server: found)
        opened = []

        def note(self, params):
            opened.append(params["hostaddr"])
            return None, None

        self.patch(Connector, "_open", note)
        connector = Connector(lambda: params)
        connector.connect()
        connector.connect()
        connector.begin_with_another()
        connector.connect()
        connector.connect()
        self.assertEqual(opened, ["127.0.0.1"] * 2 + ["127.0.0.2"] * 2)

    def test_an_attempt_is_not_continued_for_ever(self):
        server = SilentServer()
        self.addCleanup(server.close)
        connector = Connector(lambda: server.params)
        self.addCleanup(connector.close)
        connector._continued_for = 0
        for _i in range(2):
            with self.assertRaises(ConnectionFailed):
                connector.connect()
        self.wait_until(lambda: len(server.accepted) == 2)


class TestResolver(Case):
    def setUp(self):
        super().setUp()
        self.resolver = dns.Resolver()
        self.release = threading.Event()
        self.addCleanup(self.release.set)

    def patch_getaddrinfo(self, function):
        self.patch(dns.socket, "getaddrinfo", function)

    def hang(self, *args, **kwargs):
        self.hanging += 1
        self.release.wait(DEADLINE)
        raise OSError("name server failure")

    def test_a_silent_name_server_has_a_deadline(self):
        self.hanging = 0
        self.patch_getaddrinfo(self.hang)
        for _i in range(3):
            with self.assertRaises(TimeoutError):
                self.resolver.addresses("somewhere", 0.1)
        self.assertEqual(self.hanging, 1, "one look-up at a time")

    def test_an_answer_that_comes_too_late_is_for_the_next_time(self):
        def answer_late(*args, **kwargs):
            self.release.wait(DEADLINE)
            return [(0, 0, 0, "", ("10.0.0.1", 0))]

        self.patch_getaddrinfo(answer_late)
        with self.assertRaises(TimeoutError):
            self.resolver.addresses("somewhere", 0.1)
        self.release.set()
        self.assertEqual(self.resolver.addresses("somewhere", DEADLINE), ["10.0.0.1"])

    def test_what_a_name_led_to_is_remembered(self):
        self.assertIn("127.0.0.1", self.resolver.addresses("localhost", DEADLINE))
        self.hanging = 0
        self.patch_getaddrinfo(self.hang)
        self.assertIn("127.0.0.1", self.resolver.addresses("localhost", 0.1))
        self.release.set()
        self.assertIn("127.0.0.1", self.resolver.addresses("localhost", DEADLINE))

    def test_a_lookup_that_ends_before_its_start_returns(self):
        start = dns._Lookup.start

        def start_and_end(lookup):
            start(lookup)
            lookup.join(DEADLINE)

        self.patch(dns._Lookup, "start", start_and_end)
        for number in (1, 2):
            found = [(0, 0, 0, "", (f"10.0.0.{number}", 0))]
            self.patch_getaddrinfo(lambda *args, found=found, **kwargs: found)
            self.assertEqual(
                self.resolver.addresses("somewhere", DEADLINE), [f"10.0.0.{number}"]
            )

    def test_a_lookup_of_the_parent_is_none_of_the_child(self):
        """The thread of one that hangs is not there in a process that was forked."""
        self.hanging = 0
        self.patch_getaddrinfo(self.hang)
        with self.assertRaises(TimeoutError):
            self.resolver.addresses("somewhere", 0.1)
        found = [(0, 0, 0, "", ("10.0.0.1", 0))]
        self.patch_getaddrinfo(lambda *args, **kwargs: found)
        child = os.fork()
        if not child:
            status = 1
            try:
                addresses = self.resolver.addresses("somewhere", DEADLINE)
                status = int(addresses != ["10.0.0.1"])
            finally:
                os._exit(status)
        self.assertEqual(os.waitpid(child, 0)[1], 0)

    def test_another_order_is_no_change(self):
        both = [(0, 0, 0, "", (f"10.0.0.{number}", 0)) for number in (1, 2)]
        for found in (both, both[::-1]):
            self.patch_getaddrinfo(lambda *args, found=found, **kwargs: found)
            self.assertEqual(
                self.resolver.addresses("somewhere", DEADLINE),
                ["10.0.0.1", "10.0.0.2"],
            )

    def test_a_name_that_is_none(self):
        with self.assertRaisesRegex(OSError, "cannot be resolved"):
            self.resolver.addresses("no-such-host.invalid", DEADLINE)

    def test_names_and_addresses(self):
        for host in ("localhost", "db.internal"):
            self.assertTrue(dns.is_name(host))
        for host in ("", "/run/postgresql", "@abstract", "127.0.0.1", "::1"):
            self.assertFalse(dns.is_name(host))
