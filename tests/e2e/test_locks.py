"""Whatever our queries wait for, PostgreSQL has one of them at a time for each road.

A client that gives up a query frees its place in the pooler, but at PostgreSQL the
backend goes on waiting for the lock, and is counted by nobody. If the next attempt
makes another one, they take all connections that there are, and Odoo stands still.
"""

import contextlib
import os
import signal
import time

import psutil
import pytest
import requests
from client import (
    FALLBACK,
    FIRST_PAGE,
    LISTENING,
    Sender,
    User,
    allowed,
    health,
    own_lines,
    wait_until,
)
from locks import hold_notify_lock
from ports import free_ports
from probe import Probe
from test_never_deaf import start

#: Backends that ordinary requests and readings may have beside those from before.
ORDINARY = 12

#: Those that PgBouncer may open at once for whatever has waited for it, of all servers:
#: pool and reserve, of two databases.
POOLED = 2 * (5 + 10)

#: Seconds until a canary is sent again that could not be for a while, and then some.
RECOVERY = 90


class Backends:
    """How many client backends PostgreSQL has, seen by a superuser who stays.

    Of those that wait for a lock, Odoo's own readings and deletions of messages do not
    count: requests of long polling make some, and the cron workers.
    """

    def __init__(self, conn):
        conn.autocommit = True
        self._cr = conn.cursor()
        self.before, _waiting = self._count()
        self.most = self.before
        self.most_waiting = 0

    def _count(self):
        self._cr.execute(
            "SELECT count(*), count(*) FILTER (WHERE wait_event_type = 'Lock'"
            """ AND NOT query ~ '^(SELECT|DELETE FROM) "?bus_bus')"""
            " FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid != pg_backend_pid()"
        )
        return self._cr.fetchone()

    def watch(self, seconds):
        """Look again and again; every now and then there is time for something else."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pause = min(time.monotonic() + 2, end)
            while time.monotonic() < pause:
                backends, waiting = self._count()
                self.most = max(self.most, backends)
                self.most_waiting = max(self.most_waiting, waiting)
                time.sleep(0.2)
            yield


@pytest.fixture
def backends(stack):
    conn = stack.connect("postgres", role="postgres")
    yield Backends(conn)
    conn.close()


@pytest.fixture(scope="module")
def instances(stack, database, addon):
    """Two instances, each with two cron workers and with a database of its own."""
    stack.create_database("e2e_second")
    with contextlib.ExitStack() as servers:
        yield {
            name: servers.enter_context(
                stack.odoo(
                    name,
                    workers=2,
                    addon=addon,
                    preload=False,
                    args=["--max-cron-threads=2"],
                )
            )
            for name in (database, "e2e_second")
        }


@pytest.mark.parametrize("seconds", [25, pytest.param(90, marks=pytest.mark.slow)])
def test_lock_of_notify(stack, instances, sql, backends, listeners, seconds):
    websockets = {
        name: User(server, name).websocket("e2e") for name, server in instances.items()
    }
    for server in instances.values():
        wait_until(lambda server=server: health(server) == LISTENING, "it listens")
        # before 16.0 the first page makes all assets
        requests.get(f"{server.url}/web/login", timeout=FIRST_PAGE)
    # servers of other tests may be there, too
    buses = len(listeners())
    received = set()
    with hold_notify_lock(stack, sql):
        for _moment in backends.watch(seconds):
            for name, server in instances.items():
                websockets[name].keep_alive()
                login = requests.get(f"{server.url}/web/login", timeout=allowed(10))
                assert login.ok
                if health(server) == FALLBACK:
                    # as Odoo's own, its NOTIFY would wait for as long as the lock
                    text = Sender(stack, name).send("e2e", notify=False)
                    websockets[name].receive(text, allowed(1.5))
                    received.add(name)
    assert received == set(instances)
    assert backends.most_waiting <= buses
    assert backends.most <= backends.before + ORDINARY
    for server in instances.values():
        assert own_lines(server, "NOTIFY waits for")
    for name, server in instances.items():
        wait_until(
            lambda server=server: health(server) == LISTENING,
            "it listens again",
            RECOVERY,
        )
        websockets[name].receive(Sender(stack, name).send("e2e"))
        websockets[name].close()


@pytest.mark.parametrize("seconds", [25, pytest.param(90, marks=pytest.mark.slow)])
def test_locked_table(stack, database, addon, backends, seconds):
    """While it is read because there is nothing to listen on."""
    [port] = free_ports(1)
    env = {"ODOO_DB_LISTEN_PORT": str(port)}
    with start(stack, database, addon, env) as server:
        websocket = User(server, database).websocket("e2e")
        websocket.receive(Sender(stack, database).send("e2e", notify=False))
        # long polling has it read once somebody waits, having read before
        wait_until(lambda: health(server) == FALLBACK, "the table is read")
        conn = stack.connect(database)
        with conn, conn.cursor() as cr:
            cr.execute("LOCK TABLE bus_bus IN ACCESS EXCLUSIVE MODE")
            for _moment in backends.watch(seconds):
                websocket.keep_alive()
            named = own_lines(
                server, " WARNING ", "waits for a lock on bus_bus", database
            )
        conn.close()
        websocket.receive(Sender(stack, database).send("e2e", notify=False))
        assert backends.most_waiting == 1
        assert backends.most <= backends.before + ORDINARY
        assert named
        websocket.close()


@pytest.mark.parametrize("seconds", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_frozen_pgbouncer(stack, database, addon, backends, listening, record, seconds):
    with start(stack, database, addon) as server:
        with Probe(stack, server, database) as probe:
            listening(server)
            pid = stack.pgbouncer.process.pid
            # what nobody has read when it freezes is read when it has thawed
            with probe.quiet():
                before = most = clients(stack, server)
                os.kill(pid, signal.SIGSTOP)
            try:
                for _moment in backends.watch(seconds):
                    most = max(most, clients(stack, server))
            finally:
                os.kill(pid, signal.SIGCONT)
            for _moment in backends.watch(5):
                most = max(most, clients(stack, server))
            wait_until(lambda: health(server) == LISTENING, "it listens", RECOVERY)
        record(f"PgBouncer frozen for {seconds} s", probe.worst, 2)
        assert most <= before + 6
        assert backends.most <= backends.before + POOLED


def clients(stack, server):
    """Return how many connections a server has to PgBouncer, of all its processes."""
    process = psutil.Process(server.pid)
    return sum(
        bool(connection.raddr) and connection.raddr.port == stack.ports.pgbouncer
        for one in [process, *process.children(recursive=True)]
        for connection in one.net_connections("tcp")
        if connection.status == psutil.CONN_ESTABLISHED
    )
