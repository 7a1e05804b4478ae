"""The numbers for a monitoring system, in Prometheus' text format.

That is few enough lines to do without a library. Its version 0.0.4 and the names by its
conventions: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import ast
import collections
from pathlib import Path
from typing import Any

from odoo.release import series as odoo_series

from ..listening.state import State
from . import bus, cron, slots
from .override import Override

PATH = "/websocket/bus_alt_connection/metrics"

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MANIFEST = Path(__file__).parents[1] / "__manifest__.py"
VERSION = ast.literal_eval(MANIFEST.read_text())["version"]

#: What all names begin with.
PREFIX = "bus_alt_connection_"

#: The families of values in the order in which they are told, and what each is. A
#: counter's name ends with ``_total``.
HELP = {
    "info": "The addon, and the series of Odoo.",
    "state": "How live messages flow: 1 for the state that is, 0 for the others.",
    "state_since_timestamp_seconds": (
        "Since when the connection is starting, listening or in fallback."
    ),
    "overrides_lost": "Functions of Odoo whose override is not in force any more.",
    "connects_total": "Listening connections opened.",
    "connect_failures_total": "Attempts to open a listening connection that failed.",
    "losses_total": (
        "Listening connections that ended by themselves, or were found deaf."
    ),
    "notifications_total": "Notifications of Odoo's that were heard.",
    "junk_total": "Parts of notifications that are no channels of the bus.",
    "canaries_sent_total": (
        "Notifications that were sent to oneself, through the pooler."
    ),
    "canaries_lost_total": (
        "Notifications to oneself that did not arrive: the connection was deaf."
    ),
    "table_readings_total": "Readings of bus tables.",
    "databases": "Databases in use, by whether their bus tables can be read.",
    "canary_round_trip_seconds": (
        "How long the last canary that arrived took, the pooler included."
    ),
    "cron_listeners": "Cron workers or threads, by how they listen for triggers.",
}

#: What has a value for the bus and one for cron.
BY_CHANNEL = ("connects", "connect_failures", "losses", "notifications")

#: When the evented worker does not answer: there is nothing to read, which Prometheus
#: shows as ``up`` 0.
UNREACHABLE = 503, "# The evented worker does not answer.\n"


def answer() -> tuple[int, str]:
    """Answer for this process: HTTP status and body."""
    values = read(bus.state)
    return 200, "".join(write(each, values[each]) for each in HELP if each in values)


def is_ours(body: str) -> bool:
    """Whether that is an answer of ours."""
    return body.startswith(f"# HELP {PREFIX}")


def write(family: str, values: dict[str, float]) -> str:
    """Return a family's lines."""
    name = PREFIX + family
    kind = "counter" if name.endswith("_total") else "gauge"
    lines = [f"# HELP {name} {HELP[family]}", f"# TYPE {name} {kind}"]
    lines += [f"{name}{key} {value}" for key, value in values.items()]
    return "".join(f"{line}\n" for line in lines)


def read(state: State) -> dict[str, dict[str, float]]:
    """Return what everybody may know: values by their labels, as written, by family."""
    name, tables = state.name, list(state.tables.values())
    own = state.metrics
    channels = {bus.CHANNEL: own}
    values = {
        "info": {labels(version=VERSION, series=odoo_series): 1},
        "state": {labels(state=each): int(each == name) for each in state.STATES},
        "state_since_timestamp_seconds": {"": state.since},
        "overrides_lost": {"": len(Override.find_lost())},
        "junk_total": {"": own.junk},
        "canaries_sent_total": {"": own.canaries},
        "canaries_lost_total": {"": own.deaf},
        "table_readings_total": {
            labels(result="success"): own.readings,
            labels(result="failure"): own.failed_readings,
        },
        "databases": {
            labels(readable="yes"): sum(tables),
            labels(readable="no"): len(tables) - sum(tables),
        },
    }
    if own.round_trip:
        values["canary_round_trip_seconds"] = {"": own.round_trip}
    shared = slots.shared if cron.has_triggers() else None
    if shared:
        channels[cron.CHANNEL] = shared.total()
        count = collections.Counter(each.state for each in shared.alive())
        values["cron_listeners"] = {
            labels(state=each): count[index]
            for index, each in enumerate(state.CONNECTION_STATES)
        }
    for counter in BY_CHANNEL:
        values[f"{counter}_total"] = {
            labels(channel=channel): getattr(metrics, counter)
            for channel, metrics in channels.items()
        }
    return values


def labels(**values: Any) -> str:
    """Return labels as they are written; none of ours has anything to be escaped."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in values.items()) + "}"
