"""Pictures of what setup/bench has measured, for the README and the addon's page.

They have a white background of their own, since GitHub shows them on a dark one, too.
The colours are of Okabe and Ito's palette, and can be told apart by everyone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from .report import EARLIER

matplotlib.use("agg")

STOCK, OURS, OTHER = "#E69F00", "#0072B2", "#999999"
INK, FAINT = "#222222", "#DDDDDD"

#: Twice as many dots as the page has, for screens that have them.
DPI = 200

#: What the bars of lateness begin with, in seconds; 0 has no place on a log scale.
LEAST = 0.02

#: How far the axis goes beyond the cap: there are the bars without an end.
BEYOND = 4

TICKS = {0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min"}

#: In the words of the README, where the tests' own ones are short.
FAULTS = {
    "frozen": "PostgreSQL's process frozen",
    "half-open": "connection forgotten by a firewall",
    "junk flood": "junk notifications, from any role",
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
    "hatch.linewidth": 0.8,
}


def plot(results: dict[str, Any], folder: Path) -> None:
    """Draw what there are figures of."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = results["summary"]
    with pyplot.rc_context(STYLE):
        if "faults" in summary:
            figure = draw_lateness(summary["faults"], results["faults"]["cap"])
            save(figure, folder / "lateness.png")
        if "comparison" in summary:
            save(draw_connections(summary["comparison"]), folder / "connections.png")


def save(figure: Figure, path: Path) -> None:
    # Without the version and the date, so that the same figures make the same file.
    figure.savefig(path, dpi=DPI, facecolor="white", metadata={"Software": None})
    pyplot.close(figure)


def title(figure: Figure, text: str, keys: list[tuple[str, str]]) -> None:
    """Write the title, and below it in their colours what the bars stand for."""
    figure.suptitle(text, x=0.01, y=0.985, ha="left", va="top", weight="bold", size=11)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=color) for _, color in keys]
    figure.legend(
        handles,
        [name for name, _ in keys],
        loc="upper left",
        bbox_to_anchor=(0.003, 0.985 - 0.25 / figure.get_figheight()),
        ncols=len(keys),
        frameon=False,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.6,
    )


# ----------------------------------------------------------------------
# Lateness
# ----------------------------------------------------------------------


def stock_seconds(row: dict[str, Any]) -> float | None:
    """Return how late stock Odoo is, also by what was measured earlier."""
    earlier = EARLIER.get(row["fault"])
    if row["stock"] is not None or earlier is None:
        return row["stock"]
    return float("inf") if earlier == "for ever" else float(earlier)


def draw_lateness(summary: list[dict[str, Any]], cap: float) -> Figure:
    """Draw the faults that stock Odoo can have as well, the worst on top."""
    rows = [
        (row["fault"], seconds, row["seconds"])
        for row in summary
        if (seconds := stock_seconds(row)) is not None
    ]
    earlier = {row["fault"] for row in summary if row["stock"] is None}
    # Whatever is beyond the cap is equally bad.
    rows.sort(key=lambda row: (min(row[1], cap), row[2]))
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.5 * len(rows)))
    for y, (fault, stock, ours) in enumerate(rows):
        mark = " *" if fault in earlier else ""
        draw_bar(axes, y + 0.2, stock, STOCK, cap, mark)
        draw_bar(axes, y - 0.2, ours, OURS, cap)
    axes.set_xscale("log")
    axes.set_xlim(LEAST, cap * BEYOND)
    axes.xaxis.set_major_locator(FixedLocator(list(TICKS)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(TICKS.values())
    axes.set_ylim(-0.6, len(rows) - 0.4)
    names = [FAULTS.get(fault, fault) for fault, _, _ in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.spines["bottom"].set_visible(False)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    if earlier.intersection(fault for fault, _, _ in rows):
        axes.set_xlabel("* measured before, on another setup", loc="right", size=8)
    title(
        figure,
        "How late live messages are, at the worst (log scale)",
        [("stock Odoo, direct", STOCK), ("this addon, PgBouncer", OURS)],
    )
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.42 / figure.get_figheight()))
    return figure


def draw_bar(
    axes: Axes, y: float, seconds: float, color: str, cap: float, mark: str = ""
) -> None:
    """Draw a bar with its figure, without an end if nobody has waited for that."""
    if seconds < cap:
        axes.barh(y, max(seconds, 1.1 * LEAST) - LEAST, 0.36, LEAST, color=color)
        axes.text(max(seconds, LEAST) * 1.1, y, f"{seconds:.2g} s{mark}", va="center")
        return
    axes.barh(y, cap - LEAST, 0.36, LEAST, color=color)
    axes.barh(
        *(y, cap * (BEYOND * 0.8 - 1), 0.36, cap),
        facecolor="white",
        edgecolor=color,
        hatch="/////",
        linewidth=0,
    )
    axes.plot(cap * BEYOND * 0.86, y, ">", color=color, markersize=8, clip_on=False)
    text = f"still deaf after {cap:.0f} s{mark}"
    axes.text(cap * 0.9, y, text, va="center", ha="right")


# ----------------------------------------------------------------------
# Connections
# ----------------------------------------------------------------------


def draw_connections(summary: list[dict[str, Any]]) -> Figure:
    """Draw a panel for each moment, with the contenders for each number of workers."""
    figure, panels = pyplot.subplots(1, len(MOMENTS), sharey=True, figsize=(8, 3.4))
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
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    title(
        figure,
        "PostgreSQL connections of one instance of Odoo",
        list(CONTENDERS.values()),
    )
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.42 / figure.get_figheight()), w_pad=2)
    return figure
