"""What the README tells administrators is what the code does."""

import os
import re

from odoo.tests.common import BaseCase

from ..models.health import PATH
from ..settings import OPTIONS

ROOT = os.path.dirname(os.path.dirname(__file__))


class TestReadme(BaseCase):
    def test_option_table(self):
        for path in (["readme", "CONFIGURE.rst"], ["README.rst"]):
            with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
                text = file.read()
            rows = re.findall(
                r"^   \* - ``(db_listen_\w+)``\n"
                r"     - ``(\w+)``\n"
                r"     - (.*)\n"
                r"     - ((?:.*\n(?:       .*\n)*))",
                text,
                re.MULTILINE,
            )
            self.assertEqual(
                [
                    (name, variable, default, " ".join(help_text.split()))
                    for name, variable, default, help_text in rows
                ],
                [
                    (
                        option.name,
                        "ODOO_" + option.name.upper(),
                        f"``{option.default}``" if option.default else "none",
                        option.help,
                    )
                    for option in OPTIONS
                ],
                path,
            )

    def test_health(self):
        with open(os.path.join(ROOT, "README.rst"), encoding="utf-8") as file:
            self.assertIn(f"path: {PATH}, port", file.read())
