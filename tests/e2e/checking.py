"""What ``odoo bus_check`` says, for tests."""

import contextlib
import json
import subprocess

from odoo_server import CONF, read_options

OK, WARNING, FAILED = 0, 1, 2

PASSWORDS = [
    value for name, value in read_options(CONF).items() if name.endswith("password")
]


class Result:
    """What the command printed and how it ended."""

    def __init__(self, process):
        self.status = process.returncode
        self.output = process.stdout + process.stderr
        assert not [word for word in [*PASSWORDS, "hidden"] if word in self.output]
        self.lines = []
        with contextlib.suppress(ValueError):
            self.lines = json.loads(process.stdout)["checks"]

    @property
    def words(self):
        """What was printed, without line breaks."""
        return " ".join(self.output.split())

    def find(self, name, status, what="text"):
        """Return what the lines of that name and status say."""
        return " ".join(
            line[what]
            for line in self.lines
            if (line["name"], line["status"]) == (name, status)
        )

    def find_advice(self, name, status):
        return self.find(name, status, "advice")


def check(server, *args):
    """Run the command with the options of a server."""
    return Result(server.run("bus_check", *args, stderr=subprocess.PIPE))


def check_json(server, *args):
    return check(server, "--json", *args)
