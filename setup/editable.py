"""``pip install --editable``: the folder that pyproject.toml puts on Python's path.

A build hook of hatchling. The packaging tools can map folders to packages for Python,
but Odoo lists folders: it needs one that has the addon's name and is the checkout.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# hatchling loads this file by itself
sys.path.insert(0, str(Path(__file__).parent))

from basics import link_addon  # noqa: E402


class EditableHook(BuildHookInterface):
    """Make the link whenever somebody installs the checkout, and for no other wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            link_addon()
