"""A cluster that goes on from an older state: rows are lost, and their ids come again.

So it is when a standby is promoted that lagged behind. A websocket that has seen the
lost rows waits for greater ids, and would get nothing until the ids have caught up.
"""

import contextlib
import time

import pytest
from client import Sender, own_lines, wait_until
from probe import CHANNEL, Probe
from test_never_deaf import start

# whoever asks by long polling tells what it has seen: see the README
pytestmark = pytest.mark.websockets

#: How many messages the older state does not know. PostgreSQL skips up to 32 ids of a
#: sequence when it recovers, and these many more than the test sends afterwards.
LOST = 150

#: Seconds to go on afterwards.
AFTERWARDS = 10


def send_what_will_be_lost(stack, database, probe):
    """Send messages, which all websockets receive."""
    sender = Sender(stack, database)
    # of two who send at a time, 16.0 of 2022 loses some by itself
    with probe.quiet():
        for _i in range(LOST):
            sender.send(CHANNEL)
        last = sender.send(CHANNEL)
    wait_until(lambda: probe.has(last), "the last one has arrived")


def test_replaced_by_an_older_copy(stack, database, addon, listening, record):
    """On the same port, with some seconds of quiet in between."""
    with contextlib.ExitStack() as after:
        after.callback(stack.restart_postgres)
        server = after.enter_context(start(stack, database, addon))
        with Probe(stack, server, database) as probe:
            listening(server)
            copy = after.enter_context(stack.copy())
            send_what_will_be_lost(stack, database, probe)
            with probe.quiet():
                stack.postgres.stop()
                copy.start()
            time.sleep(AFTERWARDS)
        record("replaced by an older copy", probe.worst, 2.5)
        assert len(own_lines(server, " WARNING ", "gone back", database)) == 1


def test_lagging_standby_is_promoted(stack, database, addon, listening, record):
    with contextlib.ExitStack() as after:
        after.callback(stack.restart_postgres)
        after.callback(stack.point_pgbouncer_to, stack.ports.postgres)
        standby = after.enter_context(stack.standby())
        env = {
            "ODOO_DB_LISTEN_HOST": "127.0.0.1,127.0.0.1",
            "ODOO_DB_LISTEN_PORT": f"{stack.ports.postgres},{standby.port}",
        }
        server = after.enter_context(start(stack, database, addon, env))
        with Probe(stack, server, database) as probe:
            listening(server)
            # from here on nothing reaches it
            conn = stack.connect("postgres", role="postgres", port=standby.port)
            conn.autocommit = True
            with conn.cursor() as cr:
                cr.execute("ALTER SYSTEM SET primary_conninfo = ''")
                cr.execute("SELECT pg_reload_conf()")
                wait_until(lambda: not receives(cr), "it receives nothing more")
            conn.close()
            send_what_will_be_lost(stack, database, probe)
            with probe.quiet():
                stack.postgres.kill()
                standby.promote()
                stack.point_pgbouncer_to(standby.port)
            wait_until(
                lambda: f"port {standby.port}," in server.log.read_text(),
                "it listens at the promoted standby",
            )
            time.sleep(AFTERWARDS)
        record("lagging standby promoted", probe.worst, 2.5)
        assert len(own_lines(server, " WARNING ", "gone back", database)) == 1


def receives(cr):
    cr.execute("SELECT count(*) FROM pg_stat_wal_receiver")
    return cr.fetchone()[0]
