"""Odoo behind each pooler: delivered, recognised or rightly not, and when it fails."""

import dataclasses
import functools
import time

import poolers
import pytest
import trustme
from checking import OK
from client import FALLBACK, LISTENING, health, own_lines, wait_until
from engine_stack import EngineStack
from ports import Ports, free_ports
from probe import Probe

#: What is beside the version of one.
VARIANTS = {
    "pgbouncer_three": ", 3 processes (so_reuseport, peers)",
    "pgbouncer_tls": ", clients by TLS (verify-full)",
}

#: What is said of each, if it is recognised: by the process id that it invents for a
#: connection. A pooler that passes on the real one cannot be told from PostgreSQL.
POOLERS = {
    "pgbouncer_installed": "PgBouncer 1.",
    "pgbouncer": "PgBouncer 1.26",
    "pgbouncer_three": "PgBouncer 1.26",
    "pgbouncer_tls": "PgBouncer 1.26",
    "odyssey": "a connection pooler",
    "pgagroal": None,
    "pgpool": None,
}


@pytest.fixture(scope="module", params=POOLERS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def stack(engines, get_engine, kind):
    make = functools.partial(getattr(poolers, kind), engines)
    if kind == "pgbouncer_tls":
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        files = {
            "root.crt": authority.cert_pem,
            "server.crt": certificate.cert_chain_pems[0],
            "server.key": certificate.private_key_pem,
        }
        texts = {name: pem.bytes().decode() for name, pem in files.items()}
        make = functools.partial(make, certificate=texts)
    ports = Ports.free()
    if kind == "pgagroal":
        [port] = free_ports(1, poolers.PGAGROAL_PORTS)
        ports = dataclasses.replace(ports, postgres=port)
    name = f"pooler-{kind}"
    with get_engine(EngineStack, engines.environment, name, make, ports) as stack:
        yield stack


@pytest.fixture(scope="module")
def options(stack, kind):
    """What Odoo must be told of it: its options, and its environment."""
    if kind != "pgbouncer_tls":
        return [], {}
    return ["--db_sslmode=verify-full"], {
        "PGSSLROOTCERT": str(stack.folder / "root.crt"),
        # it is inherited else, and this PostgreSQL has no TLS
        "ODOO_DB_LISTEN_SSLMODE": "disable",
    }


def start_behind(stack, database, addon, options, env=None):
    args, more_env = options
    args = ["--max-cron-threads=0", *args]
    return stack.odoo(
        database,
        workers=2,
        addon=addon,
        preload=False,
        args=args,
        env={**more_env, **(env or {})},
    )


@pytest.fixture(scope="module")
def server(stack, database, addon, options):
    with start_behind(stack, database, addon, options) as server:
        yield server


@pytest.fixture(scope="module")
def engine(stack, kind):
    return stack.pgbouncer.version + VARIANTS.get(kind, "")


def test_listening_backend_killed(server, engine, figure, kill_listening_backend):
    worst, log = kill_listening_backend(server)
    figure(engine, "listening backend killed", worst, 1, log)


def test_pooler_restarted(stack, server, database, engine, figure):
    """Odoo closes a websocket that is reading just then, so none is when it stops."""
    with Probe(stack, server, database) as probe:
        wait_until(lambda: health(server) == LISTENING, "it listens")
        with probe.quiet():
            stopped = time.monotonic()
            stack.pgbouncer.stop()
        stack.pgbouncer.start()
        down = time.monotonic() - stopped
        time.sleep(5)
    late = max(probe.worst - down, 0)
    figure(engine, "pooler restarted", late, 1, down=round(down, 1))


def test_recognised_or_rightly_not(kind, run_json, options):
    args, env = options
    result = run_json(args=args, env=env)
    said = POOLERS[kind] or "no pooler recognised"
    assert said in result.words, result.output
    assert ("a connection pooler" in result.words) == bool(POOLERS[kind])
    assert "has arrived" in result.find("LISTEN road", "OK")
    assert result.status == OK, result.output


def test_listens_at_it_by_mistake(
    stack, database, addon, options, kind, engine, figure
):
    """It says so, and reads the table; where LISTEN is kept, it listens."""
    env = {
        "ODOO_DB_LISTEN_PORT": str(stack.ports.pgbouncer),
        "ODOO_DB_LISTEN_USER": "odoo",
        "ODOO_DB_LISTEN_PASSWORD": "change-me-odoo",
        "ODOO_DB_LISTEN_SSLMODE": "prefer",
    }
    expected = FALLBACK if POOLERS[kind] else LISTENING
    with start_behind(stack, database, addon, options, env) as server:
        with Probe(stack, server, database) as probe:
            wait_until(lambda: health(server) == expected, expected)
            time.sleep(5)
            assert health(server) == expected
        said = own_lines(server, " ERROR ", "connection pooler", "db_listen_host")
        assert bool(said) == bool(POOLERS[kind])
    how = "reads the table" if POOLERS[kind] else "LISTEN is kept"
    figure(engine, f"listens at it by mistake: {how}", probe.worst, 1.5)
