"""A server that starts, stops, or does not serve at all leaves nothing behind."""

import os
import signal

import pytest
from client import User, wait_until

#: Seconds within which a server has stopped: Odoo gives running requests 1 s, and
#: would wait 15 s for whoever does not answer when it closes a websocket.
PROMPT = 10

SHELL = """
import threading
print("THREADS", [t.name for t in threading.enumerate() if "bus" in t.name.lower()])
print("PATCHED", __import__("odoo.addons.bus.models.bus").addons.bus.models.bus
      .ImDispatch.loop.__module__)
env.cr.execute("SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s",
               ["bus_alt_connection-%"])
print("LISTENERS", sorted(pid for pid, in env.cr.fetchall()))
"""


def test_shell_opens_no_connection_and_starts_no_thread(
    stack, database, addon, listeners
):
    server = stack.odoo(database, workers=0, addon=addon)
    result = server.run("shell", "--no-http", input=SHELL)
    assert "THREADS []" in result.stdout, result.stdout
    others = sorted(listeners() + listeners(channel="cron_trigger"))
    assert f"LISTENERS {others}" in result.stdout
    assert "PATCHED odoo.addons.bus_alt_connection.models.bus" in result.stdout


def test_stop_after_init(stack, database, addon):
    log = stack.odoo(database, workers=0, addon=addon).check("--stop-after-init")
    assert "Bus patched" in log
    assert "Listening on" not in log


@pytest.mark.parametrize("workers", [2, 0], ids=["prefork", "threaded"])
def test_sigterm(stack, database, addon, sender, listeners, listening, workers):
    with stack.odoo(database, workers=workers, addon=addon) as server:
        websocket = User(server, database).websocket("e2e")
        websocket.receive(sender.send("e2e"))
        backend = listening(server)
        os.kill(server.pid, signal.SIGTERM)
        if workers == 0:
            # with workers, Odoo kills the evented process without a word
            websocket.wait_closed()
        assert server.server.process.wait(PROMPT) == 0
        wait_until(lambda: backend not in listeners(), "the connection is closed")
        assert "Traceback" not in server.log.read_text()
