"""The answer to "do live messages flow?", for monitoring and readiness probes.

Without authentication, as Odoo's own ``/websocket/health``. So it tells whether, since
when and by what means, and nothing that would help an attacker; why, is in the log.
"""

import json
import logging
from datetime import datetime, timezone
from http.client import HTTPConnection, HTTPException

from odoo import http
from odoo.http import request
from odoo.tools import config

from .. import series
from ..models import bus, connection
from ..state import FAIL
from ..throttle import Throttle

_logger = logging.getLogger(__name__)

#: Below the path that a reverse proxy sends to the evented worker anyway.
PATH = "/websocket/bus_alt_connection/health"

#: Seconds for the evented worker to answer an HTTP worker; it takes milliseconds. Most
#: probes give up after 1 to 10 s.
TIMEOUT = 3

_unreachable_log = Throttle(_logger)


class Health(http.Controller):
    @http.route(PATH, type="http", auth="none", methods=["GET"], save_session=False)
    def health(self):
        if connection.holds_websockets():
            report = describe(bus.state)
        else:
            report = ask_evented_worker(request.httprequest.host)
        return http.Response(
            json.dumps(report),
            status=503 if report["status"] == FAIL else 200,
            headers=[
                ("Content-Type", "application/json"),
                ("Cache-Control", "no-store"),
            ],
        )


def describe(state):
    """Return what everybody may know of a :class:`~..state.State` (dict)."""
    since = datetime.fromtimestamp(state.since, timezone.utc)
    return {
        "status": state.health,
        "live_messages": state.name,
        "since": since.isoformat(timespec="seconds"),
    }


def ask_evented_worker(host):
    """Return what the process says that holds the websockets; this one does not know.

    :param str host: the host that was asked for, which may decide on the database
    """
    evented = HTTPConnection(
        config["http_interface"] or "localhost", series.evented_port(), timeout=TIMEOUT
    )
    try:
        evented.request("GET", PATH, headers={"Host": host})
        report = json.load(evented.getresponse())
        return {key: report[key] for key in ("status", "live_messages", "since")}
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        _unreachable_log.log(
            logging.WARNING,
            "The evented worker does not tell whether live messages flow",
            exc_info=True,
        )
        return {"status": FAIL, "live_messages": "unreachable"}
    finally:
        evented.close()
