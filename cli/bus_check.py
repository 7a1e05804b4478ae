"""``odoo bus_check``: see :mod:`.checks`, which it prints.

Odoo 19.0 loads this file by itself, without its package, and before it has read the
configuration. Hence the late and absolute imports.
"""

import argparse
import configparser
import importlib.util
import json
import logging
import os
import shutil
import sys
import textwrap
import traceback

from odoo.cli import Command

#: Columns of the text, at least, however narrow the terminal.
NARROWEST = 60

#: Exit status by that of the lines, as monitoring plugins have them.
STATUSES = {"-": 0, "OK": 0, "WARNING": 1, "FAILED": 2}
COULD_NOT_RUN = 3


class Parser(argparse.ArgumentParser):
    """Ends with our exit status."""

    def error(self, message):
        self.exit(COULD_NOT_RUN, f"{self.format_usage()}{self.prog}: {message}\n")


class Bus_Check(Command):  # 14.0 and 15.0 name the command after the class
    """Check that live messages will flow through PgBouncer"""

    name = "bus_check"
    description = "Check that live messages will flow through PgBouncer"

    def run(self, args):
        parser = Parser(
            prog="odoo bus_check",
            usage="%(prog)s [-h] [--json] [options of the server]",
            description=self.description + ". Nothing is written to any database.",
            epilog="All other options are those of the server: give the same, above all"
            " -c. Exit status: 0 if all is OK, 1 with a WARNING, 2 if anything FAILED,"
            " 3 if it could not run.",
            allow_abbrev=False,
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        arguments, server_arguments = parser.parse_known_args(args)

        # advice has an arrow, and messages of PostgreSQL may have anything in them
        sys.stdout.reconfigure(errors="backslashreplace")
        if folder := another_addon():
            message = (
                "Odoo loads another addon of this name, which comes first:"
                f" {folder}. Remove it; if pip has installed it, by pip uninstall"
                " odoo-addon-bus-alt-connection.\n"
            )
            parser.exit(COULD_NOT_RUN, message)
        # what goes wrong is what the server's own log says
        logging.disable()
        try:
            lines = find_out(parser, server_arguments)
        except Exception as error:
            # without its message, which may quote a connection string
            frames = "".join(traceback.format_tb(error.__traceback__))
            parser.exit(COULD_NOT_RUN, f"{frames}{type(error).__name__}\n")
        status = max((line.status for line in lines), key=STATUSES.get)
        text = as_json(status, lines) if arguments.json else as_text(status, lines)
        sys.stdout.write(text + "\n")
        sys.exit(STATUSES[status])


def another_addon():
    """Return the folder of another addon of our name that Odoo finds first, or None.

    OCA's, if pip has installed it: Odoo looks there before it looks at addons_path, and
    takes the command alone from here.
    """
    package = importlib.util.find_spec("odoo.addons.bus_alt_connection")
    [folder] = package.submodule_search_locations
    ours = os.path.dirname(os.path.dirname(__file__))
    return None if os.path.samefile(folder, ours) else folder


def find_out(parser, server_arguments):
    """Read the configuration as the server does, and check it."""
    from odoo.service.server import load_server_wide_modules

    from odoo.addons.bus_alt_connection import post_load
    from odoo.addons.bus_alt_connection.models import series

    try:
        series.parse_config(server_arguments)
    except (configparser.Error, OSError, ValueError) as error:
        text = str(error)
        if isinstance(error, configparser.ParsingError):
            # without the line, which may be one with a password
            numbers = [n for n, _line in getattr(error, "errors", ())] or [error.lineno]
            text = f"line {', '.join(map(str, numbers))} is not an option"
        parser.error(f"Odoo cannot read its configuration: {text}")
    # it is imported already, which Odoo takes for loaded
    series.call_when_loaded("bus_alt_connection", post_load)
    load_server_wide_modules()
    from odoo.addons.bus_alt_connection.cli import checks

    return checks.check()


def as_json(status, lines):
    """Return the lines for programs."""
    checks = [line._asdict() for line in lines]
    return json.dumps({"status": status, "checks": checks}, indent=2)


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
                    text,
                    columns,
                    initial_indent=first,
                    subsequent_indent=indent,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
    text = "\n".join([*rows, "", status])
    # names of options may have anything in them, terminals obey
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
