"""The addresses of a host, with a deadline.

``getaddrinfo`` has none: with a name server that is silent it takes as long as its
configuration says, 10 s and more. libpq's own look-up would, besides, block the whole
process where Odoo runs on gevent; Python's is a cooperative one there.

And what a name led to is remembered. Who has a connection does not depend on the name
server; so that we may close one in order to open it again, neither must that.
"""

from __future__ import annotations

import ipaddress
import socket
import threading

from .display import one_line


class Resolver:
    """Looks names up, in threads, of which each name has one at most."""

    #: Seconds to wait for an answer if there was one before.
    PATIENCE_IF_KNOWN = 0.5

    def __init__(self) -> None:
        self._known: dict[str, list[str]] = {}
        self._lookups: dict[str, _Lookup] = {}

    def addresses(self, host: str, timeout: float) -> list[str]:
        """Return the addresses of a host; those of the last time if it has none now.

        :param timeout: seconds
        :raise TimeoutError: if there is no answer by then, and was none before
        :raise OSError: if there is no such host
        """
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = self._begin(host)
        known = self._known.get(host)
        ended = lookup.ended.wait(self.PATIENCE_IF_KNOWN if known else timeout)
        known = self._known.get(host)
        if known:
            return known
        if not ended:
            raise TimeoutError(f"the name was not resolved within {timeout:.0f} s")
        raise OSError(f"the name cannot be resolved: {one_line(lookup.error)}")

    def _begin(self, host: str) -> _Lookup:
        lookup = _Lookup(host, self._known, self._lookups)
        # before it starts, as it may have ended and forgotten itself by then
        self._lookups[host] = lookup
        try:
            lookup.start()
        except BaseException:
            self._lookups.pop(host, None)
            raise
        return lookup


class _Lookup(threading.Thread):
    """Looks one name up, takes note, and forgets itself, however late."""

    def __init__(self, host: str, known: dict, lookups: dict) -> None:
        super().__init__(name=f"{__name__}.{host}", daemon=True)
        self._host = host
        self._known = known
        self._lookups = lookups
        self.error: Exception | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            found = socket.getaddrinfo(self._host, None, type=socket.SOCK_STREAM)
            addresses = dict.fromkeys(sockaddr[0] for *_, sockaddr in found)
            # their order may be another one each time, by which nothing has changed
            if set(addresses) != set(self._known.get(self._host, ())):
                self._known[self._host] = list(addresses)
        except (OSError, UnicodeError) as error:
            self.error = error
        finally:
            self._lookups.pop(self._host, None)
            self.ended.set()


#: One for the process: what one connection has learnt serves the others.
resolver = Resolver()


def is_name(host: str) -> bool:
    """Whether a libpq host is a name to be looked up: no address, no socket."""
    if not host or host[0] in "/@":
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
