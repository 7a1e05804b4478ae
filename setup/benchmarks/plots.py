"""Pictures of what setup/bench has measured, for the docs.

They have a white background of their own, since GitHub shows them on a dark one, too.
The colours are of Okabe and Ito's palette, and can be told apart by everyone. Each
picture says below when and on what it was measured, all of it in one run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

matplotlib.use("agg")

STOCK, OURS, OTHER = "#E69F00", "#0072B2", "#999999"
INK, FAINT = "#222222", "#DDDDDD"

#: Twice as many dots as the page has, for screens that have them.
DPI = 200

#: Where the axis of lateness begins, in seconds, and how far it goes beyond the cap:
#: there is what never came.
LEAST, BEYOND = 0.005, 6

TICKS = {0.01: "10 ms", 0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min"}

#: In the words of the docs, where the tests' own ones are short. What is not here and
#: was not measured with stock Odoo is in the table alone.
FAULTS = {
    "frozen": "PostgreSQL's process frozen",
    "half-open": "connection forgotten by a firewall",
    "junk flood": "junk notifications, from any role",
    "failover": "failover to a standby",
    "packets dropped": "packets dropped",
    "PgBouncer restart": "PgBouncer restart",
}

CONTENDERS = {
    "a": ("stock Odoo, direct", STOCK),
    "c": ("stock Odoo, PgBouncer, postgres in session mode", OTHER),
    "b": ("this addon, PgBouncer", OURS),
}

MOMENTS = {
    "before": "quiet, all workers have served",
    "most": "most in a burst of 20 clients",
    "after": "60 s after the bursts",
}

STYLE = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def plot(results: dict[str, Any], folder: Path) -> None:
    """Draw what there are figures of."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = results["summary"]
    with pyplot.rc_context(STYLE):
        if "faults" in summary:
            figure = draw_lateness(results["faults"], summary["faults"])
            save(figure, folder / "lateness.png", results["faults"]["machine"])
        if "comparison" in summary:
            figure = draw_connections(summary["comparison"])
            save(figure, folder / "connections.png", results["connections"]["machine"])


def save(figure: Figure, path: Path, machine: dict[str, Any]) -> None:
    """Write below what it was measured on, and save it."""
    text = (
        "{cpus} CPUs ({cpu}), Odoo {odoo}, PostgreSQL {postgresql}, PgBouncer"
        " {pgbouncer}; {date:.10}"
    ).format(**machine)
    bottom = 0.06 / figure.get_figheight()
    figure.text(0.99, bottom, text, ha="right", va="bottom", size=6.5, color="#666666")
    height = figure.get_figheight()
    figure.tight_layout(rect=(0, 0.2 / height, 1, 1 - 0.42 / height), w_pad=2)
    # Without the version and the date, so that the same figures make the same file.
    figure.savefig(path, dpi=DPI, facecolor="white", metadata={"Software": None})
    pyplot.close(figure)


def title(figure: Figure, text: str, keys: list[tuple[str, str]], marker: str) -> None:
    """Write the title, and below it in their colours what the marks stand for."""
    figure.suptitle(text, x=0.01, y=0.985, ha="left", va="top", weight="bold", size=11)
    handles = [
        pyplot.Line2D([], [], linestyle="", marker=marker, markersize=7, color=color)
        for _, color in keys
    ]
    figure.legend(
        handles,
        [name for name, _ in keys],
        loc="upper left",
        bbox_to_anchor=(0.003, 0.985 - 0.25 / figure.get_figheight()),
        ncols=len(keys),
        frameon=False,
        handlelength=0.9,
        columnspacing=1.6,
    )


# ----------------------------------------------------------------------
# Lateness
# ----------------------------------------------------------------------


def lateness_rows(
    faults: dict[str, Any], summary: list[dict[str, Any]]
) -> list[tuple[str, float | None, float | None]]:
    """Return for each row its name and the seconds of stock Odoo and of ours."""
    cap, quiet = faults["cap"], faults["without_fault"]
    rows = [
        (FAULTS.get(row["fault"], row["fault"]), row["stock"], row["seconds"])
        for row in summary
        if row["stock"] is not None or row["fault"] in FAULTS
    ]
    # The worst on top; whatever is beyond the cap is equally bad.
    rows.sort(key=lambda row: (min(row[1] or 0, cap), row[2]))
    return [
        ("no fault", quiet["stock"], quiet["ours"]),
        *rows,
        ("no fault: stock Odoo through PgBouncer", quiet["pooled"], None),
    ]


def draw_lateness(faults: dict[str, Any], summary: list[dict[str, Any]]) -> Figure:
    """Draw a dot for each fault and contender."""
    rows, cap = lateness_rows(faults, summary), faults["cap"]
    figure, axes = pyplot.subplots(figsize=(8, 1.4 + 0.32 * len(rows)))
    axes.axvspan(cap, cap * BEYOND, color="#F4F4F4", zorder=0)
    for y, (_, *pair) in enumerate(rows):
        draw_pair(axes, y, pair, cap)
    axes.set_xscale("log")
    axes.set_xlim(LEAST, cap * BEYOND)
    axes.xaxis.set_major_locator(FixedLocator(list(TICKS)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(TICKS.values())
    axes.set_xlabel("from the commit of a message to the slowest of 3 browsers")
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    title(
        figure,
        "How late live messages are, at the worst (log scale)",
        [("stock Odoo, direct unless it says otherwise", STOCK), CONTENDERS["b"]],
        "o",
    )
    return figure


def draw_pair(axes: Axes, y: int, pair: list[float | None], cap: float) -> None:
    """Draw stock Odoo's dot and ours, each with its figure, that of the later right."""
    drawn = [
        (seconds, color)
        for seconds, color in zip(pair, (STOCK, OURS), strict=True)
        if seconds is not None
    ]
    latest = max(seconds for seconds, _ in drawn)
    is_latest_drawn = False
    for seconds, color in drawn:
        if seconds >= cap:
            axes.plot(cap * 1.25, y, ">", color=color, markersize=7)
            text = "never" if pair[1] is None else f"not in {cap:.0f} s"
            axes.text(cap * 1.6, y, text, va="center", size=8)
            continue
        place = max(seconds, LEAST * 1.1)
        axes.plot(place, y, "o", color=color, markersize=7)
        # Two dots at one place must not have their figures at one place.
        is_right = seconds == latest and not is_latest_drawn
        is_latest_drawn |= is_right
        axes.annotate(
            f"{seconds:.2g} s",
            (place, y),
            xytext=(7 if is_right else -7, 0),
            textcoords="offset points",
            ha="left" if is_right else "right",
            va="center",
            size=8,
        )


# ----------------------------------------------------------------------
# Connections
# ----------------------------------------------------------------------


def draw_connections(summary: list[dict[str, Any]]) -> Figure:
    """Draw a panel for each moment, with the contenders for each number of workers."""
    figure, panels = pyplot.subplots(1, len(MOMENTS), sharey=True, figsize=(8, 3.6))
    workers = list(dict.fromkeys(row["workers"] for row in summary))
    width = 0.8 / len(CONTENDERS)
    for axes, (moment, what) in zip(panels, MOMENTS.items(), strict=True):
        for i, (name, (_, color)) in enumerate(CONTENDERS.items()):
            counts = [row[moment] for row in summary if row["contender"] == name]
            places = [x + (i - 1) * width for x in range(len(workers))]
            bars = axes.bar(places, counts, width * 0.92, color=color)
            axes.bar_label(bars, padding=1.5, size=8)
        axes.set_title(what, size=9, loc="left", pad=10)
        axes.set_xticks(range(len(workers)), [str(each) for each in workers])
        axes.set_xlabel("HTTP workers")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("connections")
    title(
        figure,
        "PostgreSQL connections of one instance of Odoo",
        list(CONTENDERS.values()),
        "s",
    )
    return figure
