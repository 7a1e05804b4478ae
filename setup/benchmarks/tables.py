"""Layout of tables, for a terminal."""

from __future__ import annotations

from .figures import Figures


def shown(value: float | None, pattern: str = ".2f", nothing: str = "-") -> str:
    return nothing if value is None else format(value, pattern)


def describe(machine: Figures) -> str:
    """Say when and on what something was measured."""
    return (
        "{cpus} CPUs ({cpu}), load average {load_average} at the start; {date}\n"
        "Odoo {odoo}, PostgreSQL {postgresql}, PgBouncer {pgbouncer}, Python {python},"
        " psycopg2 {psycopg2}, libpq {libpq}"
    ).format(**machine)


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
