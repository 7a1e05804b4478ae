"""Medians, ratios and targets out of the rounds' figures, as tables.

Each figure is the median of the rounds. A ratio or a difference is that of each round
first, and then the median of these, so that a slow round is slow for both sides.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

MIB = 2**20

#: The most that the memory may grow. One reference that is kept for each of a million
#: notifications would be 8 MB.
GROWTH = MIB

Figures = dict[str, Any]


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
    machine = (
        "{cpus} CPUs ({cpu}), load average {load_average} at the start; {date}\n"
        "Odoo {odoo}, PostgreSQL {postgresql}, PgBouncer {pgbouncer}, Python {python},"
        " psycopg2 {psycopg2}, libpq {libpq}"
    ).format(**results["machine"])
    parts = [machine]
    if "delivery" in results:
        parts += [
            render_delivery(results["delivery"]["contenders"], summary),
            render_listening(results["listening"]["loops"], summary["listening"]),
            render_memory(summary["memory"]),
            render_catch_up(results["catch_up"], summary["catch_up"]),
        ]
    if "connections" in results:
        titles = results["connections"]["titles"]
        parts += [
            render_sweep(titles, summary["sweep"]),
            render_comparison(titles, summary["comparison"]),
            render_reload(summary["reload"]),
            render_tenants(summary["tenants"]),
        ]
    if "faults" in results:
        parts.append(render_faults(results["faults"], summary["faults"]))
    return "\n\n".join([*parts, render_targets(summary["targets"])])


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


# ----------------------------------------------------------------------
# Connections
# ----------------------------------------------------------------------

WITHOUT_POOLER = {
    "default_pool_size": None,
    "reserve_pool_size": None,
    "min_pool_size": None,
    "server_idle_timeout": None,
}


def summarize_connections(measured: Figures) -> list[Figures]:
    """Return a row for each number of workers and contender."""
    rows = []
    for rest in measured["rests"]:
        of_workers = [
            turn for turn in measured["turns"] if turn["workers"] == rest["workers"]
        ]
        mine = [x for x in of_workers if x["contender"] == rest["contender"]]
        p50 = {
            name: column(of_workers, "p50_ms", contender=name)
            for name in unique(of_workers, "contender")
        }
        row = {
            **rest,
            "most": max(column(mine, "most")),
            "requests": sum(column(mine, "requests")),
            "failed": sum(column(mine, "failed")),
            **{x: middle(column(mine, x)) for x in ("p50_ms", "p99_ms", "per_s")},
        }
        for ratio, base in (("p50_ratio", "a"), ("default_ratio", "default")):
            if base in p50:
                row[ratio] = paired(operator.truediv, p50[rest["contender"]], p50[base])
        rows.append(row)
    return rows


def settings_cells(settings: Figures | None) -> list[str]:
    return [
        shown((settings or WITHOUT_POOLER)[name], "g", "-") for name in WITHOUT_POOLER
    ]


def kept_cells(row: Figures) -> list[str]:
    """Return what is said of a contender's connections and requests."""
    return [
        *(str(row[name]) for name in ("before", "most", "after")),
        shown(row["p50_ms"], ".0f"),
        shown(row["p99_ms"], ".0f"),
        shown(row["per_s"], ".0f"),
        f"{row['failed']} of {row['requests'] + row['failed']}",
        shown(row["p50_ratio"]),
    ]


KEPT = ["before", "most", "after 60 s", "p50 ms", "p99 ms", "per s", "failed"]


def render_sweep(titles: dict[str, str], summary: list[Figures]) -> str:
    rows = [
        [
            titles[row["contender"]],
            *settings_cells(row["settings"]),
            *kept_cells(row),
            shown(row["default_ratio"]),
        ]
        for row in summary
    ]
    header = ["PgBouncer", "pool", "reserve", "min", "idle s", *KEPT]
    return (
        "Connections kept by PostgreSQL, by PgBouncer's settings:"
        f" {summary[0]['workers']} workers, bursts of 20 clients\n\n"
        + table([*header, "p50 / (a)", "p50 / default"], rows)
    )


def render_comparison(titles: dict[str, str], summary: list[Figures]) -> str:
    rows = []
    for row in summary:
        name = row["contender"]
        rows.append(
            [
                str(row["workers"]) if name == "a" else "",
                f"({name}) {titles[name]}",
                *kept_cells(row),
            ]
        )
    header = ["workers", "server", *KEPT, "p50 / (a)"]
    return (
        "Connections kept by PostgreSQL, by workers: PgBouncer as in"
        " setup/pgbouncer.ini\n\n" + table(header, rows, left=2)
    )


def render_reload(turns: list[Figures]) -> str:
    rows = [
        [
            turn["title"],
            *settings_cells(turn["settings"]),
            f"{turn['failed']} of {turn['requests'] + turn['failed']}",
            shown(turn["worst_ms"] and turn["worst_ms"] / 1000, ".1f"),
            str(turn["most"]),
        ]
        for turn in turns
    ]
    header = ["", "pool", "reserve", "min", "idle s"]
    header += ["failed", "slowest s", "connections"]
    return (
        "Requests while all workers load the registry, as after a module's update\n\n"
        + table(header, rows)
    )


def render_tenants(measured: list[Figures]) -> str:
    rows = []
    for way in measured:
        name = "stock, direct" if way["direct"] else "addon, capped"
        for tenant in way["tenants"]:
            rows.append(
                [
                    name,
                    tenant["role"],
                    "-" if way["direct"] else str(tenant["cap"]),
                    str(tenant["most"]),
                    f"{tenant['failed']} of {tenant['requests'] + tenant['failed']}",
                    f"{tenant['delivered']} of {tenant['posted']}",
                ]
            )
            name = ""
        if not way["direct"]:
            rows.append(["", "odoo_listen", "-", str(way["listening"]), "", ""])
        limit = f"{way['max_connections']} *"
        rows.append(["", "all", limit, str(way["most"]), "", ""])
    refusals = ", ".join(
        f"{x['refusals']} {'stock, direct' if x['direct'] else 'addon, capped'}"
        for x in measured
    )
    header = ["", "role", "cap", "most connections", "requests failed", "live messages"]
    return (
        "Two instances at once, each with more workers and clients than its cap\n\n"
        f"{table(header, rows, left=2)}\n"
        "* max_connections, of which superusers have 3, and ours takes one\n"
        f"Connections refused by PostgreSQL: {refusals}"
    )


# ----------------------------------------------------------------------
# Faults
# ----------------------------------------------------------------------

#: Worst lateness of stock Odoo that was measured before this project, on setups that
#: setup/bench does not make.
EARLIER = {
    "listening host refuses for 20 s": "49",
    "packets dropped": "for ever",
    "failover": "44",
}


def summarize_faults(faults: Figures) -> list[Figures]:
    """Return a row for each fault; stock's part is None where it was not measured."""
    stock = {row["fault"]: row["seconds"] for row in faults["stock"] if "fault" in row}
    return [
        {
            **row,
            "stock": stock.get(row["fault"]),
            "ratio": stock[row["fault"]] / row["seconds"]
            if row["fault"] in stock and row["seconds"]
            else None,
        }
        for row in faults["ours"]
    ]


def render_faults(faults: Figures, summary: list[Figures]) -> str:
    rows = []
    for row in summary:
        given_up = row["stock"] is not None and row["stock"] >= faults["cap"]
        earlier = EARLIER.get(row["fault"])
        stock = f"> {faults['cap']}" if given_up else shown(row["stock"])
        if row["stock"] is None and earlier:
            stock = f"{earlier} *"
        ratio = shown(row["ratio"], ",.0f")
        rows.append(
            [
                row["fault"],
                shown(row["to_reach"]),
                stock,
                shown(row["seconds"]),
                f"> {ratio}" if given_up else ratio,
            ]
        )
    notes = [
        "* measured before this project, and not in this run",
        "- stock Odoo has no such part, or cannot have this fault alone",
    ]
    notes += [f"FAILED: {name}, ours" for name in faults["failed"]]
    notes += [
        f"FAILED: {row['scenario']}, stock: {row['failed']}"
        for row in faults["stock"]
        if "failed" in row
    ]
    header = ["fault", "to reach", "stock, direct", "ours, PgBouncer", "stock / ours"]
    return (
        "Faults: worst lateness, s from the commit to the slowest of 3 websockets\n\n"
        + "\n".join([table(header, rows), *notes])
    )


# ----------------------------------------------------------------------
# Targets
# ----------------------------------------------------------------------


def targets(summary: Figures) -> list[Figures]:
    found = delivery_targets(summary) if "delivery" in summary else []
    if "comparison" in summary:
        found += connections_targets(summary)
    if "faults" in summary:
        worst = [row["seconds"] / row["to_reach"] for row in summary["faults"]]
        name = "worst lateness / to reach, of any fault"
        found.append(target(name, max(worst, default=None), operator.le, 1))
    return found


def delivery_targets(summary: Figures) -> list[Figures]:
    with_addon = [row for row in summary["delivery"] if row["contender"] == "c"]
    delivered = sum(column(with_addon, "delivered"))
    delivered /= sum(column(with_addon, "expected"))
    [latency] = column(with_addon, "p50_ratio", clients=10)
    ratio = summary["listening"]["ratio"]
    growth = summary["memory"]["growth_bytes"] / MIB
    queries = column(summary["catch_up"], "queries")
    at_most, at_least = operator.le, operator.ge
    return [
        target("(c) delivered, of what was sent", delivered, at_least, 1),
        target("(c) / (a) p50 with 10 clients", latency, at_most, 1.2),
        target("our round trip / raw, p50", ratio["p50_us"], at_most, 1.3),
        target("our drain rate / raw", ratio["drained_per_s"], at_least, 0.5),
        target("growth in memory, MiB", growth, at_most, GROWTH / MIB),
        target(
            "queries to catch up / to wake all", queries[0] / queries[1], at_most, 0.1
        ),
    ]


def connections_targets(summary: Figures) -> list[Figures]:
    workers = max(column(summary["comparison"], "workers"))
    direct, ours = (
        next(
            row
            for row in summary["comparison"]
            if row["workers"] == workers and row["contender"] == name
        )
        for name in ("a", "b")
    )
    of = f"with {workers} workers"
    [reload] = column(summary["reload"], "failed", contender="b")
    [capped] = [way for way in summary["tenants"] if not way["direct"]]
    share = max(tenant["most"] / tenant["cap"] for tenant in capped["tenants"])
    live = min(
        tenant["delivered"] / max(1, tenant["posted"]) for tenant in capped["tenants"]
    )
    at_most, at_least = operator.le, operator.ge
    return [
        target(
            f"(b) / (a) connections 60 s after bursts, {of}",
            ours["after"] / direct["after"],
            at_most,
            0.5,
        ),
        target(
            f"(b) / (a) most connections in a burst, {of}",
            ours["most"] / direct["most"],
            at_most,
            0.75,
        ),
        target(f"(b) / (a) p50 of requests, {of}", ours["p50_ratio"], at_most, 1.3),
        target("(b) failed while all load the registry", reload, at_most, 0),
        target("capped instances: connections / cap", share, at_most, 1),
        target("capped instances: refusals", capped["refusals"], at_most, 0),
        target("capped instances: live messages", live, at_least, 1),
    ]


def target(
    name: str, value: float | None, compare: Callable[..., bool], limit: float
) -> Figures:
    return {
        "name": name,
        "value": value,
        "bound": "at most" if compare is operator.le else "at least",
        "limit": limit,
        "met": value is not None and compare(value, limit),
    }


def render_targets(found: list[Figures]) -> str:
    rows = [
        [
            each["name"],
            shown(each["value"]),
            f"{each['bound']} {each['limit']:g}",
            "ok" if each["met"] else "missed",
        ]
        for each in found
    ]
    return table(["target", "measured", "wanted", ""], rows)


# ----------------------------------------------------------------------
# Arithmetic and layout
# ----------------------------------------------------------------------


def column(rows: list[Figures], name: str, **only: object) -> list:
    """Return a column of those rows that have the values of `only`."""
    return [row[name] for row in rows if only.items() <= row.items()]


def unique(rows: list[Figures], name: str) -> list:
    return list(dict.fromkeys(column(rows, name)))


def middle(values: Sequence[float | None]) -> float | None:
    """Return the median of what is there, None of nothing."""
    present = [value for value in values if value is not None]
    return median(present) if present else None


def paired(
    combine: Callable[[float, float], float],
    first: Sequence[float | None],
    second: Sequence[float | None],
) -> float | None:
    """Return the median over the rounds of what each round's two figures make."""
    return middle(
        [
            None if one is None or other is None else combine(one, other)
            for one, other in zip(first, second, strict=True)
        ]
    )


def shown(value: float | None, pattern: str = ".2f", nothing: str = "-") -> str:
    return nothing if value is None else format(value, pattern)


def table(header: list[str], rows: list[list[str]], left: int = 1) -> str:
    """Lay out a table; so many columns stand to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
