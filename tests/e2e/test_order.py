"""Rows that are committed in another order than that of their ids, in fallback."""

import time

import pytest
from client import Sender, User
from ports import free_ports
from test_never_deaf import start, wait_for_error

pytestmark = pytest.mark.history


@pytest.fixture(scope="module")
def server(stack, database, addon):
    """A server with nothing to listen on."""
    [port] = free_ports(1)
    env = {"ODOO_DB_LISTEN_PORT": str(port)}
    with start(stack, database, addon, env) as server:
        User(server, database).websocket("e2e")
        wait_for_error(server, "refused")
        yield server


@pytest.fixture
def websockets(server, database):
    """Two, so that neither is woken by what comes for the other."""
    opened = {
        name: User(server, database).websocket(name) for name in ("early", "late")
    }
    yield opened
    for websocket in opened.values():
        websocket.close()


def insert(cr, key, text):
    cr.execute(
        "INSERT INTO bus_bus (channel, message, create_date)"
        " VALUES (%s, %s, now() AT TIME ZONE 'UTC')",
        (key, f'{{"type":"e2e","payload":"{text}"}}'),
    )


def test_late_commit_with_a_smaller_id(stack, database, websockets):
    sender = Sender(stack, database)
    conn = stack.connect(database, pooled=True)
    with conn, conn.cursor() as cr:
        insert(cr, sender.key("early"), "smaller id")
        websockets["late"].receive(sender.send("late", notify=False))
        websockets["late"].receive(sender.send("late", notify=False))
    conn.close()
    websockets["early"].receive("smaller id")


def test_late_commit_beside_an_older_transaction(stack, database, websockets):
    """The greater id is that of a transaction which began before the other one.

    So the snapshots of whoever reads the table then do not reach the other one yet,
    although it has begun.
    """
    key = Sender(stack, database).key
    older, younger = (stack.connect(database, pooled=True) for _i in range(2))
    with older.cursor() as cr:
        # which it gets with whatever it writes
        cr.execute("SELECT txid_current()")
    with younger.cursor() as cr:
        insert(cr, key("early"), "younger, smaller id")
    with older.cursor() as cr:
        insert(cr, key("late"), "older, greater id")
    older.commit()
    websockets["late"].receive("older, greater id")
    # longer than any reader's patience with an id that does not come
    time.sleep(12)
    younger.commit()
    websockets["early"].receive("younger, smaller id")
    older.close()
    younger.close()
