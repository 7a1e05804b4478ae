"""How it grows: websockets, databases, instances. One module measures each part."""

from __future__ import annotations

from stack import Stack

from . import (
    machine,
    scale_databases,
    scale_idle,
    scale_instances,
    scale_websockets,
)
from .figures import Figures
from .load import MAX_CONNECTIONS, restart_with

PARTS = {
    "idle": scale_idle,
    "websockets": scale_websockets,
    "databases": scale_databases,
    "instances": scale_instances,
}

#: In fallback each of 500 databases has a server connection; 100 instances listen by
#: 200.
SCALE_MAX_CONNECTIONS = 700


def measure(stack: Stack, names: list[str], quick: bool) -> Figures:
    """Measure these parts; return the figures of each."""
    restart_with(stack, SCALE_MAX_CONNECTIONS)
    try:
        facts = machine.facts(stack)
        return {
            name: {"machine": facts, "quick": quick, **part.measure(stack, quick)}
            for name, part in PARTS.items()
            if name in names
        }
    finally:
        restart_with(stack, MAX_CONNECTIONS)
