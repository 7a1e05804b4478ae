"""Right and wrong settings, on a real server: it always starts and serves."""

import pytest
import requests
from client import FIRST_PAGE, Sender, User, wait_until


@pytest.fixture
def serve(stack, database, addon):
    """Start a threaded server with an environment of its own, and log in."""
    opened = []

    def start(environment, **kwargs):
        server = stack.odoo(database, workers=0, addon=addon, env=environment, **kwargs)
        opened.append(server.stop)
        server.start()
        websocket = User(server, database).websocket("e2e")
        opened.append(websocket.close)
        return server, websocket

    yield start
    for close in reversed(opened):
        close()


def lines(server, *words):
    return [
        line
        for line in server.log.read_text().splitlines()
        if "bus_alt_connection" in line and all(word in line for word in words)
    ]


WRONG = {
    "port": ({"ODOO_DB_LISTEN_PORT": "abc"}, ["ODOO_DB_LISTEN_PORT", '"abc"', "65535"]),
    "port range": ({"ODOO_DB_LISTEN_PORT": "99999"}, ["ODOO_DB_LISTEN_PORT", "99999"]),
    "sslmode": ({"ODOO_DB_LISTEN_SSLMODE": "yes"}, ["_SSLMODE", '"yes"', "prefer"]),
    "dsn": ({"ODOO_DB_LISTEN_DSN": "password=hidden x"}, ["ODOO_DB_LISTEN_DSN"]),
}


@pytest.mark.parametrize(("environment", "words"), WRONG.values(), ids=WRONG)
def test_wrong_value(serve, listeners, environment, words):
    server, _websocket = serve(environment)
    assert requests.get(server.url + "/web/login", timeout=FIRST_PAGE).ok
    errors = lines(server, " ERROR ")
    assert len(errors) == 1
    for word in words:
        assert word in errors[0]
    assert "hidden" not in server.log.read_text()
    assert not listeners(server)


@pytest.mark.cron
def test_wrong_value_is_told_by_each_process_that_would_listen(stack, database, addon):
    """The one with the websockets, and the cron worker."""
    env = {"ODOO_DB_LISTEN_PORT": "abc"}
    with stack.odoo(database, workers=2, addon=addon, env=env) as server:
        wait_until(
            lambda: len(lines(server, " ERROR ", "ODOO_DB_LISTEN_PORT")) == 2,
            "two ERRORs",
        )
        told = lines(server, " ERROR ", "ODOO_DB_LISTEN_PORT")
        assert len({line.split()[2] for line in told}) == 2, "of two processes"


def test_misspelt_option_is_told_at_the_start(serve):
    server, _websocket = serve({"ODOO_DB_LISTEN_HOTS": "x"})
    [warning] = lines(server, " WARNING ", "ODOO_DB_LISTEN_HOTS")
    assert "ODOO_DB_LISTEN_HOST" in warning


def test_wrong_password(serve):
    server, _websocket = serve({"ODOO_DB_LISTEN_PASSWORD": "hidden"})
    [error] = wait_until(lambda: lines(server, " ERROR ", '"imbus"'), "the ERROR")
    assert "password authentication failed" in error
    assert "hidden" not in server.log.read_text()
    assert requests.get(server.url + "/web/login", timeout=FIRST_PAGE).ok


def test_role_that_the_pooler_does_not_know(stack, serve):
    """It is told that this is the pooler, and not to correct the password."""
    server, _websocket = serve({"ODOO_DB_LISTEN_PORT": str(stack.ports.pgbouncer)})
    [error] = wait_until(lambda: lines(server, " ERROR ", '"imbus"'), "the ERROR")
    assert "SASL authentication failed. That is the answer of PgBouncer" in error
    assert "db_listen_password" not in error


#: the stack's own ports are set by these, which are empty now and so mean unset
UNSET = {"ODOO_DB_LISTEN_HOST": "", "ODOO_DB_LISTEN_PORT": ""}


def test_nothing_set_and_no_pooler(stack, serve, database, tmp_path):
    conf = conf_without_listening(stack, tmp_path)
    server, websocket = serve(UNSET, direct=True, conf=conf)
    assert len(lines(server, " WARNING ", "are unset or lead to")) == 1
    websocket.receive(Sender(stack, database).send("e2e"))
    assert not lines(server, " ERROR ")


def test_nothing_set_behind_the_pooler(stack, serve, listeners, tmp_path):
    server, _websocket = serve(UNSET, conf=conf_without_listening(stack, tmp_path))
    assert len(lines(server, " WARNING ", "are unset or lead to")) == 1
    [error] = wait_until(lambda: lines(server, " ERROR ", '"imbus"'), "the ERROR")
    assert "connection pooler" in error and "db_listen_host" in error
    assert not listeners(server)


def test_names_of_the_oca_addon(stack, serve, database, tmp_path):
    _server, websocket = serve(
        {**UNSET, "ODOO_IMDISPATCHER_DB_PORT": str(stack.ports.postgres)},
        conf=conf_without_listening(stack, tmp_path),
    )
    websocket.receive(Sender(stack, database).send("e2e"))


def conf_without_listening(stack, folder):
    """Return a copy of the stack's odoo.conf that sets none of our options."""
    text = stack.conf.read_text()
    path = folder / "odoo.conf"
    path.write_text(
        "".join(
            line
            for line in text.splitlines(keepends=True)
            if not line.startswith("db_listen_")
        )
    )
    return path
