"""A server that starts, stops, or does not serve at all leaves nothing behind."""

import os
import re
import signal

import pytest
from client import User, wait_until

#: Seconds within which a server has stopped. Odoo gives running requests 1 s; but on
#: Python 3.8 or newer a threaded server lets one of long polling end first, after 50 s.
#: What of ours kept it from stopping would do so for ever.
STOPPED = 90

#: Of a traceback.
OWN_CODE = r'File ".*/bus_alt_connection/(models|listening)/'

SHELL = """
import os, threading
print("THREADS", [t.name for t in threading.enumerate() if "bus" in t.name.lower()])
print("PATCHED", __import__("odoo.addons.bus.models.bus").addons.bus.models.bus
      .ImDispatch.loop.__module__)
env.cr.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s",
               [f"bus_alt_connection-{os.getpid()}"])
print("CONNECTIONS", env.cr.fetchall())
"""


def test_shell_opens_no_connection_and_starts_no_thread(stack, database, addon):
    server = stack.odoo(database, workers=0, addon=addon)
    result = server.run("shell", "--no-http", input=SHELL)
    assert "THREADS []" in result.stdout, result.stdout
    assert "CONNECTIONS []" in result.stdout
    assert "PATCHED odoo.addons.bus_alt_connection.models.bus" in result.stdout


UPDATE_LIST = """
modules = env["ir.module.module"]
modules.update_list()
found = modules.search([("name", "=", "bus_alt_connection")])
print("FOUND", found.state, found.installed_version)
"""


def test_manifest(stack):
    """It names no series: those that it names are an error in all others."""
    stack.create_database("e2e_manifest")
    server = stack.odoo("e2e_manifest", workers=0, addon="available")
    result = server.run("shell", "--no-http", input=UPDATE_LIST)
    name = stack.environment.series.name
    assert f"FOUND uninstalled {name}.1." in result.stdout, result.stdout
    told = r" (WARNING|ERROR|CRITICAL) \S+ odoo\.modules\S*: .*bus_alt_connection"
    assert not re.search(told, result.stdout)


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
        assert server.server.process.wait(STOPPED) == 0
        wait_until(lambda: backend not in listeners(), "the connection is closed")
        # two threads of stock 18.0 may close the same websocket
        assert not re.search(OWN_CODE, server.log.read_text())
