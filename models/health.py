"""The answer to "do live messages flow?": whether, since when and by what means."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from ..listening.state import FAIL, State
from . import bus
from .override import Override

PATH = "/websocket/bus_alt_connection/health"

CONTENT_TYPE = "application/json"


def answer() -> tuple[int, str]:
    """Answer for this process: HTTP status and body."""
    report = describe(bus.state)
    return 503 if report["status"] == FAIL else 200, json.dumps(report)


def is_ours(body: str) -> bool:
    """Whether that is an answer of ours; raise ``ValueError`` if it is no JSON."""
    report = json.loads(body)
    return isinstance(report, dict) and "live_messages" in report


#: When the evented worker does not answer.
UNREACHABLE = 503, json.dumps({"status": FAIL, "live_messages": "unreachable"})


def describe(state: State) -> dict[str, Any]:
    """Return what everybody may know of the live messages of this process."""
    lost = [str(override) for override in Override.find_lost()]
    since = datetime.fromtimestamp(state.since, timezone.utc)
    report = {
        "status": FAIL if lost else state.health,
        "live_messages": state.name,
        "since": since.isoformat(timespec="seconds"),
    }
    return {**report, "overridden": lost} if lost else report
