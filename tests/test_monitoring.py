"""How what a monitoring system asks for is answered, and Odoo patched for it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from odoo import http
from odoo.service import server as odoo_server
from odoo.tests.common import BaseCase

from ..models import health, metrics, monitoring, override, series
from ..models.override import ORIGINAL
from .common import Case

LISTENING = '{"status": "pass", "live_messages": "listening"}'


class TestEventedWorker(BaseCase):
    """An HTTP worker asks the evented one, here a server that says what it is told."""

    def setUp(self):
        super().setUp()
        self.asked = 0
        self.answer = 200, health.CONTENT_TYPE, LISTENING
        test = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                test.asked += self.path in (health.PATH, metrics.PATH)
                status, content_type, body = test.answer
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                self.wfile.write(body.encode())

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
        self.worker = monitoring.EventedWorker()

    def test_its_answer_is_passed_on(self):
        found = '{"status": "fail", "live_messages": "stuck"}'
        self.answer = 503, health.CONTENT_TYPE, found
        self.assertEqual(self.worker.ask(health), (503, found))

    def test_its_metrics_are_passed_on(self):
        found = metrics.answer()[1]
        self.answer = 200, metrics.CONTENT_TYPE, found
        self.assertEqual(self.worker.ask(metrics), (200, found))

    def test_what_another_server_says_there_is_not_passed_on(self):
        for page, body in (
            (health, '{"detail": "internal host db1"}'),
            (health, "[1]"),
            (health, "<html>"),
            (metrics, "# HELP process_cpu_seconds_total Another exporter's\n"),
        ):
            with self.subTest(page=page.PATH, body=body):
                self.answer = 200, page.CONTENT_TYPE, body
                worker = monitoring.EventedWorker()
                with self.assertLogs(monitoring._logger, "WARNING"):
                    self.assertEqual(worker.ask(page), page.UNREACHABLE)

    def test_it_does_not_know_the_addon_yet(self):
        self.answer = 404, "text/html", "<html>"
        report = json.loads(self.worker.ask(health)[1])
        self.assertEqual(
            (report["status"], report["live_messages"]), ("pass", "starting")
        )
        _status, text = self.worker.ask(metrics)
        self.assertIn('bus_alt_connection_state{state="starting"} 1\n', text)

    def test_metrics_it_cannot_tell(self):
        self.answer = 500, "text/html", "<html>"
        with self.assertLogs(monitoring._logger, "WARNING"):
            self.assertEqual(self.worker.ask(metrics), metrics.UNREACHABLE)

    def test_it_is_not_asked_again_at_once_if_it_does_not_answer(self):
        self.answer = 500, "text/html", "<html>"
        with self.assertLogs(monitoring._logger, "WARNING"):
            self.assertEqual(self.worker.ask(health), health.UNREACHABLE)
        self.answer = 200, health.CONTENT_TYPE, LISTENING
        self.assertEqual(self.worker.ask(health), health.UNREACHABLE)
        self.assertEqual(self.worker.ask(metrics), metrics.UNREACHABLE)
        self.assertEqual(self.asked, 1)
        self.worker.not_before = 0
        self.assertEqual(self.worker.ask(health), (200, LISTENING))


class ForeignWrapper:
    """As of an APM agent: a class that is used around other things as well."""

    def __init__(self, wrapped):
        self.wrapped = wrapped

    def __call__(self, *args):
        return self.wrapped(*args)


class TestPatch(Case):
    def test_patching_twice_changes_nothing(self):
        original = monitoring._call.original
        monitoring.patch()
        self.assertIs(type(http.root).__call__, monitoring.call)
        self.assertIs(monitoring._call.original, original)
        self.assertEqual(original.__module__, http.__name__)

    def test_a_foreign_class_around_the_application_is_left_alone(self):
        self.addCleanup(setattr, http, "root", http.root)
        http.root = ForeignWrapper(http.root)
        call = ForeignWrapper.__call__
        monitoring.patch()
        self.assertIs(ForeignWrapper.__call__, call)
        self.assertEqual(ForeignWrapper(lambda one: one)(1), 1)

    def test_unknown_application_is_left_alone(self):
        unknown = override.Override(http, "Unknown.__call__", monitoring.call)
        self.patch(monitoring, "_call", unknown)
        monitoring.patch()
        with self.assertLogs(monitoring._logger, "ERROR") as logs:
            monitoring.announce()
        self.assertIn("no Unknown.__call__", logs.output[0])


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
        self.addCleanup(setattr, monitoring.call, ORIGINAL, monitoring._call.original)
        setattr(monitoring.call, ORIGINAL, lambda *args: passed_on.append(args) or [])
        body = monitoring.call(
            http.root,
            {"REQUEST_METHOD": method, "PATH_INFO": path},
            lambda status, headers: statuses.append((status, dict(headers))),
        )
        return statuses, b"".join(body), bool(passed_on)

    def test_get_and_head(self):
        [(status, headers)], body, passed_on = self.request("GET")
        self.assertTrue(status.startswith(("200", "503")))
        self.assertEqual(int(headers["Content-Length"]), len(body))
        self.assertEqual(headers["Content-Type"], "application/json")
        self.assertIn("status", json.loads(body))
        self.assertFalse(passed_on)
        [(_status, head_headers)], nothing, passed_on = self.request("HEAD")
        self.assertEqual((nothing, passed_on), (b"", False))
        self.assertEqual(head_headers, headers)

    def test_with_a_slash_at_the_end(self):
        """So Odoo finds the controller, which answers the first request."""
        for path in (health.PATH + "/", metrics.PATH + "/"):
            [(status, _headers)], body, passed_on = self.request("GET", path)
            self.assertTrue(status.startswith(("200", "503")))
            self.assertTrue(body)
            self.assertFalse(passed_on)

    def test_metrics(self):
        [(status, headers)], body, passed_on = self.request("GET", metrics.PATH)
        self.assertEqual(status, "200 OK")
        self.assertEqual(headers["Content-Type"], metrics.CONTENT_TYPE)
        self.assertTrue(body.startswith(b"# HELP "))
        self.assertFalse(passed_on)

    def test_everything_else_is_for_odoo(self):
        for method, path in (
            ("POST", health.PATH),
            ("GET", "/websocket/health"),
        ):
            self.assertEqual(self.request(method, path), ([], b"", True))

    def test_the_request_before_is_forgotten(self):
        thread = threading.current_thread()
        thread.dbname = "before"
        # in the log since 19.0
        local = getattr(odoo_server, "thread_local", None)
        if local:
            local.rpc_model_method = "res.users.write"
        self.request("GET")
        self.assertFalse(hasattr(thread, "dbname"))
        self.assertFalse(getattr(local, "rpc_model_method", ""))
