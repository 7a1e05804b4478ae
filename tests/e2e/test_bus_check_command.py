"""``odoo bus_check``: how it is called and ends, and what it says of PgBouncer."""

import subprocess

import pytest
from basics import SETUP
from checking import FAILED, OK, WARNING, Result, check_json
from odoo_server import CONF, read_options

COULD_NOT_RUN = 3

USAGE = "usage: odoo bus_check [-h] [--json] [options of the server]"


def test_text(bus_check):
    result = bus_check()
    assert result.status == OK, result.output
    assert "pool_mode transaction" in result.words
    assert "a NOTIFY sent through db_host has arrived" in result.words
    assert result.output.endswith("\nOK\n")


def test_found_by_the_configuration_file_alone(stack, database, tmp_path):
    """As the README says to call it."""
    conf = tmp_path / "odoo.conf"
    port = read_options(CONF)["db_port"]
    series = stack.environment.series
    folders = ",".join(map(str, [*series.addons, stack.environment.addons]))
    conf.write_text(
        stack.conf.read_text().replace(port, str(stack.ports.pgbouncer))
        + f"addons_path = {folders}\n"
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


def test_without_docstrings(stack, database):
    """As ``python -OO`` does."""
    server = stack.odoo(database)
    server.data_dir.mkdir(parents=True, exist_ok=True)
    python, *command = server.command_line("bus_check")
    process = subprocess.run(
        [python, "-OO", *command],
        env=server.server.envvars,
        capture_output=True,
        text=True,
    )
    result = Result(process)
    assert result.status == OK, result.output


def test_help(bus_check):
    result = bus_check("--help")
    assert result.status == OK
    assert result.output.startswith(USAGE)
    assert "Exit status: 0" in result.words


WRONG_OPTIONS = {
    "unknown": ("--nonsense", "no such option: --nonsense"),
    "value": ("--workers=many", "'many'"),
    "ours": ("--json=yes", "argument --json"),
    "configuration": ("--config=/nowhere/odoo.conf", "/nowhere/odoo.conf"),
}


@pytest.mark.parametrize(("option", "text"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_wrong_option(bus_check, option, text):
    result = bus_check(option)
    assert result.status == COULD_NOT_RUN
    assert result.output.startswith(USAGE)
    assert text in result.output


def test_configuration_that_is_not_there(stack, database, tmp_path):
    server = stack.odoo(database, env={"ODOO_RC": str(tmp_path / "odoo.conf")})
    python, odoo, *options = server.command_line("bus_check")
    options = [option for option in options if not option.startswith("--config=")]
    process = subprocess.run(
        [python, odoo, *options],
        env=server.server.envvars,
        capture_output=True,
        text=True,
    )
    result = Result(process)
    assert result.status == COULD_NOT_RUN
    assert str(tmp_path / "odoo.conf") in result.output


def test_line_that_is_not_an_option(run_json, tmp_path):
    conf = tmp_path / "odoo.conf"
    conf.write_text("[options]\ndb_listen_password hidden\n")
    result = run_json(conf=conf)
    assert result.status == COULD_NOT_RUN
    assert "line 2 is not an option" in result.output


def test_terminal_of_another_encoding(bus_check):
    env = {"PYTHONIOENCODING": "latin-1", "ODOO_DB_LISTEN_PORT": "1"}
    result = bus_check(env=env)
    assert result.status == FAILED
    assert "Correct db_listen_host" in result.words


def test_nothing_is_written(stack, run_json, sql):
    """It works for roles that cannot write."""
    roles = ("odoo", "odoo_listen")
    for role in roles:
        sql(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    stack.console("RECONNECT")
    try:
        assert run_json().status == OK
    finally:
        for role in roles:
            sql(f"ALTER ROLE {role} RESET default_transaction_read_only")
        stack.console("RECONNECT")


def test_pooler_is_dead(run_json):
    result = run_json(args=["--db_port=1"])
    assert result.status == FAILED
    assert "it goes by db_host" in result.find_advice("NOTIFY road", "FAILED")
    # nothing could be sent there
    assert "PostgreSQL" in result.find("LISTEN road", "OK")
    assert "arrived" not in result.find("LISTEN road", "OK")


def test_uri_in_the_place_of_a_host(run_json):
    """Its password is not shown, which every Result makes sure of."""
    uri = "postgresql://odoo:hidden@127.0.0.1:1/postgres"
    result = run_json(args=[f"--db_host={uri}"])
    assert result.status == FAILED
    assert "may hold a password" in result.find("NOTIFY road", "FAILED")


# ----------------------------------------------------------------------
# Loading
# ----------------------------------------------------------------------


MISSPELT = {
    "typo": ("db_listen_hosts = x", None, "db_listen_host"),
    "legacy typo": ("imdispatcher_host = x", None, "imdispatcher_db_host"),
    "proposal": ("cron_db_port = 1", None, "db_listen_port"),
    "no prefix": (None, "IMDISPATCHER_DB_HOST", "ODOO_IMDISPATCHER_DB_HOST"),
    "typo in environment": (None, "ODOO_DB_LISTEN_PASWORD", "ODOO_DB_LISTEN_PASSWORD"),
}


@pytest.mark.parametrize(("text", "name", "meant"), MISSPELT.values(), ids=MISSPELT)
def test_misspelt(stack, run_json, tmp_path, text, name, meant):
    conf = tmp_path / "odoo.conf"
    conf.write_text(f"{stack.conf.read_text()}\n{text or ''}\n")
    result = run_json(conf=conf, env={name: "hidden"} if name else {})
    assert result.status == WARNING
    assert (name or text.split()[0]) in result.find("settings", "WARNING")
    advice = f"If {meant} is meant, call it so."
    assert result.find_advice("settings", "WARNING") == advice


@pytest.mark.newest
def test_rpc_was_forgotten(run_json):
    result = run_json(args=["--load=base,web,bus_alt_connection"])
    assert result.status == WARNING
    assert "rpc" in result.find_advice("loading", "WARNING")


def test_neither_server_wide_nor_installed(stack, database, run_json):
    result = run_json(addon="available", preload=False)
    assert result.status == WARNING
    advice = result.find_advice("loading", "WARNING")
    assert advice.startswith("Add bus_alt_connection to server_wide_modules")
    assert not result.find("cron", "OK")
    result = run_json(addon="available")
    assert result.status == WARNING
    assert f'uninstalled in "{database}"' in result.find("loading", "WARNING")
    assert not result.find("cron", "OK")


def test_database_by_its_address(run_json):
    """Which Odoo takes, with a password in it."""
    address = "--database=postgresql://odoo:hidden@127.0.0.1/e2e"
    result = run_json(addon="available", preload=False, args=[address])
    assert "not known" in result.find("loading", "WARNING")


def test_installed_from_apps(stack, listening):
    """A server with that ``-d`` has it before its cron workers start."""
    stack.create_database("e2e_installed")
    server = stack.odoo("e2e_installed", workers=2, addon="available")
    server.check("--init=bus_alt_connection", "--stop-after-init", "--no-http")
    result = check_json(server)
    assert result.status == OK, result.output
    found = result.find("loading", "OK")
    assert found.startswith('installed in "e2e_installed"')
    if stack.environment.series.has_cron_triggers:
        with server:
            listening(server, channel="cron_trigger")


# ----------------------------------------------------------------------
# PgBouncer's settings
# ----------------------------------------------------------------------


def recommended(name):
    """Return what our pgbouncer.ini says."""
    text = (SETUP / "pgbouncer.ini").read_text()
    [value] = [x.split("=")[1] for x in text.splitlines() if x.startswith(f"{name} =")]
    return value.strip()


COSTLY = {"server_login_retry": 15, "server_idle_timeout": 600}


@pytest.mark.parametrize(("name", "default"), COSTLY.items(), ids=COSTLY)
def test_costly_setting(run_json, set_pgbouncer, name, default):
    set_pgbouncer(name, default)
    result = run_json()
    assert result.status == WARNING
    assert f"{name} {default}" in result.find("pooler", "WARNING")
    advice = result.find_advice("pooler", "WARNING")
    assert advice.endswith(f": set {name} = {recommended(name)}.")


def test_pool_is_too_small(run_json, set_pgbouncer):
    set_pgbouncer("reserve_pool_size", 0)
    result = run_json(args=["--workers=2", "--max-cron-threads=1"])
    assert result.status == OK, result.output
    result = run_json(args=["--workers=3", "--max-cron-threads=1"])
    assert result.status == WARNING
    assert "5 server connections for a database" in result.find("pooler", "WARNING")
    assert "be 6 together" in result.find_advice("pooler", "WARNING")


def test_pooler_in_statement_mode(run_json, set_pgbouncer):
    set_pgbouncer("pool_mode", "statement")
    result = run_json()
    assert result.status == FAILED
    assert "pool_mode = transaction" in result.find_advice("pooler", "FAILED")


def test_pooler_in_session_mode(run_json, set_pgbouncer):
    """Then there is nothing to object to."""
    set_pgbouncer("pool_mode", "session")
    result = run_json()
    assert result.status == OK
    assert "pool_mode session" in result.find("pooler", "OK")


def test_role_may_not_ask_the_console(run_json, set_pgbouncer):
    set_pgbouncer("admin_users", "nobody")
    result = run_json()
    assert result.status == OK, result.output
    assert "admin_users and stats_users alone" in result.find("pooler", "-")
