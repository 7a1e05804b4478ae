"""The picture of growth: what more websockets, databases and instances cost."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .figures import Figures
from .plots import FAINT, OTHER, OURS, STOCK, STYLE, save, title

Line = tuple[list[float], list[float], str]


def plot(results: Figures, folder: Path) -> None:
    """Draw it, if all of its parts were measured."""
    summary = results["summary"]
    if not {"websockets", "databases", "instances"} <= summary.keys():
        return
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(2, 2, figsize=(8, 6))
        by_size = [
            (
                [r["websockets"] for r in summary["websockets"] if r["contender"] == x],
                [r["all"] for r in summary["websockets"] if r["contender"] == x],
                color,
            )
            for x, color in (("a", STOCK), ("c", OURS))
        ]
        draw(
            panels[0][0],
            "ms until 99 % have a message to all",
            "websockets",
            [(x, [y["p99_ms"] for y in ys], color) for x, ys, color in by_size],
        )
        draw(
            panels[0][1],
            "CPU seconds of the evented process\nper 1,000 deliveries",
            "websockets",
            [(x, [y["evented_cpu_s"] for y in ys], color) for x, ys, color in by_size],
            is_log=False,
        )
        databases = summary["databases"]
        counts = [row["databases"] for row in databases]
        draw(
            panels[1][0],
            "server connections of PgBouncer's, idle\nand (grey) in fallback",
            "databases in use",
            [
                (counts, [row["idle"] for row in databases], OURS),
                (counts, [row["fallback"]["held"] for row in databases], OTHER),
            ],
        )
        draw(
            panels[1][1],
            "CPU seconds per hour of one idle instance",
            "instances on one cluster",
            [
                (
                    [r["instances"] for r in summary["instances"] if r["kind"] == kind],
                    [
                        r["instance_cpu_s"]
                        for r in summary["instances"]
                        if r["kind"] == kind
                    ],
                    color,
                )
                for kind, color in (("stock", STOCK), ("ours", OURS))
            ],
            is_log=False,
        )
        title(
            figure,
            "How it grows",
            [("stock Odoo, direct", STOCK), ("this addon, PgBouncer", OURS)],
            "o",
        )
        save(figure, folder / "scale.png", results["websockets"]["machine"])


def draw(
    axes: Axes, what: str, of: str, lines: list[Line], is_log: bool = True
) -> None:
    """Draw lines over a logarithmic number of something, each point with its figure."""
    found = defaultdict(list)
    for xs, ys, _ in lines:
        for x, y in zip(xs, ys, strict=True):
            found[x].append(y)
    # where a figure below its point would be on the axis
    lowest = 0 if is_log else max(map(max, found.values())) / 10
    for xs, ys, color in lines:
        axes.plot(xs, ys, "o-", color=color, markersize=4, linewidth=1.5)
        for x, y in zip(xs, ys, strict=True):
            is_tie = found[x].count(y) > 1 and color != OURS
            is_above = y < lowest or (y == max(found[x]) and not is_tie)
            axes.annotate(
                f"{y:,.3g}" if y < 1000 else f"{y:,.0f}",
                (x, y),
                xytext=(0, 5 if is_above else -10),
                textcoords="offset points",
                ha="center",
                size=7,
                color=color,
            )
    axes.set_xscale("log")
    ticks = sorted({x for xs, _, _ in lines for x in xs})
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.margins(y=0.2)
    if is_log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    else:
        axes.set_ylim(0, 1.2 * max(y for _, ys, _ in lines for y in ys))
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(what, size=9, loc="left")
    axes.set_xlabel(of)
