"""What the addon promises on each series of Odoo, as a table."""

from __future__ import annotations

import json

from .figures import Figures, column, middle, paired
from .tables import shown, table

#: Names of the two contenders of `series`.
STOCK, OURS = "series_stock", "series_ours"


def cells(row: Figures) -> list[str]:
    delivered, p50 = (
        [column(row["rounds"], name, contender=each) for each in (OURS, STOCK)]
        for name in ("delivered", "p50_ms")
    )
    late = [row[name] or {} for name in ("killed", "unheard")]
    return [
        f"{row['series']} {row['mode']}",
        # Of the worst round.
        *(f"{min(each):,}" for each in delivered),
        *(shown(middle(each), ".1f") for each in p50),
        shown(paired(lambda ours, stock: ours / stock, *p50)),
        *(shown(each.get("worst_s")) for each in late),
        "/".join(shown(each.get("lost"), "d") for each in late),
        shown(row.get("trigger_s")),
        shown(row.get("trigger_stock_s")),
        "-" if row["pooled_listens"] is None else str(len(row["pooled_listens"])),
        (row["bus_check"] or {}).get("verdict", "-"),
        ", ".join(f"{code} {what}" for code, _, what in row["health"] or []) or "-",
        "-" if row["complaints"] is None else str(len(row["complaints"])),
    ]


HEADER = (
    "Odoo,delivered,stock,p50 ms,stock,ratio,killed s,no LISTEN s,lost,trigger s,stock,"
    "LISTENs,bus_check,health,lines"
).split(",")


def render_series(rows: list[Figures]) -> str:
    """Return the table, with what was not as it should be below it."""
    text = table(HEADER, [cells(row) for row in rows])
    notes = [
        f"{row['series']} {row['mode']}: {note}"
        for row in rows
        for note in (
            *(f"not measured: {name}: {why}" for name, why in row["failed"].items()),
            *(row["complaints"] or []),
            *(row["pooled_listens"] or []),
            *map(json.dumps, (row["bus_check"] or {}).get("not_ok", [])),
        )
    ]
    dates = [row["machine"]["date"] for row in rows]
    machine = "{cpus} CPUs ({cpu}), PostgreSQL {postgresql}, PgBouncer {pgbouncer}"
    notes.append(
        f"{machine.format(**rows[-1]['machine'])}; {min(dates)} to {max(dates)}"
    )
    return "\n".join([text, "", *notes]).rstrip()
