"""Installed and uninstalled from Apps while the server runs: not loaded server-wide."""

import concurrent.futures

import pytest
import requests
from client import HEALTH, Sender, User, health_urls, wait_until

DATABASE = "e2e_apps"


class Apps:
    """A server with the addon on its path, and its administrator."""

    def __init__(self, stack, server, is_stock):
        self.server = server
        self.sender = Sender(stack, DATABASE)
        self._is_stock = is_stock
        self._admin = User(server, DATABASE)

    def websocket(self):
        return User(self.server, DATABASE).websocket("e2e")

    def install(self):
        self._modules("update_list")
        self._press("button_immediate_install")

    def uninstall(self):
        self._press("button_immediate_uninstall")

    def _press(self, button):
        """As the page of Apps does."""
        if not self._is_stock:
            found = self._modules("search", [("name", "=", "bus_alt_connection")])
            self._modules(button, found)

    def _modules(self, method, *args):
        return self._admin.call("ir.module.module", method, *args)

    def log(self):
        return self.server.log.read_text()

    def health(self):
        """Return the answers to many at a time, of all HTTP workers: HTTP statuses.

        Fewer than PgBouncer has server connections: where a module was installed, each
        request holds one while it waits for the registry, which takes another one.
        """
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return {
                status
                for url in health_urls(self.server)
                for status in pool.map(ask, [url] * 20)
            }


def ask(url):
    return requests.get(url, timeout=120).status_code


@pytest.fixture(params=[2, 0], ids=["prefork", "threaded"])
def apps(request, stack):
    stack.create_database(DATABASE)
    with stack.odoo(DATABASE, workers=request.param, addon="available") as server:
        yield Apps(stack, server, request.config.getoption("--stock"))


def test_installed_while_the_stock_loop_is_listening(apps, listening):
    """Without a restart; who had subscribed before is served too."""
    before = apps.websocket()
    wait_until(lambda: "Bus.loop listen imbus" in apps.log(), "the stock loop listens")
    apps.install()
    # the page is loaded again, and with it a websocket is opened
    after = apps.websocket()
    listening(apps.server)
    text = apps.sender.send("e2e")
    before.receive(text)
    after.receive(text)
    assert "takes over" in apps.log()


def test_installed_before_the_first_websocket(apps, listening):
    apps.install()
    websocket = apps.websocket()
    listening(apps.server)
    websocket.receive(apps.sender.send("e2e"))


def test_health_answers_with_the_first_request(apps):
    """Of each process: it loads the addon by that, at the latest."""
    assert apps.health() == {404}
    apps.install()
    # an HTTP worker says 503 if the evented one takes long to load it
    assert apps.health() <= {200, 503}
    wait_until(lambda: apps.health() == {200}, "it is loaded everywhere")
    report = requests.get(apps.server.url + HEALTH, timeout=60).json()
    assert report["live_messages"] == "starting"


def test_uninstalled(apps, listening, listeners):
    """It serves until the restart, and then no more."""
    apps.install()
    websocket = apps.websocket()
    backend = listening(apps.server)
    apps.uninstall()
    for connected in (websocket, apps.websocket()):
        connected.receive(apps.sender.send("e2e"))
    assert listeners(apps.server) == [backend]
    # an HTTP worker that has not loaded it until now never will
    assert requests.get(apps.server.evented_url + HEALTH, timeout=60).ok
    apps.server.stop()
    apps.server.log.write_text("")
    apps.server.start()
    websocket = apps.websocket()
    wait_until(lambda: "Bus.loop listen imbus" in apps.log(), "the stock loop listens")
    assert apps.health() == {404}
    assert not listeners(apps.server)
    websocket.close()


def test_installed_before_the_start(stack, addon):
    """Merely installed in the database, not loaded server-wide."""
    stack.create_database(DATABASE)
    server = stack.odoo(DATABASE, workers=2, addon=addon and "available")
    if addon:
        server.check("--init=bus_alt_connection", "--stop-after-init", "--no-http")
    with server:
        user = User(server, DATABASE)
        # the evented worker knows nothing of the addon yet, which is no failure
        wait_until(
            lambda: "starting" in requests.get(server.url + HEALTH, timeout=60).text,
            "the answer of the HTTP worker that has loaded the addon",
        )
        websocket = user.websocket("e2e")
        websocket.receive(Sender(stack, DATABASE).send("e2e"))
