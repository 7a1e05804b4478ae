"""Patroni, etcd and HAProxy: whatever becomes of the primary, no message is lost.

Three servers at a time, which listen by a list of hosts, through HAProxy, and by a name
with two addresses. Stock Odoo stands beside them, at HAProxy.
"""

import contextlib
import os
import signal
import time

import psycopg2
import pytest
from client import LISTENING, health, wait_until
from cluster import ClusterProbe
from patroni_stack import ADDRESSES, NAME, PatroniStack
from test_cron import Action
from test_never_deaf import start

ENGINE = "Patroni 3.0, etcd, HAProxy 2.6"

BY_LIST, BY_HAPROXY, BY_NAME = "list of hosts", "HAProxy", "name with two addresses"

#: Seconds: with Patroni's ttl of 30 a dead primary is replaced after some 50.
DEADLINE = 180


@pytest.fixture(scope="module")
def stack(engines, get_engine):
    with get_engine(PatroniStack, engines, "patroni") as stack:
        yield stack


@pytest.fixture(scope="module")
def servers(stack, database, addon):
    at_nodes = {"ODOO_DB_LISTEN_PORT": str(stack.node_port)}
    with contextlib.ExitStack() as started:
        yield {
            # this one has scheduled actions, too
            BY_LIST: started.enter_context(
                stack.odoo(
                    database,
                    workers=2,
                    addon=addon,
                    preload=False,
                    args=["--max-cron-threads=1"],
                    env={**at_nodes, "ODOO_DB_LISTEN_HOST": ",".join(ADDRESSES)},
                )
            ),
            BY_HAPROXY: started.enter_context(start(stack, database, addon)),
            BY_NAME: started.enter_context(
                start(
                    stack,
                    database,
                    addon,
                    {**at_nodes, "ODOO_DB_LISTEN_HOST": NAME},
                    python=stack.python_with_hosts(),
                )
            ),
        }


@pytest.fixture(scope="module")
def action(stack, servers, database):
    return Action(stack, servers[BY_LIST], database)


def delay_of(action):
    """Trigger a scheduled action as soon as Odoo can; return the seconds until it runs.

    Each worker finds its connections dead once.
    """

    def attempt(function):
        try:
            return function()
        except (AssertionError, OSError, ValueError, psycopg2.Error):
            return None

    triggered = wait_until(lambda: attempt(action.trigger), "it is triggered", DEADLINE)
    ran = wait_until(
        lambda: [at for at in attempt(action.runs) or [] if at > triggered - 0.5],
        "the scheduled action runs",
        DEADLINE,
    )
    return max(ran[0] - triggered, 0)


@pytest.fixture
def run(stack, servers, database, action, fault, figure):
    """Make a fault, and measure."""

    @contextlib.contextmanager
    def measure(what, stock=None, is_noticed=True, faults=1):
        stack.wait_healthy()
        with ClusterProbe(stack, servers, stock, database) as probe:
            for server in servers.values():
                wait_until(lambda s=server: health(s) == LISTENING, "it listens", 60)
            probe.settle()
            logs = {name: fault(server) for name, server in servers.items()}
            yield probe
            probe.wait_flowing(DEADLINE)
            delay = delay_of(action)
            for log in logs.values():
                log.wait_over(120, is_noticed, faults)
            beside = {"stock": round(probe.late_at_stock(), 1)} if stock else {}
        for name, log in logs.items():
            figure(
                ENGINE,
                f"{what}; by {name}",
                probe.late(name),
                2.5,
                log,
                closed=probe.closings(name),
                rows_lost_by_postgresql=probe.gone,
                of_these_received_by_nobody=len(probe.lost),
                **beside,
            )
        figure(ENGINE, f"{what}; scheduled action", delay, 5)

    yield measure
    # whoever was killed comes back as a standby
    stack.revive()


@pytest.fixture
def stock(stack, database):
    with start(stack, database, None, direct=True) as server:
        yield server


def test_switchover(stack, run, stock):
    with run("planned switchover", stock):
        stack.primary.switch_to(stack.standby)


def test_primary_killed(stack, run, stock):
    with run("primary killed", stock):
        stack.primary.kill()


def test_primary_frozen_and_thawed(stack, run):
    """Patroni 3.0 gives the lock back to who was thawed: that is a second failover."""
    with run("primary frozen and thawed", faults=2) as probe:
        frozen = stack.primary
        frozen.freeze()
        try:
            probe.wait_flowing(DEADLINE)
            time.sleep(5)
        finally:
            frozen.thaw()
        stack.wait_healthy(DEADLINE)


def test_etcd_away(stack, run):
    with run("etcd away for 60 s"):
        stack.etcd.stop()
        time.sleep(60)
        stack.etcd.start()


def test_haproxy_reloaded(stack, run):
    with run("HAProxy reloaded", is_noticed=False):
        stack.reload_haproxy()
        time.sleep(5)


def test_haproxy_restarted(stack, run):
    with run("HAProxy restarted", is_noticed=False):
        stack.haproxy.stop()
        stack.haproxy.start()


def test_lagging_standby_promoted(stack, run, sql):
    """Rows are lost, and their ids come again."""
    with run("lagging standby promoted") as probe:
        [(sender,)] = sql("SELECT pid FROM pg_stat_replication")
        # nothing is copied any more
        os.kill(sender, signal.SIGSTOP)
        before = probe.count
        wait_until(lambda: probe.count > before + 20, "messages that will be lost")
        stack.primary.kill()
    assert probe.gone > 10
