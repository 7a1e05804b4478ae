"""Odoo's own bus loop on a handed connection: 14.0, 15.0, and after 19.0.

Inside, these dispatchers differ; their loops are of one shape. So the loop is given the
channels with news as the payloads of notifications, whether they were notified of or
found in the table.

In long polling a request reads its messages first, and registers afterwards for what it
waits for. Whatever is committed and notified of in between wakes nobody, and in stock
Odoo waits for the next message on one of its channels, or for the 50 s after which the
request ends. So all that was handed to the loop is handed to it once more, half a
second to a second later, to whoever has registered by then: a request that did so
within half a second of its reading gets all that it has not read. The price is an
empty answer to a request that had read it.
"""

from __future__ import annotations

import json
import logging
import select
import threading
import time
from typing import Any, Callable, Iterable

from ..listening.bus_table import Rows
from ..listening.state import State
from .dispatcher import Dispatcher
from .handed import HandedConnection, handing
from .websockets import parse

#: In the place of a payload.
EVERYTHING = ""


class HandedLoop(HandedConnection):
    """What Odoo's loop polls, and whoever waits behind it. Made as ``Websockets``."""

    #: Each is one batch of the loop's; a flood of them is everything, and no more.
    MAX_ARRIVED = 10000

    #: Seconds. The loop does nothing else but to poll, and that takes milliseconds.
    STUCK_AFTER = 5.0

    #: Seconds until a loop that failed is run again.
    PAUSE = 1.0

    #: Seconds until what was handed to long polling is so once more. A request takes
    #: milliseconds from its reading until it has registered.
    AGAIN_AFTER = 0.5

    def __init__(self, known: Dispatcher, dispatcher: Any, state: State) -> None:
        super().__init__("imbus", self._payloads)
        self._known = known
        self._dispatcher = dispatcher
        self._state = state
        self._again = HandedConnection("again", lambda: [EVERYTHING])
        state.is_stuck = lambda: self.is_stuck

    def run(self, loop: Callable[[Any], Any]) -> None:
        """Run Odoo's loop until it returns, because the server stops.

        If it raises, which makes stock Odoo deaf for 50 s, it is run again, and gets
        whatever it may have missed.
        """
        if self._known.reads_first:
            name = f"{__name__}.Again"
            threading.Thread(target=self._hand_again, name=name, daemon=True).start()
        while True:
            try:
                with handing(lambda: self):
                    loop(self._dispatcher)
                return
            except Exception:
                self._state.bug("Odoo's bus loop failed")
            self.notifies.clear()
            time.sleep(self.PAUSE)
            self.put_everything()

    def _hand(self, payloads: Iterable[str]) -> None:
        """Hand these to the loop; tell if it does not take them."""
        if self.is_stuck:
            self._state.log.problem(
                "stuck",
                logging.ERROR,
                "Odoo's bus loop does not take what has come for it: another addon may"
                " have replaced it by one that waits for something else.",
            )
        payloads = list(payloads)
        self.put(payloads)
        if self._known.reads_first:
            self._again.put(payloads)

    def _hand_again(self) -> None:
        """Hand over once more whatever has come."""
        while True:
            select.select([self._again], [], [])
            self._again.poll()
            payloads = [found.payload for found in self._again.notifies]
            self._again.notifies.clear()
            time.sleep(self.AGAIN_AFTER)
            if EVERYTHING in payloads:
                self.put_everything()
            else:
                self.put(payloads)

    def databases(self) -> set[str]:
        """Return the names of the databases in use."""
        return self._known.databases(self._dispatcher)

    def notify(self, payloads: Iterable[str]) -> None:
        """Hand over what came by NOTIFY, without what the loop would fail on."""
        self._hand(filter(None, map(self._clean, payloads)))

    def wake(self, database: str, rows: Rows) -> None:
        """Hand over the channels of new rows."""
        if rows is None:
            self._hand(self._payloads(database))
            if self._known.reads_first:
                self._again.put_everything()
        else:
            self.notify(f"[{channel}]" for channel in rows)

    def rewind(self, *_args: Any) -> None:
        """Nothing: the browser tells what it has seen; after 19.0 Odoo keeps that."""

    def _payloads(self, database: str | None = None) -> list[str]:
        """Return a payload of all channels that are waited for, maybe of a database."""
        channels = [
            channel
            for channel in self._known.subscribed(self._dispatcher)
            if database is None
            or isinstance(channel, str)
            or (isinstance(channel, tuple) and channel[:1] == (database,))
        ]
        return [json.dumps(channels, default=repr)] if channels else []

    def _clean(self, payload: str) -> str | None:
        """Return what of a payload the loop can take; None if that is nothing."""
        # what the loop reads it with
        loads = getattr(self._known.module, "orjson", json).loads
        found = parse(payload, self._known, self._state, loads)
        good = [item for item, _key in found]
        return json.dumps(good) if good else None
