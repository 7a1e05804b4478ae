"""Connections end for good reasons, too: of those, the log does not speak of a fault.

The one by which canaries are sent lies idle in between, and so is closed by restarts of
the pooler and by idle time-outs on the way. That is found out with the next canary.
"""

import time

import pytest
from client import (
    DEADLINE,
    LISTENING,
    User,
    health,
    hearing_canaries,
    own_lines,
    wait_until,
)
from test_never_deaf import start

#: Longer than two canaries are apart, and than one needs to be given up.
LONG = 15


@pytest.fixture
def server(stack, database, addon):
    """A server that listens, with a log of its own."""
    with start(stack, database, addon) as server:
        User(server, database).websocket("e2e")
        wait_until(lambda: health(server) == LISTENING, "it listens")
        yield server


@pytest.fixture
def canary(stack):
    """Wait for a canary; the next one is not due at once then."""
    with hearing_canaries(stack) as conn:

        def arrived():
            conn.poll()
            return conn.notifies

        def wait():
            conn.notifies.clear()
            wait_until(arrived, "a canary", DEADLINE)

        yield wait


def complaints(server):
    return [
        line
        for level in (" WARNING ", " ERROR ")
        for line in own_lines(server, level)
        if "NOTIFY" in line
    ]


def test_pgbouncer_restart(stack, server, canary):
    canary()
    stack.pgbouncer.stop()
    stack.pgbouncer.start()
    time.sleep(LONG)
    canary()
    assert not complaints(server)
    assert health(server) == LISTENING


def test_idle_timeout_of_pgbouncer(stack, server, canary):
    console = stack.connect("pgbouncer", pooled=True)
    console.autocommit = True
    with console.cursor() as cr:
        cr.execute("SET client_idle_timeout = 1")
        try:
            time.sleep(LONG)
            canary()
        finally:
            # PgBouncer may have closed this one as well
            again = stack.connect("pgbouncer", pooled=True)
            again.autocommit = True
            again.cursor().execute("SET client_idle_timeout = 0")
            again.close()
    console.close()
    assert not complaints(server)
    assert health(server) == LISTENING
