"""``odoo bus_check``: see :mod:`..check`, which it prints.

Odoo 19.0 loads this file by itself, without its package, and before it has read the
configuration. Hence the late and absolute imports.
"""

import argparse
import configparser
import json
import shutil
import sys
import textwrap
import traceback

from odoo.cli import Command

#: Columns of the text, at least, however narrow the terminal.
NARROWEST = 60


class Bus_Check(Command):  # 14.0 and 15.0 name the command after the class
    """Check that live messages will flow through PgBouncer"""

    name = "bus_check"

    def run(self, args):
        parser = argparse.ArgumentParser(
            prog="odoo bus_check",
            description=self.__doc__ + ". Nothing is written to any database.",
            epilog="All other options are those of the server: give the same, above all"
            " -c. Exit status: 0 if all is OK, 1 with a WARNING, 2 if anything FAILED.",
            allow_abbrev=False,
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        arguments, server_arguments = parser.parse_known_args(args)

        # advice has an arrow, and messages of PostgreSQL may have anything in them
        sys.stdout.reconfigure(errors="backslashreplace")
        try:
            from odoo.addons.bus_alt_connection import series

            series.parse_config(server_arguments)
        except (configparser.Error, ValueError) as error:
            sys.exit(fail(describe(error)))
        try:
            from odoo.addons.bus_alt_connection import check

            lines = check.check()
        except Exception as error:
            # without its message, which may quote a connection string
            frames = "".join(traceback.format_tb(error.__traceback__))
            sys.exit(fail(f"{frames}FAILED  {type(error).__name__}"))
        status = check.worst(lines)
        text = as_json(status, lines) if arguments.json else as_text(status, lines)
        sys.stdout.write(text + "\n")
        sys.exit(check.STATUSES.index(status))


def fail(message):
    """Print why nothing could be checked; return the exit status.

    Python's own would be 1, that of a WARNING.
    """
    sys.stderr.write(message + "\n")
    return 2


def describe(error):
    """Say why Odoo cannot read its configuration.

    Without quoting a line of odoo.conf, which may be one with a password.
    """
    text = str(error)
    if isinstance(error, configparser.ParsingError):
        numbers = [n for n, _line in getattr(error, "errors", ())] or [error.lineno]
        text = f"line {', '.join(map(str, numbers))} is not an option"
    return f"FAILED  Odoo cannot read its configuration: {text}"


def as_json(status, lines):
    """Return the lines for programs."""
    return json.dumps(
        {"status": status, "checks": [line._asdict() for line in lines]}, indent=2
    )


def as_text(status, lines):
    """Return the lines as a table as wide as the terminal."""
    columns = max(shutil.get_terminal_size().columns, NARROWEST)
    names = max(len(line.name) for line in lines)
    statuses = max(len(line.status) for line in lines)
    indent = " " * (statuses + names + 4)
    rows = []
    for line in lines:
        head = f"{line.status:<{statuses}}  {line.name:<{names}}  "
        for first, text in ((head, line.text), (indent + "→ ", line.advice)):
            if text:
                rows += textwrap.wrap(
                    text, columns, initial_indent=first, subsequent_indent=indent
                )
    text = "\n".join([*rows, "", status])
    # names of options may have anything in them, terminals obey
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
