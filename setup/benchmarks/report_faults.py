"""How late messages are under each fault, as a table."""

from __future__ import annotations

from .figures import Figures
from .tables import shown, table


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
    quiet = faults["without_fault"]
    rows = [["none", "-", shown(quiet["stock"]), shown(quiet["ours"]), "-"]]
    for row in summary:
        given_up = row["stock"] is not None and row["stock"] >= faults["cap"]
        ratio = shown(row["ratio"], ",.0f")
        rows.append(
            [
                row["fault"],
                shown(row["to_reach"]),
                f"> {faults['cap']}" if given_up else shown(row["stock"]),
                shown(row["seconds"]),
                f"> {ratio}" if given_up else ratio,
            ]
        )
    never = quiet["pooled"] >= faults["cap"]
    pooled = "never arrive" if never else f"{quiet['pooled']:.2f} s at the worst"
    notes = [
        "- not measured: stock Odoo has no such part, or not this fault alone",
        f"Stock Odoo through PgBouncer, without a fault: {pooled}",
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
