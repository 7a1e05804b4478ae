"""The listening connection is replaced now and then, whatever stands in the way."""

import time

import pytest
from client import wait_until
from probe import Probe
from proxy import Proxy
from test_never_deaf import start


@pytest.mark.parametrize("seconds", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_renewal(stack, database, addon, listeners, record, seconds):
    seen = set()
    env = {"ODOO_DB_LISTEN_MAX_AGE": "2"}
    with start(stack, database, addon, env) as server:
        with Probe(stack, server, database) as probe:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                seen |= set(listeners(server))
                time.sleep(0.2)
        record(f"renewed every 2 s for {seconds} s", probe.worst, 1)
        assert len(seen) > seconds / 4
        assert "Lost the connection" not in server.log.read_text()


def renew(server, stack, database, listeners):
    """Wait until it was renewed twice; return the worst lateness of a message."""
    seen = set()

    def is_renewed():
        seen.update(listeners(server))
        return len(seen) > 2

    with Probe(stack, server, database) as probe:
        wait_until(is_renewed, "it is renewed twice", 60)
        time.sleep(2)
    return probe.worst


def test_renewal_beside_a_dead_host(stack, database, addon, listeners, record):
    """Of two hosts the first one accepts connections, and says nothing."""
    with Proxy(stack.ports.postgres) as proxy:
        proxy.black_hole()
        env = {
            "ODOO_DB_LISTEN_HOST": f"{proxy.host},127.0.0.1",
            "ODOO_DB_LISTEN_PORT": f"{proxy.port},{stack.ports.postgres}",
            "ODOO_DB_LISTEN_MAX_AGE": "5",
        }
        with start(stack, database, addon, env) as server:
            worst = renew(server, stack, database, listeners)
    record("renewed beside a dead host", worst, 1.5)


@pytest.fixture
def limited_role(stack, sql):
    """A role with as many connections as a server without cron workers needs: one."""
    name = "e2e_limited"
    stack.add_role(name)
    sql(f"ALTER ROLE {name} CONNECTION LIMIT 1")
    return name


def test_renewal_without_a_connection_to_spare(
    stack, database, addon, limited_role, listeners, record
):
    env = {
        "ODOO_DB_LISTEN_USER": limited_role,
        "ODOO_DB_LISTEN_PASSWORD": "change-me-odoo",
        "ODOO_DB_LISTEN_MAX_AGE": "5",
    }
    with start(stack, database, addon, env) as server:
        worst = renew(server, stack, database, listeners)
    record("renewed without a connection to spare", worst, 1.5)
