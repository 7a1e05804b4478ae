"""``odoo bus_check`` on right and wrong configurations of the real stack."""

import contextlib
import json
import subprocess

import pytest
from proxy import Proxy
from stack import CONF, free_ports, read_options
from test_settings import UNSET, conf_without_listening

OK, WARNING, FAILED = 0, 1, 2

PASSWORDS = [
    value for name, value in read_options(CONF).items() if name.endswith("password")
]


class Result:
    """What the command printed and how it ended."""

    def __init__(self, process):
        self.status = process.returncode
        self.output = process.stdout + process.stderr
        assert not [word for word in [*PASSWORDS, "hidden"] if word in self.output]
        self.lines = []
        with contextlib.suppress(ValueError):
            self.lines = json.loads(process.stdout)["checks"]

    def find(self, name, status):
        """Return the text and the advice of the lines of that name and status."""
        return " ".join(
            f"{line['text']} {line['advice']}"
            for line in self.lines
            if (line["name"], line["status"]) == (name, status)
        )


@pytest.fixture
def bus_check(stack, database):
    """Run the command with the options of a server, by default one that is right."""

    def run(*args, env=None, addon="server-wide", **options):
        server = stack.odoo(database, addon=addon, env=env, **options)
        return Result(server.run("bus_check", *args, stderr=subprocess.PIPE))

    return run


def run_json(bus_check, **options):
    return bus_check("--json", **options)


@pytest.fixture
def pooled(stack):
    """Connect to the pooler, in autocommit."""
    opened = []

    def connect(dbname="postgres"):
        conn = stack.connect(dbname, pooled=True)
        opened.append(conn)
        conn.autocommit = True
        return conn

    yield connect
    for conn in opened:
        conn.close()


@pytest.fixture
def reconnect(pooled):
    """Have PgBouncer replace its server connections."""

    def execute():
        console = pooled("pgbouncer")
        with console.cursor() as cr:
            cr.execute("RECONNECT")
            cr.execute("WAIT_CLOSE")

    return execute


@pytest.fixture
def set_pgbouncer(stack, pooled):
    """Change a setting of PgBouncer until the end of the test."""

    def execute(name, value):
        with pooled("pgbouncer").cursor() as cr:
            cr.execute(f"SET {name} = '{value}'")

    yield execute
    # what is in force is its file again
    stack.pgbouncer.stop()
    stack.pgbouncer.start()


def test_all_is_right(bus_check):
    result = run_json(bus_check)
    assert result.status == OK, result.output
    assert {line["status"] for line in result.lines} == {"OK"}
    details = {line["name"]: line["details"] for line in result.lines}
    assert details["NOTIFY road"]["pooled"]
    assert details["NOTIFY road"]["pool_mode"] == "transaction"
    [server] = details["LISTEN road"]["servers"]
    assert (server["pooled"], server["standby"]) == (False, False)
    assert server["user"] == "odoo_listen"
    assert details["round trip"]["arrived"] == 20
    assert details["round trip"]["worst_seconds"] < 4
    assert details["cron"]["workers"] == 1


def test_text(bus_check):
    result = bus_check()
    assert result.status == OK, result.output
    assert "with pool_mode transaction" in " ".join(result.output.split())
    assert "20 of 20 notifications arrived" in " ".join(result.output.split())
    assert result.output.endswith("\nOK\n")


def test_found_by_the_configuration_file_alone(stack, database, tmp_path):
    """As the README says to call it."""
    conf = tmp_path / "odoo.conf"
    port = read_options(CONF)["db_port"]
    conf.write_text(
        CONF.read_text().replace(port, str(stack.ports.pgbouncer))
        + f"addons_path = {stack.environment.addons}\n"
    )
    server = stack.odoo(database, env={"ODOO_RC": str(conf)}).server
    process = subprocess.run(
        [stack.environment.python, stack.environment.odoo, "bus_check"],
        env=server.envvars,
        capture_output=True,
        text=True,
    )
    result = Result(process)
    assert result.status == OK, result.output
    assert result.output.endswith("\nOK\n")


def test_nothing_is_written(bus_check, sql, reconnect):
    """It works for roles that cannot write."""
    roles = ("odoo", "odoo_listen")
    for role in roles:
        sql(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    reconnect()
    try:
        assert run_json(bus_check).status == OK
    finally:
        for role in roles:
            sql(f"ALTER ROLE {role} RESET default_transaction_read_only")
        reconnect()


def test_help(bus_check):
    result = bus_check("--help")
    assert result.status == OK
    assert "--json" in result.output
    assert "Exit status: 0" in " ".join(result.output.split())


def test_listens_at_the_pooler(stack, bus_check):
    env = {
        "ODOO_DB_LISTEN_PORT": str(stack.ports.pgbouncer),
        "ODOO_DB_LISTEN_USER": "odoo",
        "ODOO_DB_LISTEN_PASSWORD": "change-me-odoo",
    }
    result = run_json(bus_check, env=env)
    assert result.status == FAILED
    assert "Point db_listen_host" in result.find("LISTEN road", "FAILED")
    assert "a minute late" in result.find("cron", "WARNING")


def test_listens_at_the_pooler_with_a_role_of_its_own(stack, bus_check):
    """Which the pooler does not know: it is not the password that is wrong."""
    env = {"ODOO_DB_LISTEN_PORT": str(stack.ports.pgbouncer)}
    result = run_json(bus_check, env=env)
    assert result.status == FAILED
    assert "lead to db_host" in result.find("settings", "WARNING")
    found = result.find("LISTEN road", "FAILED")
    assert "authentication failed" in found and "a connection pooler: point" in found


def test_listens_at_another_cluster(bus_check, other_cluster):
    env = {"ODOO_DB_LISTEN_PORT": str(other_cluster.ports.postgres)}
    result = run_json(bus_check, env=env)
    assert result.status == FAILED
    assert "another server" in result.find("round trip", "FAILED")


def test_listens_on_another_database(bus_check, database):
    env = {
        "ODOO_DB_LISTEN_NAME": database,
        "ODOO_DB_LISTEN_USER": "odoo",
        "ODOO_DB_LISTEN_PASSWORD": "change-me-odoo",
    }
    result = run_json(bus_check, env=env)
    assert result.status == FAILED
    assert "set db_listen_name" in result.find("round trip", "FAILED")


def test_listens_at_a_standby(stack, bus_check):
    with stack.standby() as standby:
        result = run_json(bus_check, env={"ODOO_DB_LISTEN_PORT": str(standby.port)})
        assert result.status == FAILED
        assert "the list of all servers" in result.find("LISTEN road", "FAILED")
        # beside its primary it is as it should be
        env = {
            "ODOO_DB_LISTEN_HOST": "127.0.0.1,127.0.0.1",
            "ODOO_DB_LISTEN_PORT": f"{standby.port},{stack.ports.postgres}",
        }
        result = run_json(bus_check, env=env)
        assert result.status == OK, result.output
        assert "standby" in result.find("LISTEN road", "OK")


def test_one_of_the_listening_servers_is_dead(stack, bus_check):
    [port] = free_ports(1)
    env = {
        "ODOO_DB_LISTEN_HOST": "127.0.0.1,127.0.0.1",
        "ODOO_DB_LISTEN_PORT": f"{port},{stack.ports.postgres}",
    }
    result = run_json(bus_check, env=env)
    assert result.status == WARNING
    assert "refused" in result.find("LISTEN road", "WARNING")
    assert "20 of 20" in result.find("round trip", "OK")


def test_former_primary_is_first(stack, bus_check, other_cluster):
    """Odoo would leave that, and so it is the other one that counts."""
    env = {
        "ODOO_DB_LISTEN_HOST": "127.0.0.1,127.0.0.1",
        "ODOO_DB_LISTEN_PORT": f"{other_cluster.ports.postgres},{stack.ports.postgres}",
    }
    result = run_json(bus_check, env=env)
    assert result.status == WARNING, result.output
    assert "another server" in result.find("LISTEN road", "WARNING")
    assert "20 of 20" in result.find("round trip", "OK")


def test_listening_server_is_silent(stack, bus_check):
    with Proxy(stack.ports.postgres) as proxy:
        proxy.black_hole()
        result = run_json(bus_check, env={"ODOO_DB_LISTEN_PORT": str(proxy.port)})
    assert result.status == FAILED
    assert "no answer within" in result.find("LISTEN road", "FAILED")


def test_wrong_password(bus_check):
    result = run_json(bus_check, env={"ODOO_DB_LISTEN_PASSWORD": "hidden"})
    assert result.status == FAILED
    found = result.find("LISTEN road", "FAILED")
    assert "authentication failed" in found and "db_listen_password" in found


def test_wrong_value(bus_check):
    result = run_json(bus_check, env={"ODOO_DB_LISTEN_DSN": "password=hidden x"})
    assert result.status == FAILED
    assert "ODOO_DB_LISTEN_DSN" in result.find("settings", "FAILED")
    # and the other road was looked at all the same
    assert "transaction" in result.find("NOTIFY road", "OK")


def test_uri_in_the_place_of_a_host(bus_check):
    """Its password is not shown, which every Result makes sure of."""
    uri = "postgresql://odoo:hidden@127.0.0.1:1/postgres"
    result = run_json(bus_check, args=[f"--db_host={uri}"])
    assert result.status == FAILED
    assert "may hold a password" in result.find("NOTIFY road", "FAILED")


def test_line_that_is_not_an_option(bus_check, tmp_path):
    conf = tmp_path / "odoo.conf"
    conf.write_text("[options]\ndb_listen_password hidden\n")
    result = run_json(bus_check, conf=conf)
    assert result.status == FAILED
    assert "line 2" in result.output


def test_terminal_of_another_encoding(bus_check):
    env = {"PYTHONIOENCODING": "latin-1", "ODOO_DB_LISTEN_PORT": "1"}
    result = bus_check(env=env)
    assert result.status == FAILED
    assert "Correct db_listen_host" in " ".join(result.output.split())


def test_pooler_in_statement_mode(bus_check, set_pgbouncer):
    set_pgbouncer("pool_mode", "statement")
    result = run_json(bus_check)
    assert result.status == FAILED
    assert "pool_mode = transaction" in result.find("NOTIFY road", "FAILED")


def test_pooler_is_dead(bus_check):
    [port] = free_ports(1)
    result = run_json(bus_check, args=[f"--db_port={port}"])
    assert result.status == FAILED
    assert "correct db_host" in result.find("NOTIFY road", "FAILED")
    assert "direct, primary" in result.find("LISTEN road", "OK")


def test_what_is_sent_does_not_arrive(bus_check):
    """By a function in the place of pg_notify that sends nothing."""
    result = run_json(bus_check, env={"ODOO_NOTIFY_FUNCTION": "concat"})
    assert result.status == FAILED
    assert "0 of 20" in result.find("round trip", "FAILED")


def test_nothing_set(bus_check, tmp_path):
    conf = conf_without_listening(tmp_path)
    result = run_json(bus_check, env=UNSET, conf=conf)
    assert result.status == FAILED
    assert "are unset or lead to" in result.find("settings", "WARNING")
    assert "connection pooler" in result.find("LISTEN road", "FAILED")


def test_nothing_set_and_no_pooler(bus_check, tmp_path):
    conf = conf_without_listening(tmp_path)
    result = run_json(bus_check, env=UNSET, conf=conf, direct=True)
    assert result.status == WARNING
    assert "needs no addon" in result.find("NOTIFY road", "OK")


MISSPELT = {
    "typo": ("db_listen_hosts = x", None, "db_listen_host"),
    "legacy typo": ("imdispatcher_host = x", None, "imdispatcher_db_host"),
    "proposal": ("cron_db_port = 1", None, "db_listen_port"),
    "no prefix": (None, "IMDISPATCHER_DB_HOST", "ODOO_IMDISPATCHER_DB_HOST"),
    "typo in environment": (None, "ODOO_DB_LISTEN_PASWORD", "ODOO_DB_LISTEN_PASSWORD"),
}


@pytest.mark.parametrize(("text", "name", "meant"), MISSPELT.values(), ids=MISSPELT)
def test_misspelt(bus_check, tmp_path, text, name, meant):
    conf = tmp_path / "odoo.conf"
    conf.write_text(f"{CONF.read_text()}\n{text or ''}\n")
    result = run_json(bus_check, conf=conf, env={name: "hidden"} if name else {})
    assert result.status == WARNING
    found = result.find("settings", "WARNING")
    assert (name or text.split()[0]) in found
    assert f"If {meant} is meant" in found


def test_not_server_wide(bus_check):
    result = run_json(bus_check, addon="available")
    assert result.status == WARNING
    assert "Add bus_alt_connection" in result.find("loading", "WARNING")


def test_rpc_was_forgotten(bus_check):
    result = run_json(bus_check, args=["--load=base,web,bus_alt_connection"])
    assert result.status == WARNING
    assert "rpc" in result.find("loading", "WARNING")


def test_stray_listen(bus_check, pooled, reconnect):
    """As stock Odoo leaves it: the client has gone, its LISTEN has not."""
    conn = pooled()
    with conn.cursor() as cr:
        cr.execute("LISTEN imbus")
    conn.close()
    result = run_json(bus_check)
    assert result.status == WARNING
    found = result.find("stray LISTENs", "WARNING")
    assert "imbus" in found and "RECONNECT" in found
    reconnect()
    result = run_json(bus_check)
    assert result.status == OK, result.output


def test_role_may_not_ask_the_console(bus_check, set_pgbouncer):
    """Then nothing is said of the pool's mode, and the rest is found all the same."""
    set_pgbouncer("admin_users", "nobody")
    result = run_json(bus_check)
    assert result.status == OK, result.output
    assert "is not told" in result.find("NOTIFY road", "OK")
