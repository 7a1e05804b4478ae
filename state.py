"""What is known of the live messages of this process, in one place.

Whatever answers "are live messages flowing?" asks here. Who changes it tells the log.
"""

import time

STARTING = "starting"
LISTENING = "listening"
FALLBACK = "fallback"
UNSUPPORTED = "unsupported"

#: Of the draft "Health Check Response Format for HTTP APIs"
#: (draft-inadarei-api-health-check), from which Odoo's own answers take their "pass".
PASS, WARN, FAIL = "pass", "warn", "fail"


class State:
    """The state of the one listening connection of the process, and of the fallback.

    - ``name``: :data:`LISTENING`: NOTIFY is proven to arrive; :data:`FALLBACK`: it is
      not, new messages are read from the table; :data:`STARTING`: neither, yet, because
      nobody has subscribed to anything; :data:`UNSUPPORTED`: Odoo's own dispatcher was
      left alone, nothing is known of it
    - ``since``: when that began (``time.time()``, seconds)
    - ``reconnects``: how many connections were lost
    - ``last_error``: why the last one was lost or could not be had (str), or None
    - ``databases``: for each database with subscribers, whether its bus table could be
      read at the last try (dict of str and bool)

    :param on_change: called when the state has become another one
    """

    def __init__(self, on_change=None):
        self.on_change = on_change
        self.name = STARTING
        self.since = time.time()
        self.reconnects = 0
        self.last_error = None
        self.databases = {}

    @property
    def is_listening(self):
        """Whether NOTIFY is proven to arrive."""
        return self.name == LISTENING

    @property
    def health(self):
        """:data:`PASS`, :data:`WARN` or :data:`FAIL`.

        - live messages flow: PASS; by the table alone, or maybe not for every database:
          WARN. So it is if NOTIFY arrives and no table can be read: then the server
          behind is there, and a slow moment or one database that was dropped must not
          take all of an instance out of service.
        - they do not, or nothing is known of them: FAIL
        """
        # a copy, since another thread changes it
        readable = list(self.databases.values())
        if self.name == UNSUPPORTED:
            return FAIL
        if not self.is_listening and readable and not any(readable):
            return FAIL
        return PASS if self.name != FALLBACK and all(readable) else WARN

    def proven(self):
        """A notification has arrived."""
        self._change(LISTENING)

    def unproven(self, reason):
        """It is not known any more whether notifications arrive.

        :param str reason: why
        """
        self.last_error = reason
        self._change(FALLBACK)

    def unsupported(self):
        """Odoo's own dispatcher is left as it is."""
        self._change(UNSUPPORTED)

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
