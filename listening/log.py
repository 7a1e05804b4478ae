"""A log that cannot be flooded, and that says when a problem is over.

A fault that lasts for a night, or a stranger who sends a thousand junk notifications a
second, must not fill an administrator's disk: a problem is told at once, then at most
once a minute with the number of those left out. Another reason, or the same problem of
another database, is another problem.
"""

from __future__ import annotations

import logging
import time
from typing import Hashable


class Log:
    """Tells of problems that have a name (``what``), and of their end."""

    #: Seconds between two lines about the same.
    PERIOD = 60.0

    #: How many different reasons are told apart; with more of them all that are older
    #: than a period are forgotten.
    MAX_REASONS = 1000

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        # for each (what, reason) that was told: when, and how many were left out since
        self._told: dict[tuple[Hashable, str], tuple[float, int]] = {}
        # of each problem, whether it is the log's last word
        self._is_open: dict[Hashable, bool] = {}

    def problem(
        self,
        what: Hashable,
        level: int,
        message: str,
        *args: object,
        reason: str = "",
        is_same: bool = False,
        exc_info: bool = False,
    ) -> None:
        """Tell of a problem like ``Logger.log``, or count it as left out.

        :param reason: another one is another problem
        :param is_same: whether it is the same one still, and not one more like it
        """
        now = time.monotonic()
        at, left_out = self._told.get((what, reason), (-self.PERIOD, 0))
        if now - at < self.PERIOD:
            self._told[what, reason] = at, left_out + (not is_same)
            return
        # one template for each problem, as error trackers go by them
        message += "%s"
        args += (
            f" ({left_out} more like it since the last such line.)" if left_out else "",
        )
        if len(self._told) >= self.MAX_REASONS:
            # a copy, as other threads tell at the same time
            self._told = {
                key: told
                for key, told in list(self._told.items())
                if now - told[0] < self.PERIOD
            }
        self._told[what, reason] = now, 0
        self._is_open[what] = True
        self._logger.log(level, message, *args, exc_info=exc_info)

    def solved(
        self, what: Hashable, message: str, *args: object, at_first: bool = False
    ) -> None:
        """Tell that a problem is over, if it was told; or that there is none, once."""
        if self._is_open.get(what, at_first):
            self._is_open[what] = False
            self._logger.info(message, *args)
