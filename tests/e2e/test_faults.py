"""What may go wrong while Odoo runs; afterwards live messages flow by themselves."""

import json

import pytest
from client import User, wait_until


def test_terminated_backend(odoo, subscribed, sender, sql, listening):
    subscribed.receive(sender.send("e2e"))
    for _i in range(3):
        backend = listening(odoo)
        sql("SELECT pg_terminate_backend(%s)", backend)
        listening(odoo, other_than=[backend])
        subscribed.receive(sender.send("e2e"))


def test_catches_up_on_what_was_sent_in_between(
    odoo, subscribed, sender, sql, listening
):
    """A message whose NOTIFY nobody heard is delivered once it listens again."""
    backend = listening(odoo)
    subscribed.receive(sender.send("e2e"))
    text = sender.send("e2e", notify=False)
    sql("SELECT pg_terminate_backend(%s)", backend)
    subscribed.receive(text)


COUNTED_WAKING = """
from odoo.addons.bus.websocket import Websocket

wake = Websocket.trigger_notification_dispatching

def tell_and_wake(self):
    print("woken", flush=True)
    wake(self)

Websocket.trigger_notification_dispatching = tell_and_wake

def post_load():
    pass
"""


@pytest.mark.websockets
def test_who_has_got_all_is_not_woken_again(
    other_addon, database, sender, sql, listening
):
    """By the table: of many, all at once, some would find no cursor left."""
    with other_addon(COUNTED_WAKING, workers=2) as server:
        user = User(server, database)
        crowd = [user.websocket("e2e") for _i in range(5)]
        lonely = user.websocket("lonely")

        def lose_connection():
            """And find by the table what was not notified of."""
            backend = listening(server)
            text = sender.send("lonely", notify=False)
            sql("SELECT pg_terminate_backend(%s)", backend)
            lonely.receive(text)
            listening(server, other_than=[backend])

        lose_connection()
        before = server.log.read_text().count("woken\n")
        text = sender.send("e2e")
        for websocket in crowd:
            websocket.receive(text)
        lose_connection()
        assert server.log.read_text().count("woken\n") == before + len(crowd) + 1
        for websocket in [*crowd, lonely]:
            websocket.close()


JUNK = {
    "not json": "not json",
    "empty": "",
    "object": "{}",
    "pairs of a newer series": '[[["db20","res.partner",3],4567]]',
    "noise": "§%&/()=?" * 888,
    "deep": "[" * 7999,
    "number": "9" * 7999,
    "unhashable": '[["e2e",{}],{"e2e":1},5,null]',
    "unknown channel": '[["e2e","nobody listens"]]',
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_junk_payload(junk, odoo, subscribed, sender, listeners, listening):
    backend = listening(odoo)
    subscribed.receive(sender.send("e2e"))
    sender.notify(junk)
    subscribed.receive(sender.send("e2e"))
    assert listeners(odoo) == [backend], "it must not cost the connection"
    assert "Bus.loop error" not in odoo.log.read_text()


def test_valid_item_beside_junk(subscribed, sender):
    text = sender.send("e2e", notify=False)
    newer = [["db20", "res.partner", 3], 4567]
    sender.notify(json.dumps([{}, 5, newer, json.loads(sender.key("e2e"))]))
    subscribed.receive(text)


def test_junk_does_not_flood_the_log(odoo, subscribed, sender, listening):
    listening(odoo)
    for _i in range(50):
        sender.notify("not json")
    subscribed.receive(sender.send("e2e"))
    lines = [
        line
        for line in odoo.log.read_text().splitlines()
        if "not a bus channel" in line and "'not json'" in line
    ]
    assert len(lines) <= 2


def test_postgres_restart(stack, odoo, database, sender, listening):
    backend = listening(odoo)
    stack.restart_postgres()
    listening(odoo, other_than=[backend])
    # Odoo itself may close a websocket whose read fails meanwhile; browsers reconnect
    websocket = wait_until(
        lambda: _reconnect(odoo, database), "a websocket can be opened again"
    )
    websocket.receive(sender.send("e2e"))
    websocket.close()


def _reconnect(odoo, database):
    try:
        return User(odoo, database).websocket("e2e")
    except (AssertionError, OSError, ValueError):
        return None
