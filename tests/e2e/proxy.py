"""A TCP proxy that fails as networks do: in silence, half-way, or with a word."""

import asyncio
import contextlib
import ctypes
import socket
import threading

HOST = "127.0.0.1"


class Proxy:
    """Forwards to a port on this machine, until told to fail.

    :param int upstream: the port
    :param sock: the socket to listen on, if not on a free port of 127.0.0.1
    """

    def __init__(self, upstream, sock=None):
        self._upstream = upstream
        self._sock = sock or socket.create_server((HOST, 0))
        self.host, self.port = self._sock.getsockname()[:2]
        self._links = set()
        self._black_hole = False
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._call(self._serve())

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def swallow(self):
        """Keep the existing connections open, and pass nothing on; new ones pass."""
        self._call(self._swallow())

    def reset(self):
        """Reset the connections that were swallowed."""
        self._call(self._reset(swallowed_only=True))

    def refuse(self):
        """Reset the existing connections, and refuse new ones."""
        self._call(self._close())

    def accept(self):
        """Undo :meth:`refuse`."""
        self._sock = socket.create_server((self.host, self.port))
        self._call(self._serve())

    def black_hole(self):
        """Accept new connections, and never answer on them."""
        self._black_hole = True

    def answer(self):
        """Undo :meth:`black_hole`, and reset what was never answered."""
        self._black_hole = False
        self.reset()

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _serve(self):
        self._server = await asyncio.start_server(self._connected, sock=self._sock)

    async def _close(self):
        self._server.close()
        await self._reset()

    async def _reset(self, swallowed_only=False):
        for link in list(self._links):
            if link.is_swallowed or not swallowed_only:
                for writer in link.writers:
                    writer.transport.abort()

    async def _swallow(self):
        for link in self._links:
            link.is_swallowed = True

    async def _connected(self, reader, writer):
        if self._black_hole:
            link = _Link(writer)
            link.is_swallowed = True
            self._links.add(link)
            await link.pump(reader, writer)
            return
        try:
            upstream_reader, upstream_writer = await self._open_upstream()
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, upstream_writer)
        self._links.add(link)
        await asyncio.gather(
            link.pump(reader, upstream_writer), link.pump(upstream_reader, writer)
        )
        self._links.discard(link)

    async def _open_upstream(self):
        return await asyncio.open_connection(HOST, self._upstream)


class _Link:
    """One connection and the one to the server behind it."""

    def __init__(self, *writers):
        self.writers = writers
        self.is_swallowed = False

    async def pump(self, reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if not self.is_swallowed:
                    writer.write(data)
                    await writer.drain()
            if not self.is_swallowed:
                writer.close()


def listen_at(proxy):
    """Return the environment variables with which Odoo listens there."""
    return {"ODOO_DB_LISTEN_HOST": proxy.host, "ODOO_DB_LISTEN_PORT": str(proxy.port)}


def listen_in_namespace(name, host):
    """Return a socket that listens on a free port in a network namespace."""
    sockets = []

    def listen():
        # of this thread only, which ends here
        with open(f"/run/netns/{name}") as namespace:
            clone_newnet = 0x40000000
            if ctypes.CDLL(None).setns(namespace.fileno(), clone_newnet):
                return
        sockets.append(socket.create_server((host, 0)))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    return sockets[0]
