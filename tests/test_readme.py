"""What the README and the docs tell administrators is what the code does."""

import ast
import glob
import os
import re
import unittest

from odoo.tests.common import BaseCase

from ..listening.options import OPTIONS
from ..models.health import PATH

ROOT = os.path.dirname(os.path.dirname(__file__))
TROUBLESHOOTING = os.path.join(ROOT, "docs", "troubleshooting.rst")


class TestReadme(BaseCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with open(os.path.join(ROOT, "README.rst"), encoding="utf-8") as file:
            cls.text = file.read()

    def test_option_table(self):
        row = r"^``(db_listen_\w+)`` +(?:``(\w+)``|none|3600) +\S"
        self.assertEqual(
            re.findall(row, self.text, re.MULTILINE),
            [(option.name, option.default or "") for option in OPTIONS],
        )

    def test_health(self):
        self.assertIn(f":8072{PATH}\n", self.text)


@unittest.skipUnless(os.path.exists(TROUBLESHOOTING), "a package has no docs")
class TestTroubleshooting(BaseCase):
    def test_messages(self):
        """What is quoted of a log line is written by somebody."""
        written = "\n".join(
            node.value
            for folder in ("cli", "listening", "models")
            for path in glob.glob(os.path.join(ROOT, folder, "*.py"))
            for node in ast.walk(parse(path))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )
        with open(TROUBLESHOOTING, encoding="utf-8") as file:
            text = file.read()
        section = text.partition("\nBy log line\n")[2].partition("\nThe health")[0]
        terms = re.findall(r"^``.+``$", section, re.MULTILINE)
        quoted = re.findall("``(.+?)``", "\n".join(terms))
        self.assertGreater(len(quoted), 30)
        for message in quoted:
            for part in message.split("..."):
                self.assertIn(part.strip(' ":,;()'), written, message)


def parse(path):
    with open(path, encoding="utf-8") as file:
        return ast.parse(file.read())
