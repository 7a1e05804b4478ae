"""What is to be reached, and whether it was."""

from __future__ import annotations

import operator
from collections.abc import Callable

from .figures import MIB, Figures, column
from .tables import shown, table

#: The most that the memory may grow. One reference that is kept for each of a million
#: notifications would be 8 MB.
GROWTH = MIB


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
    raw, ours, ratio = (summary["listening"][x] for x in ("raw", "ours", "ratio"))
    hop = (ours["p50_us"] - raw["p50_us"]) / 1000
    growth = summary["memory"]["growth_bytes"] / MIB
    queries = column(summary["catch_up"], "queries")
    at_most, at_least = operator.le, operator.ge
    return [
        target("(c) delivered, of what was sent", delivered, at_least, 1),
        target("(c) / (a) p50 with 10 clients", latency, at_most, 1.1),
        target("our round trip / raw, p50", ratio["p50_us"], at_most, 1.3),
        target("our round trip - raw, p50 ms", hop, at_most, 0.3),
        target("our drain rate, per s", ours["drained_per_s"], at_least, 100_000),
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
