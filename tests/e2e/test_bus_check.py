"""``odoo bus_check`` on right and wrong configurations of the real stack."""

import pytest
from checking import FAILED, OK, WARNING
from client import wait_until
from ports import free_ports
from proxy import Proxy
from test_settings import UNSET, conf_without_listening


@pytest.fixture
def set_hba(stack, sql):
    """Have PostgreSQL let others in until the end of the test."""
    [[path]] = sql("SHOW hba_file")
    with open(path) as file:
        text = file.read()

    def write(new):
        with open(path, "w") as file:
            file.write(new)
        [before] = sql("SELECT pg_conf_load_time()")
        sql("SELECT pg_reload_conf()")
        wait_until(lambda: sql("SELECT pg_conf_load_time()") != [before], "it is read")

    yield write
    write(text)


def test_all_is_right(run_json):
    result = run_json()
    assert result.status == OK, result.output
    assert {line["status"] for line in result.lines} == {"OK", "-"}
    assert not any(line["advice"] for line in result.lines)
    assert "; a connection pooler" in result.find("NOTIFY road", "OK")
    assert "pool_mode transaction" in result.find("pooler", "OK")
    assert 'user "odoo_listen"' in result.find("LISTEN road", "OK")
    assert "has arrived" in result.find("LISTEN road", "OK")
    assert "none answers on port" in result.find("server", "-")


@pytest.mark.cron
def test_cron_is_right(run_json):
    result = run_json(args=["--max-cron-threads=2"])
    assert "2 cron workers can listen" in result.find("cron", "OK")
    assert "4 connections at a time" in result.find("cron", "OK")
    result = run_json(args=["--max-cron-threads=0"])
    assert "no scheduled action" in result.find("cron", "-")


# ----------------------------------------------------------------------
# What is wrong, and the sentence that it gets
# ----------------------------------------------------------------------

TO_POSTGRESQL = "Point db_listen_host and db_listen_port to PostgreSQL itself."
TO_SERVER = "Correct db_listen_host and db_listen_port, or have that server answer."
SSLMODE = "(unset, it is db_sslmode, which may be meant for the pooler alone)"
LET_IN = "Let the role db_listen_user in there, to db_listen_name, by pg_hba.conf"
BY_HBA = (
    f"{LET_IN}; if it may with TLS only, set db_listen_sslmode {SSLMODE} to require."
)
BY_PGBOUNCER = f"That is the answer of PgBouncer, a connection pooler. {TO_POSTGRESQL}"

#: Options, without "ODOO_DB_LISTEN_"; and what is said of the LISTEN road. A port by
#: its name is that of the server of that name.
WRONG_ROADS = {
    "nobody there": (
        {"PORT": "nobody"},
        "Connection refused",
        TO_SERVER,
    ),
    "no such host": (
        {"HOST": "nowhere.invalid"},
        "the name",
        TO_SERVER,
    ),
    "another role at the pooler": (
        {"PORT": "pgbouncer"},
        "FATAL: SASL authentication failed",
        BY_PGBOUNCER,
    ),
    "at the pooler": (
        {"PORT": "pgbouncer", "USER": "odoo", "PASSWORD": "change-me-odoo"},
        "this is a connection pooler, which loses LISTEN unless it pools sessions",
        TO_POSTGRESQL,
    ),
    "wrong password": (
        {"PASSWORD": "hidden"},
        'password authentication failed for user "odoo_listen"',
        "Correct db_listen_user and db_listen_password.",
    ),
    "database that is not there": (
        {"NAME": "nothing", "USER": "odoo", "PASSWORD": "change-me-odoo"},
        'database "nothing" does not exist',
        "Correct db_listen_name.",
    ),
    "database of Odoo": (
        {"NAME": "e2e", "USER": "odoo", "PASSWORD": "change-me-odoo"},
        'it listens on "e2e", but Odoo sends on "postgres"',
        "Set db_listen_name to that.",
    ),
    "database that the role may not use": (
        {"NAME": "e2e"},
        'pg_hba.conf rejects connection for host "127.0.0.1", user "odoo_listen"',
        BY_HBA,
    ),
    "TLS that the server has not": (
        {"SSLMODE": "require"},
        "server does not support SSL, but SSL was required",
        f"Set db_listen_sslmode {SSLMODE} to prefer, or switch TLS on in PostgreSQL.",
    ),
    "another cluster": (
        {"PORT": "other"},
        "another server than the one behind db_host",
        "Point db_listen_host and db_listen_port to the PostgreSQL that db_host leads"
        " to.",
    ),
}


@pytest.fixture
def run_wrong(stack, run_json, request):
    """Run with options of ours in the environment."""

    def run(options, **kwargs):
        ports = {"postgres": stack.ports.postgres, "pgbouncer": stack.ports.pgbouncer}
        if "nobody" in options.values():
            [ports["nobody"]] = free_ports(1)
        if "other" in options.values():
            ports["other"] = request.getfixturevalue("other_cluster").ports.postgres
        values = {
            name: str(ports.get(value, value)).format(**ports)
            for name, value in options.items()
        }
        env = {f"ODOO_DB_LISTEN_{name}": value for name, value in values.items()}
        return run_json(env=env, **kwargs)

    return run


@pytest.mark.parametrize(
    ("options", "text", "advice"), WRONG_ROADS.values(), ids=WRONG_ROADS
)
def test_wrong_road(run_wrong, options, text, advice):
    result = run_wrong(options)
    assert result.status == FAILED, result.output
    assert text in result.find("LISTEN road", "FAILED")
    assert result.find_advice("LISTEN road", "FAILED") == advice
    assert not result.find("cron", "OK")


WRONG_VALUES = {
    "port in the host": (
        {"HOST": "db:5432"},
        '"db:5432" is wrong; write db_listen_host = db and db_listen_port = 5432.',
    ),
    "quotes": (
        {"HOST": '"localhost"'},
        '""localhost"" is wrong; write it without the quotes.',
    ),
    "brackets": (
        {"HOST": "[::1]"},
        '"[::1]" is wrong; write the address without brackets: ::1.',
    ),
    "Kubernetes": (
        {"PORT": "tcp://10.96.3.7:5432"},
        "Kubernetes sets such a variable for a service of that name: call the service"
        " otherwise, or switch enableServiceLinks off.",
    ),
    "port": ({"PORT": "abc"}, '"abc" is wrong; allowed: a number from 1 to 65535'),
    "DSN": ({"DSN": "password=hidden x"}, "a connection string is whole"),
    "DSN alone": (
        {"HOST": "", "PORT": "", "USER": "", "DSN": "password=hidden x"},
        "a connection string is whole",
    ),
}


@pytest.mark.parametrize(("options", "text"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_wrong_value(run_wrong, options, text):
    result = run_wrong(options)
    assert result.status == FAILED
    found = result.find("settings", "FAILED")
    assert text in found
    *_others, name = options
    assert f"(environment variable ODOO_DB_LISTEN_{name})" in found
    assert "the settings are wrong" in result.find("LISTEN road", "FAILED")
    # and the other road was looked at all the same
    assert result.find("NOTIFY road", "OK")


UNSET_VALUES = {"nothing": UNSET, "None": dict.fromkeys(UNSET, "None")}


@pytest.mark.parametrize("env", UNSET_VALUES.values(), ids=UNSET_VALUES)
def test_nothing_set(stack, run_json, tmp_path, env):
    result = run_json(env=env, conf=conf_without_listening(stack, tmp_path))
    assert result.status == FAILED
    assert "are unset or lead to" in result.find("settings", "WARNING")
    assert result.find_advice("LISTEN road", "FAILED") == TO_POSTGRESQL


def test_nothing_set_and_no_pooler_recognised(stack, run_json, tmp_path):
    """Which is not to say that there is none: some pass on the real process id."""
    conf = conf_without_listening(stack, tmp_path)
    result = run_json(env=UNSET, conf=conf, direct=True)
    assert result.status == WARNING
    assert result.find("NOTIFY road", "OK").endswith("; no pooler recognised")
    assert "no addon" not in result.output


def test_connection_string(stack, run_json, tmp_path):
    """There the options are that are named elsewhere."""
    conf = conf_without_listening(stack, tmp_path)
    dsn = f"host=127.0.0.1 port={stack.ports.postgres} user=odoo_listen password=hidden"
    result = run_json(env={**UNSET, "ODOO_DB_LISTEN_DSN": dsn}, conf=conf)
    assert result.find("settings", "OK").startswith("db_listen_dsn (environment")
    assert result.find_advice("LISTEN road", "FAILED") == (
        "Correct db_listen_user and db_listen_password."
        " All of that is in db_listen_dsn here."
    )


def test_host_alone_keeps_the_port_of_the_pooler(stack, run_json, tmp_path):
    conf = conf_without_listening(stack, tmp_path)
    env = {**UNSET, "ODOO_DB_LISTEN_HOST": "127.0.0.2"}
    result = run_json(env=env, conf=conf)
    assert result.find_advice("LISTEN road", "FAILED") == (
        f"{TO_SERVER} db_listen_port is unset, and so it is db_port."
    )


def test_server_wants_tls(run_wrong, set_hba):
    set_hba("hostssl postgres odoo_listen 127.0.0.1/32 scram-sha-256\n" + OTHERS)
    result = run_wrong({"SSLMODE": "disable"})
    assert "no pg_hba.conf entry" in result.find("LISTEN road", "FAILED")
    assert result.find_advice("LISTEN road", "FAILED") == BY_HBA


#: For the roles beside odoo_listen.
OTHERS = """
host all odoo 127.0.0.1/32 scram-sha-256
host all postgres 127.0.0.1/32 scram-sha-256
host replication postgres 127.0.0.1/32 scram-sha-256
"""


def test_server_speaks_another_language(run_wrong, other_cluster, monkeypatch):
    """What was not understood gets no advice, least of all about the host."""
    other_cluster.execute("ALTER SYSTEM SET lc_messages = 'C.UTF-8'")
    monkeypatch.setenv("LANGUAGE", "de")
    other_cluster.restart_postgres()
    try:
        result = run_wrong({"PORT": "other", "PASSWORD": "hidden"})
    finally:
        other_cluster.execute("ALTER SYSTEM RESET lc_messages")
        monkeypatch.undo()
        other_cluster.restart_postgres()
    assert "Passwort" in result.find("LISTEN road", "FAILED")
    assert result.find_advice("LISTEN road", "FAILED") == ""


# ----------------------------------------------------------------------
# Lists of servers
# ----------------------------------------------------------------------


def in_a_list(*ports):
    return {
        "ODOO_DB_LISTEN_HOST": ",".join(["127.0.0.1"] * len(ports)),
        "ODOO_DB_LISTEN_PORT": ",".join(map(str, ports)),
    }


def test_standby(stack, run_json):
    with stack.standby() as standby:
        result = run_json(env={"ODOO_DB_LISTEN_PORT": str(standby.port)})
        assert result.status == FAILED
        assert "this is a standby" in result.find("LISTEN road", "FAILED")
        assert result.find_advice("LISTEN road", "FAILED") == (
            "Point db_listen_host to the primary, or to the list of all servers."
        )
        # as all of a list are while the primary changes
        result = run_json(env=in_a_list(standby.port, standby.port))
        assert result.status == FAILED
        assert result.find_advice("LISTEN road", "FAILED") == (
            "None of them is a primary just now."
        )
        # beside its primary it is as it should be
        result = run_json(env=in_a_list(standby.port, stack.ports.postgres))
        assert result.status == OK, result.output
        assert "this is a standby" in result.find("LISTEN road", "OK")


def test_one_of_them_is_dead(stack, run_json):
    [port] = free_ports(1)
    result = run_json(env=in_a_list(port, stack.ports.postgres))
    assert result.status == WARNING
    assert "refused" in result.find("LISTEN road", "WARNING")
    assert "has arrived" in result.find("LISTEN road", "WARNING")
    assert result.find_advice("LISTEN road", "WARNING") == TO_SERVER


def test_former_primary_is_first(stack, run_json, other_cluster):
    """Odoo would leave that."""
    env = in_a_list(other_cluster.ports.postgres, stack.ports.postgres)
    result = run_json(env=env)
    assert result.status == WARNING, result.output
    assert "another server" in result.find("LISTEN road", "WARNING")
    assert "has arrived" in result.find("LISTEN road", "WARNING")


# ----------------------------------------------------------------------
# Who does not answer
# ----------------------------------------------------------------------


def test_listening_server_is_silent(stack, run_json):
    with Proxy(stack.ports.postgres) as proxy:
        proxy.black_hole()
        result = run_json(env={"ODOO_DB_LISTEN_PORT": str(proxy.port)})
    assert result.status == FAILED
    assert "no answer within" in result.find("LISTEN road", "FAILED")
    assert result.find_advice("LISTEN road", "FAILED") == TO_SERVER


def test_what_is_sent_does_not_arrive(stack, run_json, sql):
    """By a function in the place of pg_notify that sends nothing."""
    sql(
        "CREATE SCHEMA e2e; GRANT USAGE ON SCHEMA e2e TO odoo;"
        " CREATE FUNCTION e2e.pg_notify(text, text) RETURNS void LANGUAGE sql AS '';"
        " ALTER ROLE odoo IN DATABASE postgres SET search_path = e2e, pg_catalog"
    )
    stack.console("RECONNECT")
    try:
        result = run_json()
    finally:
        sql(
            "DROP SCHEMA e2e CASCADE;"
            " ALTER ROLE odoo IN DATABASE postgres RESET search_path"
        )
        stack.console("RECONNECT")
    assert result.status == FAILED
    assert "did not arrive within" in result.find("LISTEN road", "FAILED")
    assert result.find_advice("LISTEN road", "FAILED") == ""
