"""A log that cannot be flooded.

A fault that lasts for a night, or a stranger who sends a thousand junk
notifications a second, must not fill an administrator's disk: the first message of
a kind is logged at once, then at most one a minute, which says how many were left
out.
"""

import time


class Throttle:
    """Log at most one message per ``period``.

    :param logging.Logger logger: where the messages go
    :param float period: seconds between two messages
    """

    def __init__(self, logger, period=60.0):
        self._logger = logger
        self._period = period
        self._next = float("-inf")
        self._left_out = 0

    def log(self, level, message, *args, **kwargs):
        """Log like ``Logger.log``, or count the message as left out.

        :return: whether it was logged
        """
        now = time.monotonic()
        if now < self._next:
            self._left_out += 1
            return False
        if self._left_out:
            message += " (%d more like it since the last such line)"
            args += (self._left_out,)
        self._next = now + self._period
        self._left_out = 0
        self._logger.log(level, message, *args, **kwargs)
        return True

    def reset(self):
        """Let the next message through: what it speaks of has been mended."""
        self._next = float("-inf")
        self._left_out = 0
