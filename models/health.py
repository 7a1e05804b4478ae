"""The answer to "do live messages flow?": whether, since when and by what means."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from ..listening.state import FAIL, State
from . import bus
from .answer import Answer

PATH = "/websocket/bus_alt_connection/health"


def answer() -> Answer:
    """Answer for this process."""
    return to_answer(describe(bus.state))


def pass_on(_status: int, body: str) -> Answer:
    """Answer as the evented worker did.

    :raise ValueError, KeyError, TypeError: if that is no such answer
    """
    report = json.loads(body)
    told = {key: report[key] for key in ("status", "live_messages", "since")}
    if "overridden" in report:
        told["overridden"] = report["overridden"]
    return to_answer(told)


def to_answer(report: dict[str, Any]) -> Answer:
    """Return a report as it is sent."""
    is_failure = report["status"] == FAIL
    return Answer(
        "503 Service Unavailable" if is_failure else "200 OK",
        "application/json",
        json.dumps(report),
    )


#: When the evented worker does not answer.
UNREACHABLE = to_answer({"status": FAIL, "live_messages": "unreachable"})


def describe(state: State) -> dict[str, Any]:
    """Return what everybody may know of the live messages of this process."""
    lost = [str(override) for override in bus.find_lost(state)]
    since = datetime.fromtimestamp(state.since, timezone.utc)
    report = {
        "status": FAIL if lost else state.health,
        "live_messages": state.name,
        "since": since.isoformat(timespec="seconds"),
    }
    return {**report, "overridden": lost} if lost else report
