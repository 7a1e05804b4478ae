"""Whatever happens to the listening connection, no message is lost or late for long."""

import json
import os
import signal
import subprocess
import time

import pytest
from client import allowed, wait_until
from ports import free_ports
from probe import Probe
from proxy import Proxy, listen_at, listen_in_namespace


@pytest.fixture(scope="module")
def server(stack, database, addon, proxy):
    """A prefork server that listens through the proxy."""
    with start(stack, database, addon, listen_at(proxy)) as server:
        yield server


def start(stack, database, addon, env=None, **options):
    """A server that outlives an outage of the database (see `Odoo.preload`)."""
    return stack.odoo(
        database,
        workers=2,
        addon=addon,
        preload=False,
        args=["--max-cron-threads=0"],
        env=env,
        **options,
    )


@pytest.fixture
def probe(stack, server, database):
    return Probe(stack, server, database)


def errors(server):
    return [
        line
        for line in server.log.read_text().splitlines()
        if " ERROR " in line and "bus_alt_connection" in line
    ]


def wait_for_error(server, *words):
    [line] = wait_until(
        lambda: [
            line for line in errors(server) if all(word in line for word in words)
        ],
        f"an ERROR with {words}",
        allowed(15),
    )[:1]
    return line


def test_backend_terminated(server, probe, sql, listening, record):
    with probe:
        backend = listening(server)
        sql("SELECT pg_terminate_backend(%s)", backend)
        listening(server, other_than=[backend])
        time.sleep(2)
    record("listening backend terminated", probe.worst, 1)


def test_backend_terminated_20_times(server, probe, sql, listeners, record):
    with probe:
        for _i in range(20):
            for backend in listeners(server):
                sql("SELECT pg_terminate_backend(%s)", backend)
            time.sleep(0.5)
    record("listening backend terminated 20 times", probe.worst, 1)


def test_postgres_restart(stack, probe, record):
    with probe:
        probe.settle()
        stopped = time.monotonic()
        stack.postgres.stop()
        stack.postgres.start()
        down = time.monotonic() - stopped
        time.sleep(5)
    record("PostgreSQL restart", probe.worst, down + 2)


def test_pgbouncer_restart(stack, probe, record):
    with probe:
        probe.settle()
        stopped = time.monotonic()
        stack.pgbouncer.stop()
        stack.pgbouncer.start()
        down = time.monotonic() - stopped
        time.sleep(5)
    record("PgBouncer restart", probe.worst, down + 1)


def test_half_open(server, probe, proxy, listening, record):
    with probe:
        backend = listening(server)
        proxy.swallow()
        listening(server, other_than=[backend])
        time.sleep(2)
        proxy.reset()
    record("half-open", probe.worst, 10)


def test_frozen_backend(server, probe, listeners, listening, record):
    with probe:
        backend = listening(server)
        os.kill(backend, signal.SIGSTOP)
        try:
            listening(server, other_than=[backend])
            time.sleep(2)
        finally:
            os.kill(backend, signal.SIGCONT)
            wait_until(lambda: backend not in listeners(server), "its end")
    record("frozen", probe.worst, 10)


@pytest.mark.parametrize("seconds", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_listening_host_refuses(
    server, probe, proxy, listeners, listening, record, seconds
):
    with probe:
        listening(server)
        proxy.refuse()
        time.sleep(seconds)
        assert not listeners(server)
        proxy.accept()
        listening(server)
        time.sleep(2)
    record(f"listening host refuses for {seconds} s", probe.worst, 3)


@pytest.mark.slow
def test_notify_never_sent(stack, server, database, listening, record):
    """As when a worker is killed between COMMIT and NOTIFY."""
    probe = Probe(stack, server, database, patience=400)
    with probe:
        listening(server)
        probe.send_unnotified()
        wait_until(lambda: probe._not_notified, "the message")
    record("NOTIFY never sent", probe.lateness(not_notified=True), 335)


def test_junk_flood(stack, probe, record):
    with probe:
        conn = stack.connect("postgres", pooled=True)
        conn.autocommit = True
        with conn.cursor() as cr:
            for _i in range(100):
                began = time.monotonic()
                cr.execute(
                    "SELECT pg_notify('imbus', 'junk ' || random())"
                    " FROM generate_series(1, 100)"
                )
                time.sleep(max(0, began + 0.1 - time.monotonic()))
        conn.close()
    record("junk flood", probe.worst, 1)


def test_listening_host_black_holed_from_the_start(stack, database, addon, record):
    with Proxy(stack.ports.postgres) as proxy:
        proxy.black_hole()
        with start(stack, database, addon, listen_at(proxy)) as server:
            with Probe(stack, server, database) as probe:
                wait_for_error(server, "no answer within")
                time.sleep(5)
            record("listening host black-holed", probe.worst, 3)


def test_listening_host_refuses_for_ever(stack, database, addon, record):
    [port] = free_ports(1)
    env = {"ODOO_DB_LISTEN_PORT": str(port)}
    with start(stack, database, addon, env) as server:
        with Probe(stack, server, database) as probe:
            wait_for_error(server, "refused")
            time.sleep(10)
        record("listening host refuses for ever", probe.worst, 3)


def test_second_host_after_a_black_holed_one(stack, database, addon, listeners, record):
    with Proxy(stack.ports.postgres) as proxy:
        proxy.black_hole()
        env = {
            "ODOO_DB_LISTEN_HOST": f"{proxy.host},127.0.0.1",
            "ODOO_DB_LISTEN_PORT": f"{proxy.port},{stack.ports.postgres}",
        }
        with start(stack, database, addon, env) as server:
            with Probe(stack, server, database) as probe:
                wait_until(lambda: listeners(server), "it listens")
                time.sleep(2)
            record("first of two hosts black-holed", probe.worst, 3)


def test_listens_at_the_pooler(stack, database, addon, listeners, record):
    env = {
        "ODOO_DB_LISTEN_PORT": str(stack.ports.pgbouncer),
        "ODOO_DB_LISTEN_USER": "odoo",
        "ODOO_DB_LISTEN_PASSWORD": "change-me-odoo",
    }
    with start(stack, database, addon, env) as server:
        with Probe(stack, server, database) as probe:
            wait_for_error(server, "connection pooler", "db_listen_host")
            time.sleep(5)
            assert not listeners(server)
        record("points to the pooler", probe.worst, 3)


def test_listens_at_another_cluster(stack, other_cluster, database, addon, record):
    env = {"ODOO_DB_LISTEN_PORT": str(other_cluster.ports.postgres)}
    with start(stack, database, addon, env) as server:
        with Probe(stack, server, database) as probe:
            wait_for_error(server, "another server", "db_listen_host")
            time.sleep(5)
        record("points to another cluster", probe.worst, 3)


def test_listens_on_another_database(stack, database, addon, record):
    env = {
        "ODOO_DB_LISTEN_NAME": database,
        "ODOO_DB_LISTEN_USER": "odoo",
        "ODOO_DB_LISTEN_PASSWORD": "change-me-odoo",
    }
    with start(stack, database, addon, env) as server:
        with Probe(stack, server, database) as probe:
            wait_for_error(server, "db_listen_name")
            time.sleep(5)
        record("listens on another database", probe.worst, 3)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"ODOO_DB_LISTEN_PASSWORD": "hidden"}, ["password authentication failed"]),
        ({"ODOO_DB_LISTEN_NAME": "template1"}, ["odoo_listen", "template1"]),
    ],
    ids=["wrong password", "role without CONNECT"],
)
def test_access_denied(stack, database, addon, record, request, env, words):
    with start(stack, database, addon, env) as server:
        with Probe(stack, server, database) as probe:
            wait_for_error(server, *words)
            time.sleep(5)
        assert "hidden" not in server.log.read_text()
        record(request.node.callspec.id, probe.worst, 3)


def test_wrong_settings(stack, database, addon, record):
    env = {"ODOO_DB_LISTEN_PORT": "abc"}
    with start(stack, database, addon, env) as server:
        with Probe(stack, server, database) as probe:
            time.sleep(5)
        record("wrong settings", probe.worst, 3)


@pytest.fixture
def namespace():
    """A host of our own in a network namespace, which can stop to exist.

    Its address is removed, so that packets to it are dropped without a word, as by a
    firewall. The neighbour's entry is permanent: nothing else would tell.
    """
    # of this run, so that another one or its remains are not in the way
    pid = os.getpid()
    name, outside, inside = f"bus{pid}", f"out{pid}", f"in{pid}"
    subnet = f"10.231.{pid % 256}"
    host = f"{subnet}.2"

    def ip(*args):
        subprocess.run(["ip", *args], check=True)

    ip("netns", "add", name)
    try:
        ip("link", "add", outside, "type", "veth", "peer", inside, "netns", name)
        ip("address", "add", f"{subnet}.1/30", "dev", outside)
        ip("link", "set", outside, "up")
        ip("-n", name, "address", "add", f"{host}/30", "dev", inside)
        ip("-n", name, "link", "set", inside, "up")
        show = ["ip", "-json", "-n", name, "link", "show", inside]
        [link] = json.loads(subprocess.check_output(show))
        ip("neighbour", "replace", host, "lladdr", link["address"], "dev", outside)
        yield (
            name,
            host,
            lambda: ip("-n", name, "address", "del", f"{host}/30", "dev", inside),
        )
    finally:
        # the namespace itself lives for as long as a socket in it
        ip("link", "delete", outside)
        ip("netns", "delete", name)


@pytest.mark.root
def test_packets_dropped(stack, database, addon, namespace, listeners, record):
    name, host, drop = namespace
    with Proxy(stack.ports.postgres, listen_in_namespace(name, host)) as proxy:
        with start(stack, database, addon, listen_at(proxy)) as server:
            with Probe(stack, server, database) as probe:
                wait_until(lambda: listeners(server), "it listens")
                drop()
                wait_for_error(server, "did not arrive")
                time.sleep(5)
            record("packets dropped", probe.worst, 10)


CLOCK = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


def test_clock_is_set(stack, database, addon, listeners, listening, record, tmp_path):
    """Forward, by more than a canary may take; back; and then something goes wrong.

    Of the whole server. Odoo itself closes websockets if it is forward by 15 s.
    """
    clock = tmp_path / "clock"
    clock.write_text("+0")
    env = {
        "LD_PRELOAD": CLOCK,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    with start(stack, database, addon, env) as server:
        with Probe(stack, server, database) as probe:
            before = listening(server)
            clock.write_text("+11")
            time.sleep(10)
            clock.write_text("-3600")
            time.sleep(10)
            assert listeners(server) == [before]
            os.kill(before, signal.SIGSTOP)
            try:
                listening(server, other_than=[before])
            finally:
                os.kill(before, signal.SIGCONT)
        record("clock set, then frozen", probe.worst, 10)
