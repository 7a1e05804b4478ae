"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random


class Backoff:
    """Waits that double up to a longest one.

    ±20 % of jitter keep the instances of a cluster from coming back all at once.

    :param first: the wait after the first failure (seconds)
    :param longest: the longest wait, before jitter (seconds)
    """

    SECOND = 0.5
    JITTER = 0.2

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._failures = 0

    def delay(self) -> float:
        """Return the seconds to wait after one more failure."""
        self._failures += 1
        if self._failures == 1:
            wait = self._first
        else:
            # the exponent is bounded: a float overflows after three days of trying
            wait = self.SECOND * 2 ** min(self._failures - 2, 16)
        return min(wait, self._longest) * random.uniform(
            1 - self.JITTER, 1 + self.JITTER
        )

    def reset(self) -> None:
        """Begin anew: what failed has worked."""
        self._failures = 0
