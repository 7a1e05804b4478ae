"""Medians and ratios out of the rounds' figures, as tables.

Each figure is the median of the rounds. A ratio or a difference is that of each round
first, and then the median of these, so that a slow round is slow for both sides.
"""

from __future__ import annotations

import json
import operator
from pathlib import Path

from . import report_scale
from .figures import MIB, Figures, column, middle, paired, unique
from .report_connections import (
    render_comparison,
    render_reload,
    render_sweep,
    render_tenants,
    summarize_connections,
)
from .report_faults import render_faults, summarize_faults
from .report_series import render_series
from .tables import describe, shown, table
from .targets import render_targets, targets


def summarize(results: Figures) -> Figures:
    """Return the medians and the targets, of the parts that were measured."""
    summary = {}
    if "delivery" in results:
        summary["delivery"] = summarize_delivery(results["delivery"]["turns"])
        summary["fetch"] = summarize_fetch(results["delivery"]["fetches"])
        summary["listening"] = summarize_listening(results["listening"]["turns"])
        summary["memory"] = summarize_memory(results["memory"]["samples"])
        summary["catch_up"] = summarize_catch_up(results["catch_up"]["turns"])
    if "connections" in results:
        measured = results["connections"]
        summary["sweep"] = summarize_connections(measured["sweep"])
        summary["comparison"] = summarize_connections(measured["comparison"])
        summary["reload"] = measured["reload"]
        summary["tenants"] = measured["tenants"]
    if "faults" in results:
        summary["faults"] = summarize_faults(results["faults"])
    return {**summary, "targets": targets(summary)}


def render(results: Figures) -> str:
    """Return all the tables."""
    summary = results["summary"]
    parts = []
    if "delivery" in results:
        parts += [
            describe(results["delivery"]["machine"]),
            render_delivery(results["delivery"]["contenders"], summary),
            render_listening(results["listening"]["loops"], summary["listening"]),
            render_memory(summary["memory"]),
            render_catch_up(results["catch_up"], summary["catch_up"]),
        ]
    if "connections" in results:
        measured = results["connections"]
        parts += [
            describe(results["connections"]["machine"]),
            render_sweep(measured, summary["sweep"]),
            render_comparison(measured, summary["comparison"]),
            render_reload(measured, summary["reload"]),
            render_tenants(measured, summary["tenants"]),
        ]
    if "faults" in results:
        parts.append(describe(results["faults"]["machine"]))
        parts.append(render_faults(results["faults"], summary["faults"]))
    return "\n\n".join([*parts, render_targets(summary["targets"])])


#: The tables that the docs show: the part of which each is, and what renders it.
TABLES = {
    "faults": ("faults", render_faults),
    "sweep": ("connections", render_sweep),
    "comparison": ("connections", render_comparison),
    "reload": ("connections", render_reload),
    "tenants": ("connections", render_tenants),
}


def render_table(name: str, folder: Path) -> str | None:
    """Return a table with what it was measured on; None if it was not.

    :param folder: where bench.json, scale.json and series.json are
    """
    files = dict.fromkeys(report_scale.TABLES, "scale.json") | {"series": "series.json"}
    file = folder / files.get(name, "bench.json")
    results = json.loads(file.read_text()) if file.exists() else {}
    if name == "series":
        return render_series(results) if results else None
    part, renderer = (TABLES | report_scale.TABLES)[name]
    if part not in results:
        return None
    measured, rows = results[part], results["summary"][name]
    return f"{renderer(measured, rows)}\n\n{describe(measured['machine'])}"


# ----------------------------------------------------------------------
# Delivery
# ----------------------------------------------------------------------


def summarize_delivery(turns: list[Figures]) -> list[Figures]:
    """Return a row for each number of clients and contender."""
    rows = []
    for clients in unique(turns, "clients"):
        of_clients = [turn for turn in turns if turn["clients"] == clients]
        p50 = {
            name: column(of_clients, "p50_ms", contender=name)
            for name in unique(of_clients, "contender")
        }
        for name in p50:
            mine = [turn for turn in of_clients if turn["contender"] == name]
            row = {
                "clients": clients,
                "contender": name,
                "expected": sum(column(mine, "expected")),
                "delivered": sum(column(mine, "delivered")),
                "p50_ms": middle(p50[name]),
                "p99_ms": middle(column(mine, "p99_ms")),
                "p50_ratio": paired(operator.truediv, p50[name], p50["a"]),
            }
            if name == "c":
                row["addon_ms"] = paired(operator.sub, p50["d"], p50["a"])
                row["hop_ms"] = paired(operator.sub, p50["c"], p50["d"])
            rows.append(row)
    return rows


def summarize_fetch(fetches: list[Figures]) -> Figures:
    direct, pooled = column(fetches, "direct_ms"), column(fetches, "pooled_ms")
    return {
        "direct_ms": middle(direct),
        "pooled_ms": middle(pooled),
        "hop_ms": paired(operator.sub, pooled, direct),
    }


def render_delivery(contenders: dict[str, str], summary: Figures) -> str:
    rows = []
    for row in summary["delivery"]:
        first = row["contender"] == "a"
        rows.append(
            [
                str(row["clients"]) if first else "",
                f"({row['contender']}) {contenders[row['contender']]}",
                f"{row['delivered']} of {row['expected']}",
                shown(row["p50_ms"]),
                shown(row["p99_ms"]),
                shown(row["p50_ratio"]),
                shown(row.get("addon_ms"), "+.2f", ""),
                shown(row.get("hop_ms"), "+.2f", ""),
            ]
        )
    header = ["clients", "server", "delivered", "p50 ms", "p99 ms", "p50 / (a)"]
    header += ["addon (d-a)", "pooler's hop (c-d)"]
    return (
        "Delivery: ms from the commit of a message to its frame at the client\n\n"
        + table(header, rows, left=2)
        + "\n\nOne websocket's fetch by itself (DISCARD ALL, BEGIN, SELECT, COMMIT):"
        " p50 {direct_ms:.2f} ms direct,\n{pooled_ms:.2f} ms through PgBouncer,"
        " {hop_ms:+.2f} ms. The sender's NOTIFY is four round trips, too.".format(
            **summary["fetch"]
        )
    )


# ----------------------------------------------------------------------
# The loop alone
# ----------------------------------------------------------------------

LISTENING = {
    "p50_us": "round trip p50 µs",
    "p99_us": "round trip p99 µs",
    "drained_per_s": "drained per s",
}


def summarize_listening(turns: list[Figures]) -> Figures:
    raw = {name: column(turns, name, loop="raw") for name in LISTENING}
    ours = {name: column(turns, name, loop="ours") for name in LISTENING}
    return {
        "raw": {name: middle(values) for name, values in raw.items()},
        "ours": {name: middle(values) for name, values in ours.items()},
        "ratio": {
            name: paired(operator.truediv, ours[name], raw[name]) for name in LISTENING
        },
    }


def render_listening(loops: dict[str, str], summary: Figures) -> str:
    rows = [
        [name, *(shown(summary[name][figure], ",.0f") for figure in LISTENING)]
        for name in ("raw", "ours")
    ]
    rows.append(["ratio", *(shown(summary["ratio"][figure]) for figure in LISTENING)])
    return (
        "The listening loop alone, without Odoo\n\n"
        + table(["", *LISTENING.values()], rows)
        + "".join(f"\n{name}: {what}" for name, what in loops.items())
    )


# ----------------------------------------------------------------------
# Memory
# ----------------------------------------------------------------------


def summarize_memory(samples: list[Figures]) -> Figures:
    sizes = column(samples, "rss_bytes")
    return {
        "notifications": samples[-1]["notifications"],
        "first_bytes": sizes[0],
        "last_bytes": sizes[-1],
        "growth_bytes": sizes[-1] - sizes[0],
    }


def render_memory(summary: Figures) -> str:
    first, last, growth = (
        summary[name] / MIB for name in ("first_bytes", "last_bytes", "growth_bytes")
    )
    return (
        f"Memory of a process with our loop over {summary['notifications']:,}"
        f" notifications: {first:.2f} MiB, at the end {last:.2f} MiB,"
        f" growth {growth:+.2f} MiB"
    )


# ----------------------------------------------------------------------
# Catching up
# ----------------------------------------------------------------------


def summarize_catch_up(turns: list[Figures]) -> list[Figures]:
    return [
        {
            "way": way,
            "seconds": middle(column(turns, "seconds", way=way)),
            "queries": middle(column(turns, "queries", way=way)),
        }
        for way in unique(turns, "way")
    ]


def render_catch_up(measured: Figures, summary: list[Figures]) -> str:
    rows = [
        [row["way"], shown(row["seconds"]), shown(row["queries"], ",.0f")]
        for row in summary
    ]
    header = ["", f"s until the {measured['with_mail']} have it", "queries on bus_bus"]
    return (
        f"Catching up: {measured['websockets']:,} websockets, of which"
        f" {measured['with_mail']} have missed a message\n\n" + table(header, rows)
    )
