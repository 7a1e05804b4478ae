"""What the answer over HTTP says of each state, and how Odoo is patched."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from odoo import http
from odoo.service import server as odoo_server
from odoo.tests.common import BaseCase

from .. import series
from ..models import health
from ..state import State


class TestHealth(BaseCase):
    def report(self, *databases):
        """Return the status of a state with these databases, readable or not."""
        self.state.databases = dict(enumerate(databases))
        return health.describe(self.state)["status"]

    def setUp(self):
        super().setUp()
        self.state = State()

    def test_starting(self):
        self.assertEqual(self.report(), "pass")
        self.assertEqual(self.report(False), "fail")

    def test_listening(self):
        self.state.proven()
        self.assertEqual(self.report(), "pass")
        self.assertEqual(self.report(True, True), "pass")
        self.assertEqual(self.report(True, False), "warn")
        self.assertEqual(self.report(False, False), "warn")

    def test_fallback(self):
        self.state.unproven("secret")
        self.assertEqual(self.report(), "warn")
        self.assertEqual(self.report(True, False), "warn")
        self.assertEqual(self.report(False), "fail")
        self.assertNotIn("secret", json.dumps(health.describe(self.state)))

    def test_unsupported(self):
        self.state.unsupported()
        self.assertEqual(self.report(), "fail")
        self.assertEqual(health.describe(self.state)["live_messages"], "unsupported")


class TestEventedWorker(BaseCase):
    """An HTTP worker asks the evented one, here a server that says what it is told."""

    def setUp(self):
        super().setUp()
        self.asked = 0
        self.answer = 200, {"status": "pass", "live_messages": "listening", "since": 0}
        test = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                test.asked += self.path == health.PATH
                status, report = test.answer
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(report).encode())

            def log_message(self, *args):
                """Log nothing."""

        server = HTTPServer(("localhost", 0), Handler)
        self.addCleanup(server.server_close)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        self.addCleanup(setattr, series, "evented_port", series.evented_port)
        series.evented_port = lambda: server.server_port
        self.addCleanup(setattr, health.ask_evented_worker, "not_before", 0)

    def test_its_answer_is_passed_on(self):
        self.answer = 503, {"status": "fail", "live_messages": "x", "since": 0, "y": 1}
        found = health.ask_evented_worker()
        self.assertEqual(found, {"status": "fail", "live_messages": "x", "since": 0})

    def test_it_does_not_know_the_addon_yet(self):
        self.answer = 404, "<html>"
        self.assertEqual(health.ask_evented_worker()["status"], "pass")

    def test_it_is_not_asked_again_at_once_if_it_does_not_answer(self):
        self.answer = 500, "<html>"
        with self.assertLogs(health._logger, "WARNING"):
            self.assertEqual(health.ask_evented_worker(), health.UNREACHABLE)
        self.answer = 200, {"status": "pass", "live_messages": "listening", "since": 0}
        self.assertEqual(health.ask_evented_worker(), health.UNREACHABLE)
        self.assertEqual(self.asked, 1)
        health.ask_evented_worker.not_before = 0
        self.assertEqual(health.ask_evented_worker()["status"], "pass")


class TestPatch(BaseCase):
    def test_patching_twice_changes_nothing(self):
        stock = health.call.stock
        health.patch()
        self.assertIs(type(http.root).__call__, health.call)
        self.assertIs(health.call.stock, stock)
        self.assertEqual(stock.__module__, http.__name__)

    def test_unknown_application_is_left_alone(self):
        self.addCleanup(setattr, http, "root", http.root)
        del http.root
        health.patch()
        with self.assertLogs(health._logger, "ERROR") as logs:
            health.announce()
        self.assertIn("no http.root", logs.output[0])


class TestCall(BaseCase):
    """What Odoo's WSGI application does now."""

    def setUp(self):
        super().setUp()
        thread = threading.current_thread()
        if hasattr(thread, "dbname"):
            self.addCleanup(setattr, thread, "dbname", thread.dbname)

    def request(self, method, path=health.PATH):
        """Return the status, the body, and whether stock Odoo was called."""
        statuses, passed_on = [], []
        self.addCleanup(setattr, health.call, "stock", health.call.stock)
        health.call.stock = lambda *args: passed_on.append(args) or []
        body = health.call(
            http.root,
            {"REQUEST_METHOD": method, "PATH_INFO": path},
            lambda status, headers: statuses.append((status, dict(headers))),
        )
        return statuses, b"".join(body), bool(passed_on)

    def test_get_and_head(self):
        [(status, headers)], body, passed_on = self.request("GET")
        self.assertTrue(status.startswith(("200", "503")))
        self.assertEqual(int(headers["Content-Length"]), len(body))
        self.assertIn("status", json.loads(body))
        self.assertFalse(passed_on)
        [(_status, head_headers)], nothing, passed_on = self.request("HEAD")
        self.assertEqual((nothing, passed_on), (b"", False))
        self.assertEqual(head_headers, headers)

    def test_everything_else_is_for_odoo(self):
        for method, path in (
            ("POST", health.PATH),
            ("GET", health.PATH + "/"),
            ("GET", "/websocket/health"),
        ):
            self.assertEqual(self.request(method, path), ([], b"", True))

    def test_the_request_before_is_forgotten(self):
        thread = threading.current_thread()
        thread.dbname = "before"
        odoo_server.thread_local.rpc_model_method = "res.users.write"
        self.request("GET")
        self.assertFalse(hasattr(thread, "dbname"))
        self.assertEqual(odoo_server.thread_local.rpc_model_method, "")
