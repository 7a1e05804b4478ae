"""Each major of PostgreSQL that Odoo can be run on."""

import time

import pytest
from checking import OK
from client import FALLBACK, LISTENING, health, wait_until
from engine_stack import EngineStack
from engines import POSTGRESQL
from probe import Probe
from proxy import listen_at
from test_never_deaf import start


@pytest.fixture(scope="module", params=POSTGRESQL)
def stack(request, engines, get_engine):
    environment = get_engine(engines.postgresql, request.param)
    with EngineStack(environment, f"postgresql-{request.param}") as stack:
        yield stack


@pytest.fixture(scope="module")
def server(stack, database, addon, proxy):
    """A prefork server that listens through the proxy."""
    with start(stack, database, addon, listen_at(proxy)) as server:
        yield server


@pytest.fixture(scope="module")
def engine(stack):
    [(version,)] = stack.execute("SHOW server_version")
    return f"PostgreSQL {version.split()[0]}"


def test_listening_backend_killed(server, engine, figure, kill_listening_backend):
    worst, log = kill_listening_backend(server)
    figure(engine, "listening backend killed", worst, 1, log)


def test_table_only(stack, server, database, engine, proxy, figure, fault):
    with Probe(stack, server, database) as probe:
        wait_until(lambda: health(server) == LISTENING, "it listens")
        log = fault(server)
        proxy.refuse()
        try:
            wait_until(lambda: health(server) == FALLBACK, "it reads the table")
            time.sleep(5)
        finally:
            proxy.accept()
        log.wait_over()
    figure(engine, "table only", probe.worst, 1.5, log)


def test_bus_check_is_content(engine, run_json):
    result = run_json()
    assert result.status == OK, result.output
    assert engine in result.find("LISTEN road", "OK")
    assert "has arrived" in result.find("LISTEN road", "OK")
