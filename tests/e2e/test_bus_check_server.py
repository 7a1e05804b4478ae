"""``odoo bus_check`` beside a server, and as many connections as that takes."""

import contextlib
import subprocess

import pytest
from checking import OK, WARNING, Result, check_json
from client import User, wait_until
from proxy import Proxy
from test_bus_check import in_a_list


@pytest.fixture
def limited(stack):
    """Return the options of a listening role that nobody else has, to be limited."""
    stack.add_role("limited")
    yield {
        "ODOO_DB_LISTEN_USER": "limited",
        "ODOO_DB_LISTEN_PASSWORD": stack.passwords["odoo"],
    }
    limit(stack, -1)


def limit(stack, number):
    stack.execute(f"ALTER ROLE limited CONNECTION LIMIT {number}")


@pytest.mark.cron
def test_connection_limit(stack, run_json, limited):
    """Of 1 for the bus, 1 for the cron worker, and 1 more."""
    limit(stack, 2)
    result = run_json(env=limited)
    assert result.status == WARNING
    found = result.find("cron", "WARNING")
    assert "2 of 3 connections could be opened" in found
    assert "too many connections for role" in found
    assert result.find_advice("cron", "WARNING").startswith(
        "Raise the CONNECTION LIMIT"
    )


@pytest.mark.cron
def test_connection_limit_beside_the_server(stack, database, limited, listening):
    """What it has already counts."""
    with stack.odoo(database, env=limited) as server:
        listening(server, channel="cron_trigger")
        limit(stack, 3)
        result = check_json(server)
        assert result.status == OK, result.output
        assert "beside those of the running server" in result.find("cron", "-")
        limit(stack, 2)
        result = check_json(server)
        assert result.status == WARNING, result.output


@pytest.mark.cron
def test_idle_connections_are_closed(
    stack, database, limited, listening, set_pgbouncer
):
    """While it waits for a server that does not answer."""
    with (
        stack.odoo(database, env=limited) as server,
        Proxy(stack.ports.postgres) as proxy,
    ):
        listening(server, channel="cron_trigger")
        limit(stack, 3)
        set_pgbouncer("client_idle_timeout", 1)
        proxy.black_hole()
        env = server.server.envvars | in_a_list(proxy.port, stack.ports.postgres)
        command = ["bus_check", "--json"]
        result = Result(server.run(*command, env=env, stderr=subprocess.PIPE))
    assert result.status == WARNING, result.output
    assert "beside those of the running server" in result.find("cron", "-")


@pytest.mark.parametrize("workers", [2, 0], ids=["prefork", "threaded"])
def test_running_server(stack, database, workers, listening):
    def ask():
        return check_json(server)

    with stack.odoo(database, workers=workers) as server:
        assert "live_messages starting" in ask().find("server", "OK")
        with contextlib.closing(User(server, database).websocket("e2e")):
            listening(server)
            wait_until(lambda: "listening" in ask().find("server", "OK"), "it listens")
            stack.postgres.stop()
            try:
                wait_until(lambda: ask().find("server", "FAILED"), "it fails")
            finally:
                stack.start_postgres()


def test_running_server_without_the_addon(stack, database):
    with stack.odoo(database, addon="available") as server:
        args = [f"--load={','.join(stack.environment.series.server_wide_modules)}"]
        args[0] += ",bus_alt_connection"
        result = Result(
            server.run("bus_check", "--json", *args, stderr=subprocess.PIPE)
        )
        assert "does not know this addon" in result.find("server", "-")
        advice = "If that is your server, restart it."
        assert result.find_advice("server", "-") == advice
