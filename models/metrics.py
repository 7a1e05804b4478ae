"""The numbers for a monitoring system, in Prometheus' text format.

That is few enough lines to do without a library. Its version 0.0.4 and the names by its
conventions: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import ast
import collections
import functools
from pathlib import Path
from typing import Any, Dict, Tuple

from odoo.release import series as odoo_series

from ..listening.state import State
from . import bus, cron, slots
from .answer import Answer

PATH = "/websocket/bus_alt_connection/metrics"

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: What all names begin with.
PREFIX = "bus_alt_connection_"

#: Name, type, help, and the values by their labels (as they are written, in braces).
Family = Tuple[str, str, str, Dict[str, float]]

#: When the evented worker does not answer: there is nothing to read, which Prometheus
#: shows as ``up`` 0.
UNREACHABLE = Answer(
    "503 Service Unavailable", CONTENT_TYPE, "# The evented worker does not answer.\n"
)


def answer() -> Answer:
    """Answer for this process."""
    text = "".join(
        f"# HELP {PREFIX}{name} {what}\n# TYPE {PREFIX}{name} {kind}\n"
        + "".join(f"{PREFIX}{name}{key} {value}\n" for key, value in values.items())
        for name, kind, what, values in families(bus.state)
    )
    return Answer("200 OK", CONTENT_TYPE, text)


def pass_on(status: int, body: str) -> Answer:
    """Answer as the evented worker did.

    :raise ValueError: if that is no such answer
    """
    if status != 200:
        raise ValueError(f"HTTP status {status}")
    return Answer("200 OK", CONTENT_TYPE, body)


def families(state: State) -> list[Family]:
    """Return what everybody may know of live messages and scheduled actions."""
    lost = bus.find_lost(state)
    name, tables = state.name, list(state.tables.values())
    own = state.metrics
    shared = slots.find() if cron.has_triggers() else None
    channels = {bus.CHANNEL: own}
    if shared:
        channels[cron.CHANNEL] = shared.total()

    def by_channel(counter: str) -> dict[str, float]:
        return {
            labels(channel=channel): getattr(metrics, counter)
            for channel, metrics in channels.items()
        }

    found = [
        (
            "info",
            "gauge",
            "The addon, and the series of Odoo.",
            {labels(version=addon_version(), series=odoo_series): 1},
        ),
        (
            "state",
            "gauge",
            "How live messages flow: 1 for the state that is, 0 for the others.",
            {labels(state=each): int(each == name) for each in state.STATES},
        ),
        (
            "state_since_timestamp_seconds",
            "gauge",
            "Since when the connection is starting, listening or in fallback.",
            {"": state.since},
        ),
        (
            "overrides_lost",
            "gauge",
            "Functions of Odoo whose override is not in force any more.",
            {"": len(lost)},
        ),
        (
            "connects_total",
            "counter",
            "Listening connections opened.",
            by_channel("connects"),
        ),
        (
            "connect_failures_total",
            "counter",
            "Attempts to open a listening connection that failed.",
            by_channel("failures"),
        ),
        (
            "losses_total",
            "counter",
            "Listening connections that ended by themselves, or were found deaf.",
            by_channel("losses"),
        ),
        (
            "notifications_total",
            "counter",
            "Notifications of Odoo's that were heard.",
            by_channel("notifications"),
        ),
        (
            "junk_total",
            "counter",
            "Parts of notifications that are no channels of the bus.",
            {"": own.junk},
        ),
        (
            "canaries_sent_total",
            "counter",
            "Notifications that were sent to oneself, through the pooler.",
            {"": own.canaries},
        ),
        (
            "canaries_lost_total",
            "counter",
            "Notifications to oneself that did not arrive: the connection was deaf.",
            {"": own.deaf},
        ),
        (
            "table_readings_total",
            "counter",
            "Readings of bus tables.",
            {
                labels(result="success"): own.readings,
                labels(result="failure"): own.failed_readings,
            },
        ),
        (
            "databases",
            "gauge",
            "Databases in use, by whether their bus tables can be read.",
            {
                labels(readable="yes"): sum(tables),
                labels(readable="no"): len(tables) - sum(tables),
            },
        ),
    ]
    if own.round_trip:
        found.append(
            (
                "canary_round_trip_seconds",
                "gauge",
                "How long the last canary that arrived took, the pooler included.",
                {"": own.round_trip},
            )
        )
    if shared:
        count = collections.Counter(each.state for each in shared.alive())
        found.append(
            (
                "cron_listeners",
                "gauge",
                "Cron workers or threads, by how they listen for triggers.",
                {
                    labels(state=each): count[index]
                    for index, each in enumerate(state.CONNECTION_STATES)
                },
            )
        )
    return found


def labels(**values: Any) -> str:
    """Return labels as they are written; none of ours has anything to be escaped."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in values.items()) + "}"


@functools.lru_cache(maxsize=None)
def addon_version() -> str:
    """Return the version in the manifest."""
    manifest = Path(__file__).parents[1] / "__manifest__.py"
    return ast.literal_eval(manifest.read_text())["version"]
