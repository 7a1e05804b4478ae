"""One line of what ``odoo bus_check`` says."""

from __future__ import annotations

from collections import namedtuple

#: The first is that of what could not be tried, or need not be.
NOT_TRIED, OK, WARNING, FAILED = "-", "OK", "WARNING", "FAILED"

Line = namedtuple("Line", "name status text advice", defaults=[""])
Line.__doc__ = """What was found out about one thing.

- ``name``: what thing (str)
- ``status``: one of the constants above (str)
- ``text``: what was found
- ``advice``: what to do about it, in sentences; empty if nothing, or not known
"""
