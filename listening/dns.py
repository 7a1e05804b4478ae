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
        self._lookups: dict[str, _Lookup] = {}
        self._lock = threading.Lock()

    def addresses(self, host: str, timeout: float) -> list[str]:
        """Return the addresses of a host; those of the last time if it has none now.

        :param timeout: seconds
        :raise TimeoutError: if there is no answer by then, and was none before
        :raise OSError: if there is no such host
        """
        with self._lock:
            lookup = self._lookups.get(host)
            if lookup is None or not lookup.is_alive():
                lookup = _Lookup(host, lookup.found if lookup else [])
                lookup.start()
                self._lookups[host] = lookup
        lookup.join(self.PATIENCE_IF_KNOWN if lookup.found else timeout)
        has_ended = not lookup.is_alive()
        if lookup.found:
            return lookup.found
        if not has_ended:
            raise TimeoutError(f"the name was not resolved within {timeout:.0f} s")
        raise OSError(f"the name cannot be resolved: {one_line(lookup.error)}")


class _Lookup(threading.Thread):
    """Looks one name up, and has what it led to, ``found``, now or before."""

    def __init__(self, host: str, found: list[str]) -> None:
        super().__init__(name=f"{__name__}.{host}", daemon=True)
        self._host = host
        self.found = found
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            found = socket.getaddrinfo(self._host, None, type=socket.SOCK_STREAM)
            addresses = dict.fromkeys(sockaddr[0] for *_, sockaddr in found)
            # their order may be another one each time, by which nothing has changed
            if set(addresses) != set(self.found):
                self.found = list(addresses)
        except (OSError, UnicodeError) as error:
            self.error = error


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
