"""What is known of the listening connection, in one place.

Whatever answers "are live messages flowing?" asks here. Who changes it tells the log.
"""

import time

STARTING = "starting"
LISTENING = "listening"
FALLBACK = "fallback"


class State:
    """The state of the one listening connection of the process.

    - ``name``: :data:`LISTENING`: NOTIFY is proven to arrive; :data:`FALLBACK`: it is
      not, new messages are read from the table; :data:`STARTING`: neither, yet
    - ``since``: when that began (``time.time()``, seconds)
    - ``last_proof``: when a notification arrived last (``time.monotonic()``), or None
    - ``reconnects``: how many connections were lost
    - ``last_error``: why the last one was lost or could not be had (str), or None

    :param on_change: called when the state has become another one
    """

    def __init__(self, on_change=None):
        self.on_change = on_change
        self.name = STARTING
        self.since = time.time()
        self.last_proof = None
        self.reconnects = 0
        self.last_error = None

    @property
    def is_listening(self):
        """Whether NOTIFY is proven to arrive."""
        return self.name == LISTENING

    def proven(self):
        """A notification has arrived."""
        self.last_proof = time.monotonic()
        self._change(LISTENING)

    def unproven(self, reason):
        """It is not known any more whether notifications arrive.

        :param str reason: why
        """
        self.last_error = reason
        self._change(FALLBACK)

    def _change(self, name):
        if self.name != name:
            self.name = name
            self.since = time.time()
            if self.on_change:
                self.on_change()

    def __repr__(self):
        return (
            f"<State: {self.name}, reconnects={self.reconnects},"
            f" last_error={self.last_error!r}>"
        )
