"""A listener that is run for a moment, to see what becomes of it."""

from __future__ import annotations

import logging
import queue
import threading
from contextlib import ExitStack

from ..listening.connecting import ConnectionFailed
from ..listening.display import one_line
from ..listening.listener import Listener
from ..listening.state import State

_logger = logging.getLogger(__name__)


class Trial(State):
    """What becomes of a listener at first, for whoever waits for it.

    :param channel: the channel that it listens on
    """

    #: Seconds for something to become of it: 5 to connect, 5 for each of 4 answers, 10
    #: until it doubts that anything can be sent.
    PATIENCE = 35.0

    def __init__(self, channel: str) -> None:
        super().__init__(_logger, channel, "")
        self._events: queue.Queue = queue.Queue()

    def proven(self, where: str) -> None:
        self._events.put(where)
        return super().proven(where)

    def failed(self, error: Exception, advice: str = "") -> None:
        self._events.put(error)

    def doubted(self, reason: str) -> None:
        self._events.put(TimeoutError(reason))

    def run(self, listener: Listener, opened: ExitStack) -> None:
        """Run the listener of this state until ``opened`` is closed."""
        thread = threading.Thread(target=listener.run, daemon=True)
        thread.start()
        opened.callback(thread.join, self.PATIENCE)
        opened.callback(listener.stop)

    def wait(self) -> str:
        """Return where it listens.

        :raise ConnectionFailed: if it does not
        """
        try:
            first = self._events.get(timeout=self.PATIENCE)
        except queue.Empty:
            first = TimeoutError(f"no result within {self.PATIENCE:.0f} s")
        if isinstance(first, ConnectionFailed):
            raise first
        if isinstance(first, Exception):
            raise ConnectionFailed([("", one_line(first))])
        return first
