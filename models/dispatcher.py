"""Which dispatcher this Odoo has: found by its names, whatever the series is called.

A dispatcher is the object in the process with the websockets, or with the requests of
long polling, whose loop LISTENs and tells them of news.

- 16.0 to 19.0: ``ImDispatch.loop``; ``_channels_to_ws`` has a set of websockets for
  each channel.
- 14.0 and 15.0: ``ImDispatch.loop``; ``channels`` has a set of events for each channel
  while a request waits. In 14.0 a channel may be a text without a database.
- after 19.0: ``BusDispatcher._listener_loop``; the keys of ``_topic_by_channel`` are
  the channels.

A channel is a tuple that begins with the name of its database.
"""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

from odoo.modules.registry import Registry

from odoo.addons.bus.models import bus as odoo_bus

try:
    from odoo.addons.bus import bus_dispatcher
except ImportError:
    bus_dispatcher = None

#: Seconds for which a database counts as in use after nobody was seen to wait: a
#: browser's next request of long polling comes 50 s after the last at the latest.
IN_USE_FOR = 100.0


class Dispatcher:
    """What is where, of the dispatcher that this Odoo has.

    - ``module``: where it is
    - ``kind``: its class, or None if there is none
    - ``loop``: the name of the method that LISTENs, with its class's
    - ``key``: the function that makes a key of a channel, or None
    - ``channels``: the name of its attribute with the channels that somebody wants, if
      it is one that we know; or None
    """

    def __init__(self, module: ModuleType, kind: str, loop: str) -> None:
        self.module = module
        self.kind = getattr(module, kind, None)
        self.loop = f"{kind}.{loop}"
        # in the processes without websockets there was none before 2023
        found = getattr(module, "dispatch", None) or (self.kind and self.kind())
        names = ("_channels_to_ws", "channels", "_topic_by_channel")
        self.channels = next((name for name in names if hasattr(found, name)), None)
        self.key = getattr(module, "tuplify", None) or getattr(module, "hashable", None)
        self._last_seen: dict[str, float] = {}

    @property
    def has_websockets(self) -> bool:
        """Whether it knows the websockets, so that we can wake them ourselves."""
        return self.channels == "_channels_to_ws"

    @property
    def reads_first(self) -> bool:
        """Whether who waits has read before, and may miss what came in between."""
        return self.channels == "channels"

    @property
    def is_running(self) -> bool:
        """Whether its loop runs; it is a thread since 16.0."""
        found = getattr(self.module, "dispatch", None)
        if hasattr(found, "is_alive"):
            return found.is_alive()
        return getattr(found, "started", False)

    def subscribed(self, found: Any) -> list:
        """Return the channels that somebody wants of a dispatcher."""
        channels = getattr(found, self.channels)
        # a copy, because other threads subscribe in the meantime; long polling leaves
        # empty sets behind
        return [channel for channel in list(channels) if channels.get(channel)]

    def databases(self, found: Any) -> set[str]:
        """Return the names of the databases in use by a dispatcher's subscribers."""
        now = time.monotonic()
        for channel in self.subscribed(found):
            # a channel can be anything that an addon has made it
            if isinstance(channel, tuple) and channel and isinstance(channel[0], str):
                self._last_seen[channel[0]] = now
            elif isinstance(channel, str):
                self._last_seen.update(dict.fromkeys(list(Registry.registries.d), now))
        in_use_for = 0.0 if self.has_websockets else IN_USE_FOR
        self._last_seen = {
            name: seen
            for name, seen in self._last_seen.items()
            if now - seen <= in_use_for
        }
        return set(self._last_seen)


def find() -> Dispatcher:
    """Return what this Odoo has."""
    if bus_dispatcher:
        return Dispatcher(bus_dispatcher, "BusDispatcher", "_listener_loop")
    return Dispatcher(odoo_bus, "ImDispatch", "loop")
