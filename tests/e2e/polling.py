"""Long polling, the transport of 14.0 and 15.0, as a browser does it."""

import contextlib
import http.client
import json
import queue
import socket
import threading
import time
from urllib.parse import urlsplit

#: Seconds to wait for what must happen. Generous, because no test depends on speed,
#: and well below the 50 s after which even the stock bus would notice by itself.
DEADLINE = 30

#: Seconds; Odoo answers after 50, news or not.
TIMEOUT = 90

#: Seconds until a request that failed is made again. A browser waits longer; how long
#: is nothing that the addon could change.
PAUSE = 0.2


class LongPolling:
    """Asks again and again; to the tests it is what a websocket is.

    The first request of all is one that does not wait, so that afterwards no message
    can be missed: each request tells the last one that is known.
    """

    def __init__(self, url, cookie, channels, last=0):
        self._address = urlsplit(url)
        self._headers = {"Content-Type": "application/json", "Cookie": cookie}
        self._channels = list(channels)
        self._last = last
        self._connection = self._connect()
        self._arrived = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._ended = threading.Event()
        self.notifications = []
        self._poll(peek=True)
        threading.Thread(target=self._run, daemon=True).start()

    def _connect(self):
        return http.client.HTTPConnection(
            self._address.hostname, self._address.port, timeout=TIMEOUT
        )

    def _poll(self, peek=False):
        params = {"channels": self._channels, "last": self._last, "options": {}}
        if peek:
            params["options"]["peek"] = True
        body = {"jsonrpc": "2.0", "method": "call", "params": params}
        self._connection.request(
            "POST", self._address.path, json.dumps(body), self._headers
        )
        answer = json.loads(self._connection.getresponse().read())
        if "result" not in answer:
            raise ValueError(answer)
        found = answer["result"]
        if peek and isinstance(found, dict):
            found = found["notifications"]
        for notification in found:
            self._last = max(self._last, notification["id"])
        if found:
            self._arrived.put(found)

    def _run(self):
        while not self._stopped.is_set():
            try:
                self._poll()
            except (OSError, ValueError, http.client.HTTPException):
                self._ended.set()
                self._connection.close()
                self._connection = self._connect()
                self._stopped.wait(PAUSE)

    def read(self, timeout):
        """Return the notifications that arrive next, none if it takes too long."""
        try:
            found = self._arrived.get(timeout=max(0.001, timeout))
        except queue.Empty:
            return []
        self.notifications += found
        return found

    def receive(self, text, deadline=DEADLINE):
        """Return the notification that contains ``text``; wait for it."""
        end = time.monotonic() + deadline
        while not (found := self.find(text)):
            left = end - time.monotonic()
            assert left > 0, f"{text!r} not received in {deadline} s"
            self.read(left)
        return found

    def find(self, text):
        """Return the notification received so far that contains ``text``, or None."""
        return next((n for n in self.notifications if text in json.dumps(n)), None)

    def keep_alive(self):
        """Read what has come; the rest goes by itself."""
        while self.read(0.05):
            pass

    def close(self):
        """Leave the page: the request that waits is given up."""
        self._stopped.set()
        if sock := self._connection.sock:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    drop = close

    def wait_closed(self):
        """Wait until Odoo gives the request up."""
        assert self._ended.wait(TIMEOUT)
        self._stopped.set()
