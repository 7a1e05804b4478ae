"""Live messages through PgBouncer in transaction mode, in every way Odoo is run."""

import uuid

import psutil
from client import Sender, User
from odoo_server import CONF, read_options


def test_chat(stack, odoo, database):
    """What one user writes in Discuss appears at the other."""
    admin, demo = User(odoo, database), User(odoo, database, "demo")
    model, invite = stack.environment.series.chat
    [channel] = admin.call(model, "create", [{"name": "e2e"}])
    admin.call(model, invite, [channel], [demo.partner_id])
    websocket = demo.websocket()
    text = f"Hello {uuid.uuid4()}"
    admin.call(
        model,
        "message_post",
        channel,
        body=text,
        message_type="comment",
        subtype_xmlid="mail.mt_comment",
    )
    assert websocket.receive(text)
    websocket.close()


def test_every_message_is_delivered(subscribed, sender):
    texts = [sender.send("e2e") for _i in range(100)]
    for text in texts:
        subscribed.receive(text)


def test_direct_connections_listen_and_all_others_are_from_pgbouncer(
    stack, odoo, subscribed, sender, sql, listening
):
    """One for the bus, that is, and one for each cron worker or thread."""
    subscribed.receive(sender.send("e2e"))
    direct = {listening(odoo)}
    if stack.environment.series.has_cron_triggers:
        direct.add(listening(odoo, channel="cron_trigger"))
    ports = {
        connection.laddr.port
        for connection in psutil.Process(stack.pgbouncer.process.pid).net_connections()
    }
    others = [
        (pid, name)
        for pid, name, port in sql(
            "SELECT pid, application_name, client_port FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid != pg_backend_pid()"
        )
        if port not in ports
    ]
    assert {pid for pid, _name in others} == direct


def test_no_listen_reaches_the_pooler(sql, subscribed, sender):
    """None of Odoo's pooled connections listens to anything."""
    subscribed.receive(sender.send("e2e"))
    assert not sql(
        "SELECT pid FROM pg_stat_activity WHERE lower(query) LIKE 'listen%'"
        " AND application_name NOT LIKE 'bus_alt_connection-%'"
    )


def test_log(odoo, subscribed, listening):
    listening(odoo)
    log = odoo.log.read_text()
    assert log.count("Bus patched (ImDispatch.loop)") == 1
    assert log.count('Listening on "imbus"') >= 1
    for name, value in read_options(CONF).items():
        assert not name.endswith("password") or value not in log


def test_several_databases_in_one_server(stack, addon):
    databases = ["e2e_one", "e2e_two"]
    for name in databases:
        stack.create_database(name)
    with stack.odoo(*databases, workers=2, addon=addon) as server:
        websockets = {name: User(server, name).websocket("e2e") for name in databases}
        texts = {name: Sender(stack, name).send("e2e") for name in databases}
        for name, websocket in websockets.items():
            websocket.receive(texts[name])
        # and none of the other one's: what came later is there, that is not
        for name, websocket in websockets.items():
            websocket.receive(Sender(stack, name).send("e2e"))
            for other in databases:
                assert bool(websocket.find(texts[other])) == (other == name)
