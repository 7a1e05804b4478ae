"""The listening connection by TLS, with the strictest check that libpq has."""

import os
import subprocess
import sys
import time

import buffers
import pytest
import trustme
from client import FALLBACK, LISTENING, health, wait_until
from engine_stack import EngineStack
from probe import Probe
from psycopg2.extensions import make_dsn
from test_never_deaf import start
from tls import NAME, Certificates, TlsRelay


@pytest.fixture(scope="module")
def stack(engines):
    with EngineStack(engines.environment, "tls") as stack:
        yield stack


@pytest.fixture(scope="module")
def certificates(stack):
    certificates = Certificates(stack)
    certificates.install(certificates.issue())
    return certificates


@pytest.fixture(scope="module")
def params(stack, certificates):
    """Connection parameters that accept nobody but our server."""
    return {
        **stack.params("postgres", role="odoo_listen"),
        "host": NAME,
        "hostaddr": "127.0.0.1",
        "sslmode": "verify-full",
        "sslrootcert": str(certificates.root),
    }


@pytest.fixture(scope="module")
def env(params):
    return {
        "ODOO_DB_LISTEN_DSN": make_dsn(**params),
        # which must not stand beside it
        **{f"ODOO_DB_LISTEN_{name}": "" for name in ("HOST", "PORT")},
    }


@pytest.fixture(scope="module")
def conf(stack, tmp_path_factory):
    """The stack's odoo.conf without what must not stand beside a DSN."""
    conf = tmp_path_factory.mktemp("tls") / "odoo.conf"
    lines = stack.conf.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("db_listen_")]
    conf.write_text("\n".join(kept))
    return conf


@pytest.fixture
def server(stack, database, addon, env, conf):
    """A new one for each test: the log tells the same reason once a minute."""
    with start(stack, database, addon, env, conf=conf) as server:
        yield server


@pytest.fixture(scope="module")
def engine(stack):
    [(version,)] = stack.execute("SHOW server_version")
    return f"PostgreSQL {version.split()[0]}, verify-full"


def encrypted(sql, pid):
    return sql("SELECT ssl, version FROM pg_stat_ssl WHERE pid = %s", pid)[0]


def test_verify_full(stack, server, database, engine, sql, listening, figure, fault):
    with Probe(stack, server, database) as probe:
        backend = listening(server)
        is_encrypted, version = encrypted(sql, backend)
        assert is_encrypted
        log = fault(server)
        sql("SELECT pg_terminate_backend(%s)", backend)
        log.wait_over()
    figure(engine, "listening backend killed", probe.worst, 1, log, tls=version)


def test_bus_check_names_it(run_json, env, conf):
    result = run_json(env=env, conf=conf)
    assert "TLSv1.3" in result.find("LISTEN road", "OK"), result.output


@pytest.mark.parametrize(
    ("what", "wrong", "words"),
    [
        ("expired", {"is_expired": True}, "certificate verify failed"),
        ("of another authority", {"authority": trustme.CA()}, "verify failed"),
        ("of another host", {"name": "other.test"}, "does not match host name"),
    ],
)
def test_wrong_certificate_and_then_renewed(
    stack,
    server,
    database,
    certificates,
    engine,
    sql,
    listening,
    figure,
    fault,
    what,
    wrong,
    words,
):
    """A connection outlives its certificate; a new one is refused, until it is right.

    Meanwhile the table is read.
    """
    try:
        with Probe(stack, server, database) as probe:
            backend = listening(server)
            log = fault(server)
            certificates.install(certificates.issue(**wrong))
            assert listening(server) == backend
            sql("SELECT pg_terminate_backend(%s)", backend)
            wait_until(
                lambda: any(words in line for line in log.lines), f"the error: {words}"
            )
            wait_until(lambda: health(server) == FALLBACK, "it reads the table")
            time.sleep(3)
            certificates.install(certificates.issue())
            log.wait_over()
            wait_until(lambda: health(server) == LISTENING, "it listens")
    finally:
        certificates.install(certificates.issue())
    figure(engine, f"certificate {what}, then renewed", probe.worst, 1.5, log)


@pytest.fixture(params=["newest", "of Debian 12"])
def python(request, engines, get_engine):
    """A Python with a psycopg2, whose libpq takes all from TLS, or not; and its env."""
    if request.param == "newest":
        return [sys.executable], {}
    tree = get_engine(lambda: engines.bookworm)
    return tree.command("usr/bin/python3.11"), tree.python_env


@pytest.mark.parametrize("what", ["notifications", "answers"])
def test_what_waits_in_the_buffers_of_tls(stack, certificates, params, python, what):
    """What TLS has read from the socket, no selector sees any more."""
    command, env = python
    with TlsRelay(stack.ports.postgres, certificates.issue()) as relay:
        here = {**params, "port": relay.port}
        sender = stack.params("postgres", role="postgres")
        result = subprocess.run(
            [*command, buffers.__file__, what, make_dsn(**here), make_dsn(**sender)],
            env=os.environ | env,
            capture_output=True,
            text=True,
        )
    assert result.returncode == 0, result.stderr
