"""Another server becomes the primary, and no message is lost."""

import time

import pytest
from client import wait_until
from probe import Probe
from test_never_deaf import start


@pytest.fixture
def standby(stack, sql):
    """A synchronous standby, so that a commit survives the failover."""
    with stack.standby() as standby:
        sql("ALTER ROLE odoo SET synchronous_commit = on")
        # of the connections that PgBouncer holds already, too
        stack.console("RECONNECT")
        sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        sql("SELECT pg_reload_conf()")
        try:
            yield standby
        finally:
            stack.postgres.kill()
            stack.postgres.start()
            sql("ALTER SYSTEM RESET synchronous_standby_names")
            sql("SELECT pg_reload_conf()")
            sql("ALTER ROLE odoo RESET synchronous_commit")
            stack.point_pgbouncer_to(stack.ports.postgres)
            stack.pgbouncer.wait_connected()


def test_failover(stack, standby, database, addon, listeners, record):
    env = {
        "ODOO_DB_LISTEN_HOST": "127.0.0.1,127.0.0.1",
        "ODOO_DB_LISTEN_PORT": f"{stack.ports.postgres},{standby.port}",
    }
    with start(stack, database, addon, env) as server:
        with Probe(stack, server, database) as probe:
            wait_until(lambda: listeners(server), "it listens")
            probe.settle()
            stack.postgres.kill()
            standby.promote()
            stack.point_pgbouncer_to(standby.port)
            wait_until(
                lambda: f"port {standby.port}," in server.log.read_text(),
                "it listens at the promoted standby",
            )
            time.sleep(5)
        record("failover", probe.worst, 2)
