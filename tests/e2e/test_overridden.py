"""Another addon overrides what we have overridden, and is loaded after us.

If it calls what it found, all is well. If it replaces it, ours is not in force, and
nobody must be told that live messages flow.
"""

import re

import pytest
import requests
from checking import FAILED, check
from client import FIRST_PAGE, LISTENING, Sender, User, health, own_lines, wait_until
from test_cron import Action

OVERRIDDEN = {(503, "fail", "overridden")}

REPLACED_LOOP = """
def loop(self):
    with sql_db.db_connect("postgres").cursor() as cr:
        cr.execute("LISTEN imbus")
        cr.commit()
        while not bus.stop_event.is_set():
            select.select([cr._cnx], [], [], 1)
            cr._cnx.poll()

def post_load():
    bus.ImDispatch.loop = loop
"""

REPLACED_CRON_THREAD = """
def cron_thread(self, number):
    with sql_db.db_connect("postgres").cursor() as cr:
        cr.execute("LISTEN cron_trigger")
        cr.commit()
        while True:
            select.select([cr._cnx], [], [], 60)
            cr._cnx.poll()

def post_load():
    server.ThreadedServer.cron_thread = cron_thread
"""

REPLACED_CRON_WORKER = """
def start(self):
    server.Worker.start(self)
    self.multi.socket.close()
    self.dbcursor = sql_db.db_connect("postgres").cursor()
    self.dbcursor.execute("LISTEN cron_trigger")
    self.dbcursor.commit()

def post_load():
    server.WorkerCron.start = start
"""

WRAPPED = """
def wrap(function):
    {decorator}
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

def post_load():
    bus.ImDispatch.loop = wrap(bus.ImDispatch.loop)
    server.ThreadedServer.cron_thread = wrap(server.ThreadedServer.cron_thread)
    server.WorkerCron.start = wrap(server.WorkerCron.start)
"""

#: As APM agents wrap whatever they trace, by one class for all of it.
TRACED = """
class Traced:
    def __init__(self, wrapped):
        self._wrapped = wrapped

    def __call__(self, *args, **kwargs):
        return self._wrapped(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self._wrapped, name)

def post_load():
    http.db_filter = Traced(http.db_filter)
    http.root = Traced(http.root)
"""

MODES = pytest.mark.parametrize("workers", [2, 0], ids=["prefork", "threaded"])


@MODES
def test_replaced_loop(other_addon, database, workers):
    server = other_addon(REPLACED_LOOP, workers)
    with server:
        websocket = User(server, database).websocket("e2e")
        wait_for_error(server, "ImDispatch.loop")
        # of all its ports
        assert health(server) == OVERRIDDEN
        websocket.close()
    assert_check_fails(server, "ImDispatch.loop")


REPLACED_CRON = {
    "WorkerCron.start": (REPLACED_CRON_WORKER, 2),
    "ThreadedServer.cron_thread": (REPLACED_CRON_THREAD, 0),
}


@pytest.mark.cron
@pytest.mark.parametrize("name", REPLACED_CRON)
def test_replaced_cron(other_addon, name):
    server = other_addon(*REPLACED_CRON[name])
    with server:
        wait_for_error(server, name)
    assert_check_fails(server, name)


def wait_for_error(server, name):
    wait_until(
        lambda: own_lines(server, " ERROR ", name, "not in force"),
        f"the ERROR about {name}",
    )


def assert_check_fails(server, name):
    result = check(server)
    assert result.status == FAILED, result.output
    assert re.search(rf"FAILED .*{re.escape(name)}", " ".join(result.output.split()))


@MODES
@pytest.mark.parametrize(
    "decorator", ["@functools.wraps(function)", ""], ids=["functools.wraps", "closure"]
)
def test_wrapped(stack, other_addon, database, listening, workers, decorator):
    """What is called in the end is ours."""
    server = other_addon(WRAPPED.format(decorator=decorator), workers)
    with server:
        websocket = User(server, database).websocket("e2e")
        wait_until(lambda: health(server) == LISTENING, "it listens")
        websocket.receive(Sender(stack, database).send("e2e"))
        if stack.environment.series.has_cron_triggers:
            listening(server, channel="cron_trigger")
            # sooner than by the timer of Odoo's own loop
            Action(stack, server, database).delay()
        assert not own_lines(server, " ERROR ")
        websocket.close()
    result = check(server)
    assert result.status != FAILED, result.output


@MODES
def test_traced_application(stack, other_addon, database, workers):
    """A class around Odoo's application is not ours to change: it has other uses."""
    server = other_addon(TRACED, workers, order="other,bus_alt_connection")
    with server:
        assert requests.get(f"{server.url}/web/login", timeout=FIRST_PAGE).ok
        websocket = User(server, database).websocket("e2e")
        wait_until(lambda: health(server) == LISTENING, "it listens")
        websocket.receive(Sender(stack, database).send("e2e"))
        assert "TypeError" not in server.log.read_text()
        websocket.close()
