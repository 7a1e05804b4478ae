"""What a monitoring system may ask: health and metrics, answered over HTTP.

It is answered before Odoo looks at the request, and not by a controller: Odoo looks for
the database first, and behind a pooler waits for it for two minutes (PgBouncer's
``query_wait_timeout``) when PostgreSQL is away, which is when the answer is wanted. A
controller answers one request only: the one by which Odoo loads the addon.

Without authentication, as Odoo's own ``/websocket/health``. So nothing is told that
would help an attacker: no name of a database, a host or a user, and no error; these are
in the log.

The process with the websockets knows the answers; others ask it.
"""

from __future__ import annotations

import logging
import threading
import time
from http.client import HTTPConnection, HTTPException
from types import ModuleType
from typing import Any

from werkzeug.wrappers import Response

import odoo
from odoo import http
from odoo.service import server as odoo_server
from odoo.tools import config

try:
    from odoo.http import router
except ImportError:
    # to 19.0
    router = None

from ..listening.log import Log
from . import health, metrics, roads, series
from .override import Override

_logger = logging.getLogger(__name__)

#: What can be asked for. The second path of each is 15.0's, where a reverse proxy sends
#: nothing else to the evented worker.
PAGES = {
    path: page
    for page in (health, metrics)
    for path in (page.PATH, page.PATH.replace("/websocket/", "/longpolling/"))
}

METHODS = ("GET", "HEAD")


def find_page(path: str) -> ModuleType | None:
    """Return the one of :data:`PAGES`, as Odoo finds a controller: slash or not."""
    return PAGES.get(path.rstrip("/"))


def respond(page: ModuleType) -> Response:
    """Return the answer to one of :data:`PAGES`."""
    is_here = roads.holds_websockets()
    status, body = page.answer() if is_here else evented_worker.ask(page)
    headers = {"Cache-Control": "no-store"}
    return Response(body, status, headers, content_type=page.CONTENT_TYPE)


def call(self: Any, environ: dict, start_response: Any) -> Any:
    """Answer for :data:`PAGES`. Replaces ``__call__`` of Odoo's WSGI application."""
    page = find_page(environ.get("PATH_INFO", ""))
    if page is None or environ["REQUEST_METHOD"] not in METHODS:
        return _call.original(self, environ, start_response)
    forget_last_request()
    return respond(page)(environ, start_response)


class Monitoring(http.Controller):
    """Answers while :func:`call` is not in its place yet."""

    @http.route(list(PAGES), type="http", auth="none", save_session=False)
    def answer(self, **_kwargs: Any) -> Response:
        return respond(find_page(http.request.httprequest.path))


def forget_last_request() -> None:
    """Make Odoo's log not take this one for a part of what the thread did before."""
    vars(threading.current_thread()).pop("dbname", None)
    if hasattr(odoo_server, "thread_local"):
        odoo_server.thread_local.rpc_model_method = ""


class EventedWorker:
    """The process that holds the websockets, as seen from one that does not."""

    #: Seconds for each step of its answer: to connect, and to answer. They take
    #: milliseconds; most probes give up after 1 to 10 s.
    TIMEOUT = 2

    #: Seconds for which it is not asked again when there was no answer: whoever asks
    #: very often keeps an HTTP worker from its work for 2 * 2 s in 14.
    PATIENCE = 10

    def __init__(self) -> None:
        self.log = Log(_logger)
        self.not_before = float("-inf")

    def ask(self, page: ModuleType) -> tuple[int, str]:
        """Return what it says: HTTP status and body."""
        if time.monotonic() < self.not_before:
            return page.UNREACHABLE
        conn = HTTPConnection(
            config["http_interface"] or "localhost",
            series.evented_port(),
            timeout=self.TIMEOUT,
        )
        try:
            conn.request("GET", page.PATH)
            response = conn.getresponse()
            if response.status == 404:
                # merely installed, and there no database was used that has it: it knows
                # no more than we do
                return page.answer()
            body = response.read().decode()
            if not page.is_ours(body):
                raise ValueError(f"no answer of ours: HTTP status {response.status}")
            return response.status, body
        except (OSError, HTTPException, ValueError):
            self.log.problem(
                "unreachable",
                logging.WARNING,
                "The evented worker does not tell whether live messages flow.",
                exc_info=True,
            )
            self.not_before = time.monotonic() + self.PATIENCE
            return page.UNREACHABLE
        finally:
            conn.close()


evented_worker = EventedWorker()


# ----------------------------------------------------------------------
# Patching
# ----------------------------------------------------------------------


# Odoo's own WSGI application, and not the class of ``odoo.http.root``, which may be a
# foreign one around it, an APM agent's, that is used elsewhere as well.
_call = Override(
    router if hasattr(router, "Application") else http,
    # to 15.0
    "Root.__call__" if hasattr(http, "Root") else "Application.__call__",
    call,
)


def patch() -> None:
    """Override Odoo's WSGI application, once per process."""
    if _call.is_possible:
        _call.apply()


def announce() -> None:
    """Tell the administrator if nothing was patched."""
    if not _call.is_possible:
        _logger.error(
            "Odoo %s is not served as expected: no %s. %s are answered only where a"
            " database has the addon installed.",
            odoo.release.version,
            _call,
            " and ".join(PAGES),
        )


patch()
