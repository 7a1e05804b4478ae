"""What the tests of `setup/test --infrastructure` have measured, for docs/."""

from __future__ import annotations

import datetime
import json
import os
import platform
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from basics import ROOT
from benchmarks.machine import cpu
from engines import Engines
from provision import Environment

JSON = ROOT / "docs" / "figures" / "infrastructure.json"
PAGE = ROOT / "docs" / "infrastructure.rst"

PROPERTY = "figure"
"""By what name a test adds a row (JSON) to its report."""

HEADER = """\
What people run around Odoo
===========================

Measured by ``setup/test --infrastructure --record``, which writes this page and
``figures/infrastructure.json``, on {machine[cpus]} CPUs ({machine[cpu]}) with Odoo
{machine[odoo]}. Each row was measured on its day, with the load that the machine had;
both are in the JSON.

{versions}.

Every message of every row has arrived. *Late* is the worst message, from its commit to
the slowest browser whose websocket stayed open (of a scheduled action: from its trigger
to its run), less the time for which a pooler was stopped; *to reach* is what the test
asks for; *lines* are what the addon has logged about the fault, of which the last, if
there are any, says that all is well again. *Stock Odoo* stood at HAProxy, without
PgBouncer.

"""


def record(environment: Environment, report: Path) -> None:
    """Write what a report of pytest's holds to docs/; rows of other tests are kept."""
    data = json.loads(JSON.read_text()) if JSON.exists() else {}
    rows = {(row["engine"], row["what"]): row for row in data.get("figures", [])}
    measured_at = {
        "date": datetime.date.today().isoformat(),
        "load_average": round(os.getloadavg()[0], 1),
    }
    not_run = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        skipped = case.find("skipped")
        if skipped is not None:
            reason = skipped.get("message", "").removeprefix("Skipped: ")
            not_run.append({"test": case.get("name"), "reason": reason})
        for found in case.iter("property"):
            if found.get("name") == PROPERTY and case.find("failure") is None:
                row = json.loads(found.get("value"))
                rows[row["engine"], row["what"]] = row | measured_at
    data = {
        "machine": {
            "system": platform.platform(),
            "cpu": cpu(),
            "cpus": os.cpu_count(),
            "odoo": environment.series.name,
            "versions": Engines(environment).versions(),
        },
        "figures": [rows[key] for key in sorted(rows)],
        "not_run": not_run,
    }
    JSON.parent.mkdir(exist_ok=True, parents=True)
    JSON.write_text(json.dumps(data, indent=1) + "\n")
    PAGE.write_text(render(data))


def render(data: dict[str, Any]) -> str:
    """The page, whole."""
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "",
        *_row("Engine", "What", "Late, s", "To reach, s", "Stock Odoo, s", "Lines"),
    ]
    for row in data["figures"]:
        lines += _row(
            row["engine"],
            row["what"],
            "none stayed open" if row["seconds"] is None else f"{row['seconds']:.2f}",
            f"{row['to_reach']:g}" if "to_reach" in row else "",
            row.get("stock", ""),
            row.get("lines", ""),
        )
    found = data["machine"]["versions"]
    versions = ", ".join(f"{name} {number}" for name, number in found.items())
    text = HEADER.format(versions=versions, **data) + "\n".join(lines) + "\n"
    if data["not_run"]:
        text += "\nNot run:\n\n"
        for each in data["not_run"]:
            text += f"- {each['test']}: {each['reason']}\n"
    return text


def _row(*cells: object) -> list[str]:
    return [
        f"   {'*' if index == 0 else ' '} - {cell}".rstrip()
        for index, cell in enumerate(cells)
    ]
