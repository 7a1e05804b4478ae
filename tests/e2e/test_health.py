"""The answer over HTTP to "do live messages flow?", of each process with a port."""

import contextlib

import pytest
import requests
from client import User, frozen_evented_worker, wait_until
from proxy import Proxy, listen_at

PATH = "/websocket/bus_alt_connection/health"


@pytest.fixture(params=[2, 0], ids=["prefork", "threaded"])
def health(request, stack, database, addon):
    """A server that listens through a proxy, and its answers."""
    with Proxy(stack.ports.postgres) as proxy:
        with stack.odoo(
            database,
            workers=request.param,
            addon=addon,
            preload=False,
            env=listen_at(proxy),
        ) as server:
            yield Health(server, proxy, database)


class Health:
    """Asks, and makes sure that all processes say the same."""

    def __init__(self, server, proxy, database):
        self.server = server
        self.proxy = proxy
        self.database = database
        self._urls = {server.url + PATH, server.evented_url + PATH}

    def ask(self):
        """Return (HTTP status, status, live_messages), of each process."""
        found = set()
        for url in self._urls:
            response = requests.get(url, timeout=60)
            assert response.headers["Content-Type"] == "application/json"
            assert response.headers["Cache-Control"] == "no-store"
            assert set(response.json()) <= {"status", "live_messages", "since"}
            for secret in ("127.0.0.1", "odoo", "refused", "5432"):
                assert secret not in response.text
            report = response.json()
            found.add((response.status_code, report["status"], report["live_messages"]))
        return found

    def wait(self, *expected):
        wait_until(lambda: self.ask() == {expected}, expected)

    @contextlib.contextmanager
    def visitor(self):
        websocket = User(self.server, self.database).websocket("e2e")
        try:
            yield websocket
        finally:
            websocket.close()


def test_nobody_has_come_yet(health):
    assert health.ask() == {(200, "pass", "starting")}


def test_listening_then_by_the_table_then_listening_again(health, sender):
    with health.visitor() as websocket:
        health.wait(200, "pass", "listening")
        health.proxy.refuse()
        health.wait(200, "warn", "fallback")
        websocket.receive(sender.send("e2e"))
        health.proxy.accept()
        health.wait(200, "pass", "listening")


def test_database_is_away(stack, health, listening):
    with health.visitor():
        health.wait(200, "pass", "listening")
        stack.postgres.stop()
        try:
            health.wait(503, "fail", "fallback")
        finally:
            stack.start_postgres()
        health.wait(200, "pass", "listening")


def test_evented_worker_is_frozen(stack, database, addon):
    """The HTTP workers, which must ask it, do not wait for ever."""
    with stack.odoo(database, workers=2, addon=addon) as server:
        with frozen_evented_worker(server):
            response = requests.get(server.url + PATH, timeout=60)
        assert response.status_code == 503
        assert response.json() == {"status": "fail", "live_messages": "unreachable"}
