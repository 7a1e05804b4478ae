"""The connections that PostgreSQL has to keep, as tables."""

from __future__ import annotations

import operator

from .figures import Figures, column, middle, paired, unique
from .tables import shown, table

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


def render_sweep(measured: Figures, summary: list[Figures]) -> str:
    rows = [
        [
            measured["titles"][row["contender"]],
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


def render_comparison(measured: Figures, summary: list[Figures]) -> str:
    rows = []
    for row in summary:
        name = row["contender"]
        rows.append(
            [
                str(row["workers"]) if name == "a" else "",
                f"({name}) {measured['titles'][name]}",
                *kept_cells(row),
            ]
        )
    header = ["workers", "server", *KEPT, "p50 / (a)"]
    return (
        "Connections kept by PostgreSQL, by workers: PgBouncer as in"
        " setup/pgbouncer.ini\n\n" + table(header, rows, left=2)
    )


def render_reload(_measured: Figures, turns: list[Figures]) -> str:
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


def render_tenants(_measured: Figures, ways: list[Figures]) -> str:
    rows = []
    for way in ways:
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
        for x in ways
    )
    header = ["", "role", "cap", "most connections", "requests failed", "live messages"]
    return (
        "Two instances at once, each with more workers and clients than its cap\n\n"
        f"{table(header, rows, left=2)}\n"
        "* max_connections, of which superusers have 3, and ours takes one\n"
        f"Connections refused by PostgreSQL: {refusals}"
    )
