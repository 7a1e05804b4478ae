"""Tables of growth, and what is to be reached."""

from __future__ import annotations

import operator
from collections.abc import Callable

from .figures import Figures, column, middle, paired, unique
from .tables import describe, shown, table
from .targets import render_targets, target

#: Up to so many websockets the latency has a target.
COMPARED_UP_TO = 1000

STOCK, OURS = "a", "c"


def summarize(results: Figures) -> Figures:
    """Return the rows of the tables and the targets, of the parts that there are."""
    rows = {
        name: summarize_websockets(measured)
        if "turns" in measured
        else measured["rows"]
        for name, measured in results.items()
        if name in TABLES
    }
    return {**rows, "targets": targets(rows)}


def render(results: Figures) -> str:
    summary = results["summary"]
    parts = []
    for name, (_, renderer) in TABLES.items():
        if name in results:
            parts += [
                renderer(results[name], summary[name]),
                describe(results[name]["machine"]),
            ]
    return "\n\n".join([*parts, render_targets(summary["targets"])])


def targets(rows: Figures) -> list[Figures]:
    found = []
    for what in ("one", "all") if "websockets" in rows else ():
        ratios = [
            row[what]["p99_ratio"]
            for row in rows["websockets"]
            if row["contender"] == OURS and row["websockets"] <= COMPARED_UP_TO
        ]
        name = f"to {what}, p99 ours / stock, worst up to {COMPARED_UP_TO:,} websockets"
        found.append(target(name, most(ratios), operator.le, 1.5))
    if "databases" in rows:
        idle = most(column(rows["databases"], "idle"))
        name = "server connections held, any number of databases"
        found.append(target(name, idle, operator.le, 12))
        late = most(
            [
                row[way]["worst_s"]
                for row in rows["databases"]
                for way in ("fallback", "capped")
                if way in row
            ]
        )
        name = "worst lateness in fallback, s"
        found.append(target(name, late, operator.le, 5))
    if "instances" in rows:
        ours = column(rows["instances"], "instance_cpu_s", kind="ours")
        name = "an idle instance, CPU s per hour"
        found.append(target(name, most(ours), operator.le, 5))
    return found


def most(values: list[float | None]) -> float | None:
    """Return the greatest, None if one is missing."""
    return None if None in values else max(values, default=None)


# ----------------------------------------------------------------------
# Websockets
# ----------------------------------------------------------------------


def summarize_websockets(measured: Figures) -> list[Figures]:
    """Return a row for each number of websockets and contender."""
    rows = []
    for size in unique(measured["turns"], "websockets"):
        turns = [turn for turn in measured["turns"] if turn["websockets"] == size]
        for name in unique(turns, "contender"):
            row: Figures = {"websockets": size, "contender": name}
            for what in ("one", "one_asleep", "all"):
                mine, stock = (
                    [turn[what] for turn in turns if turn["contender"] == each]
                    for each in (name, STOCK)
                )
                row[what] = {
                    "expected": sum(column(mine, "expected")),
                    "delivered": sum(column(mine, "delivered")),
                    **{
                        figure: middle(column(mine, figure))
                        for figure in (
                            "p50_ms",
                            "p99_ms",
                            "evented_cpu_s",
                            "clients_cpu_s",
                        )
                    },
                    "p99_ratio": paired(
                        operator.truediv,
                        column(mine, "p99_ms"),
                        column(stock, "p99_ms"),
                    ),
                }
            row["mib"] = middle(column(turns, "mib", contender=name))
            rows.append(row)
    return rows


def render_websockets(measured: Figures, rows: list[Figures]) -> str:
    lines = []
    for row in rows:
        one, asleep, all_ = row["one"], row["one_asleep"], row["all"]
        sent = one, asleep, all_
        lost = sum(each["expected"] - each["delivered"] for each in sent)
        lines.append(
            [
                f"{row['websockets']:,}" if row["contender"] == STOCK else "",
                measured["contenders"][row["contender"]],
                shown(one["p50_ms"], ".1f"),
                shown(one["p99_ms"], ".1f"),
                shown(one["p99_ratio"]),
                shown(asleep["p99_ms"], ".1f"),
                shown(asleep["p99_ratio"]),
                shown(all_["p50_ms"], ",.0f"),
                shown(all_["p99_ms"], ",.0f"),
                shown(all_["p99_ratio"]),
                str(lost),
                shown(all_["evented_cpu_s"]),
                shown(all_["clients_cpu_s"]),
                shown(row["mib"], ",.0f"),
            ]
        )
    header = ["websockets", "server", "one: p50 ms", "p99", "/ stock"]
    header += ["asleep: p99", "/ stock", "all: p50 ms", "p99", "/ stock", "lost"]
    header += ["CPU s / 1,000", "of clients", "MiB"]
    closed = [
        f"With {row['websockets']:,} websockets on each server, {row['closed']} were"
        " closed by Odoo, on all servers together."
        for row in measured["opened"]
        if row["closed"]
    ]
    return "\n".join(
        [
            "A message to one of so many websockets, and one to all: ms from its commit"
            " to each client.\nCPU seconds of the evented process per 1,000 deliveries"
            " of the latter, and those of the clients.\nThe CPUs "
            + ("were" if all(column(measured["turns"], "awake")) else "could not be")
            + ' kept awake, but for the columns "asleep"',
            "",
            table(header, lines, left=2),
            *closed,
            *(f"Not measured: {why}" for why in measured["skipped"]),
        ]
    )


# ----------------------------------------------------------------------
# Databases
# ----------------------------------------------------------------------


def render_databases(measured: Figures, rows: list[Figures]) -> str:
    header = ["databases", "connections, idle", "in fallback"]
    header += ["late by, p50 s", "worst s", "lost"]
    header += [f"at most {measured['cap']}: p50 s", "worst s", "lost"]
    lines = []
    for row in rows:
        line = [str(row["databases"]), str(row["idle"]), str(row["fallback"]["held"])]
        for found in (row["fallback"], row.get("capped")):
            line += (
                [
                    shown(found["p50_s"]),
                    shown(found["worst_s"]),
                    str(found["sent"] - found["delivered"]),
                ]
                if found
                else [""] * 3
            )
        lines.append(line)
    return (
        "One instance with so many databases in use: the most server connections of"
        " PgBouncer's\nwhile NOTIFY arrives (with"
        f" intervals of 1/{measured['speed']}), and when it does not; then also"
        f" with\nmax_user_connections = {measured['cap']} in PgBouncer\n\n"
        + table(header, lines)
    )


# ----------------------------------------------------------------------
# Instances
# ----------------------------------------------------------------------


def render_instances(measured: Figures, rows: list[Figures]) -> str:
    header = ["instances", "listeners", "NOTIFYs", "queries", "wake-ups", "CPU s"]
    header += ["PostgreSQL: wake-ups", "CPU s", "PgBouncer: CPU s"]
    lines = [
        [
            str(row["instances"]),
            row["kind"],
            shown(row["notifies_per_h"], ",.0f"),
            shown(row["queries_per_h"], ",.0f"),
            shown(row["instance_wake_ups"], ",.0f"),
            shown(row["instance_cpu_s"]),
            shown(row["postgresql_wake_ups"], ",.0f"),
            shown(row["postgresql_cpu_s"], ",.1f"),
            shown(row["pgbouncer_cpu_s"], ",.1f"),
        ]
        for row in rows
    ]
    return (
        "Idle instances on one cluster, an hour: NOTIFYs and queries of all of them;"
        " wake-ups and CPU\nseconds of one. Beside them, ours reads each table"
        f" {measured['readings_per_h']:.0f} times an hour\n\n"
        + table(header, lines, left=2)
    )


# ----------------------------------------------------------------------
# An idle server
# ----------------------------------------------------------------------


def render_idle(measured: Figures, rows: list[Figures]) -> str:
    kinds = list(rows[0]["processes"])
    header = ["", "connections", "queries / h"]
    header += [f"{kind}: CPU s / h" for kind in kinds]
    header += [f"{kind}: MiB" for kind in kinds]
    lines = [
        [
            row["title"],
            str(row["connections"]),
            shown(row["queries_per_h"], ",.0f"),
            *(shown(row["processes"][kind]["cpu_s"], ",.1f") for kind in kinds),
            *(shown(row["processes"][kind]["mib"], ",.0f") for kind in kinds),
        ]
        for row in rows
    ]
    # Each figure is a line: there are few servers and many figures.
    turned = [list(line) for line in zip(header, *lines, strict=True)]
    return "One idle server with 2 HTTP workers and one websocket\n\n" + table(
        turned[0], turned[1:]
    )


#: The tables: the part of which each is, and what renders it.
TABLES: dict[str, tuple[str, Callable[[Figures, list[Figures]], str]]] = {
    "idle": ("idle", render_idle),
    "websockets": ("websockets", render_websockets),
    "databases": ("databases", render_databases),
    "instances": ("instances", render_instances),
}
