"""The answer to "do live messages flow?", for monitoring and readiness probes.

It is given before Odoo looks at the request, and not by a controller: Odoo looks for
the database first, and behind a pooler waits for it for two minutes (PgBouncer's
``query_wait_timeout``) when PostgreSQL is away, which is when the answer is wanted.

Without authentication, as Odoo's own ``/websocket/health``. So it tells whether, since
when and by what means, and nothing that would help an attacker; why, is in the log.
"""

import json
import logging
import threading
import time
from datetime import datetime, timezone
from http.client import HTTPConnection, HTTPException

import odoo
from odoo import http
from odoo.service import server as odoo_server
from odoo.tools import config

from .. import series
from ..state import FAIL, PASS, STARTING
from ..throttle import Throttle
from . import bus, connection

_logger = logging.getLogger(__name__)

#: Below the path that a reverse proxy sends to the evented worker anyway.
PATH = "/websocket/bus_alt_connection/health"

METHODS = ("GET", "HEAD")

#: Seconds for each step of the evented worker's answer to an HTTP worker: to connect,
#: and to answer. They take milliseconds; most probes give up after 1 to 10 s.
TIMEOUT = 2

#: Seconds for which an HTTP worker does not ask again when there was no answer: whoever
#: asks very often keeps it from its work for 2 * 2 s in 14.
PATIENCE = 10

UNREACHABLE = {"status": FAIL, "live_messages": "unreachable"}

_unreachable_log = Throttle(_logger)


def call(self, environ, start_response):
    """Answer on :data:`PATH`. Replaces ``__call__`` of Odoo's WSGI application.

    :param self: ``odoo.http.root``
    """
    if environ.get("PATH_INFO") != PATH or environ["REQUEST_METHOD"] not in METHODS:
        return call.stock(self, environ, start_response)
    forget_last_request()
    if connection.holds_websockets():
        report = describe(bus.state)
    else:
        report = ask_evented_worker()
    body = json.dumps(report).encode()
    start_response(
        "503 Service Unavailable" if report["status"] == FAIL else "200 OK",
        [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ],
    )
    return [body if environ["REQUEST_METHOD"] == "GET" else b""]


def forget_last_request():
    """Make Odoo's log not take this one for a part of what the thread did before."""
    vars(threading.current_thread()).pop("dbname", None)
    if hasattr(odoo_server, "thread_local"):
        odoo_server.thread_local.rpc_model_method = ""


def describe(state):
    """Return what everybody may know of a :class:`~..state.State` (dict)."""
    since = datetime.fromtimestamp(state.since, timezone.utc)
    return {
        "status": state.health,
        "live_messages": state.name,
        "since": since.isoformat(timespec="seconds"),
    }


def ask_evented_worker():
    """Return what the process says that holds the websockets, as this one does not."""
    if time.monotonic() < ask_evented_worker.not_before:
        return UNREACHABLE
    evented = HTTPConnection(
        config["http_interface"] or "localhost", series.evented_port(), timeout=TIMEOUT
    )
    try:
        evented.request("GET", PATH)
        response = evented.getresponse()
        if response.status == 404:
            # merely installed, and there no database was used that has it
            return {"status": PASS, "live_messages": STARTING}
        report = json.load(response)
        return {key: report[key] for key in ("status", "live_messages", "since")}
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        _unreachable_log.log(
            logging.WARNING,
            "The evented worker does not tell whether live messages flow",
            exc_info=True,
        )
        ask_evented_worker.not_before = time.monotonic() + PATIENCE
        return UNREACHABLE
    finally:
        evented.close()


ask_evented_worker.not_before = float("-inf")


def patch():
    """Override Odoo's WSGI application, once per process."""
    application = type(getattr(http, "root", None))
    if missing() or application.__call__ is call:
        return
    # of an earlier import of this module, if there was one
    call.stock = getattr(application.__call__, "stock", application.__call__)
    application.__call__ = call


def announce():
    """Tell the administrator if nothing was patched."""
    if missing():
        _logger.error(
            "Odoo %s is not served as expected: no %s. Nothing answers on %s.",
            odoo.release.version,
            ", ".join(missing()),
            PATH,
        )


def missing():
    """Return what we need of Odoo's server and do not find, as a list of names."""
    return [] if callable(getattr(http, "root", None)) else ["http.root"]


patch()
