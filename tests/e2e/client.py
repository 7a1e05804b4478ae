"""What a browser does, as far as the bus is concerned: log in, subscribe, receive.

And what a transaction of Odoo does on the other side: write a ``bus_bus`` row, commit,
NOTIFY through the pool.
"""

import contextlib
import json
import time
import uuid

import psutil
import requests
import websocket
from polling import DEADLINE, LongPolling

TEXT = websocket.ABNF.OPCODE_TEXT
PONG = websocket.ABNF.OPCODE_PONG
CLOSE = websocket.ABNF.OPCODE_CLOSE


def wait_until(condition, what, deadline=DEADLINE):
    """Return the first true result of ``condition``; fail after ``deadline`` s."""
    end = time.monotonic() + deadline
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        time.sleep(0.05)
    return result


def allowed(figure):
    """Return the seconds allowed by a test for what takes a quiet machine so many.

    Generous, as other load makes everything late; stock Odoo takes 50 s, or for ever.
    """
    return 3 * figure + 5


#: Seconds for the first page of a database, which before 16.0 makes all assets.
FIRST_PAGE = 300

#: Of the addon's answer to "do live messages flow?".
HEALTH = "/websocket/bus_alt_connection/health"


def health_urls(odoo):
    """Return where a server answers that, for each of its ports."""
    return {odoo.url + HEALTH, odoo.evented_url + HEALTH}


def health(odoo):
    """Return what it answers: a set of (HTTP status, status, live_messages)."""
    found = set()
    for url in health_urls(odoo):
        response = requests.get(url, timeout=60)
        report = response.json()
        found.add((response.status_code, report["status"], report["live_messages"]))
    return found


LISTENING = {(200, "pass", "listening")}
FALLBACK = {(200, "warn", "fallback")}


def evented_worker(odoo):
    """Return a prefork server's process with the websockets."""
    [evented] = [
        process
        for process in psutil.Process(odoo.pid).children()
        if "gevent" in process.cmdline()
    ]
    return evented


@contextlib.contextmanager
def frozen_evented_worker(odoo):
    """Suspend it for as long as the ``with`` block lasts."""
    evented = evented_worker(odoo)
    evented.suspend()
    try:
        yield
    finally:
        evented.resume()


def own_lines(odoo, *words):
    """Return the addon's lines in a server's log that contain all these words."""
    return [
        line
        for line in odoo.log.read_text().splitlines()
        if " odoo.addons.bus_alt_connection" in line
        and all(word in line for word in words)
    ]


@contextlib.contextmanager
def hearing_canaries(stack):
    """Return a connection that hears the canaries of all instances on a cluster."""
    with contextlib.closing(stack.connect("postgres", role="postgres")) as conn:
        conn.autocommit = True
        conn.cursor().execute("LISTEN bus_alt_connection")
        yield conn


class User:
    """A user who is logged in."""

    def __init__(self, odoo, database, login="admin", password=None):
        self._odoo = odoo
        self._http = requests.Session()
        if len(odoo.databases) > 1:
            # as who has to choose one does; 16.0 of 2022 fails otherwise
            page = {"db": database}
            self._http.get(f"{odoo.url}/web/login", params=page, timeout=FIRST_PAGE)
        self.info = self._json(
            "/web/session/authenticate",
            db=database,
            login=login,
            password=password or login,
        )
        self.partner_id = self.info["partner_id"]

    def _json(self, path, **params):
        response = self._http.post(
            self._odoo.url + path,
            json={"jsonrpc": "2.0", "method": "call", "params": params},
            timeout=120,
        ).json()
        assert "error" not in response, response["error"]
        # which is left out in 16.0 where there is none
        return response.get("result")

    def call(self, model, method, *args, **kwargs):
        """Call a model's method over JSON-RPC, as the web client does."""
        return self._json(
            f"/web/dataset/call_kw/{model}/{method}",
            model=model,
            method=method,
            args=args,
            kwargs=kwargs,
        )

    def websocket(self, *channels, last=0):
        """Open a websocket that has subscribed to ``channels`` and the user's own.

        Or begin with long polling where there are none, which can be used alike.

        :param int last: the id of the last message that is known; 0 makes Odoo send
            those of the last 50 s, and no older ones later
        """
        cookie = "; ".join(f"{c.name}={c.value}" for c in self._http.cookies)
        if self._odoo.stack.environment.series.has_websockets:
            return Websocket(self._odoo.websocket_url, cookie, channels, last)
        return LongPolling(
            f"{self._odoo.evented_url}/longpolling/poll", cookie, channels, last
        )


class Websocket:
    """A websocket with its subscription; collects the notifications it receives."""

    def __init__(self, url, cookie, channels, last=0):
        self._socket = websocket.create_connection(
            url, cookie=cookie, origin="http://localhost", timeout=DEADLINE
        )
        self.notifications = []
        self.send("subscribe", {"channels": list(channels), "last": last})

    def send(self, event_name, data):
        """Send an event and wait until the server has handled it."""
        self._socket.send(json.dumps({"event_name": event_name, "data": data}))
        # frames are handled in order, so that the answer to the ping comes after
        self._socket.ping()
        while self._read() != PONG:
            pass

    def _read(self):
        opcode, data = self._socket.recv_data(control_frame=True)
        assert opcode != CLOSE, f"closed by Odoo: {data!r}"
        if opcode == TEXT:
            self.notifications += json.loads(data)
        return opcode

    def read(self, timeout):
        """Return the notifications that arrive next, none if it takes too long.

        :raise OSError, websocket.WebSocketException: if the websocket is closed
        """
        self._socket.settimeout(timeout)
        before = len(self.notifications)
        with contextlib.suppress(websocket.WebSocketTimeoutException):
            self._read()
        return self.notifications[before:]

    def receive(self, text, deadline=DEADLINE):
        """Return the notification that contains ``text``; wait for it."""
        end = time.monotonic() + deadline
        while not (found := self.find(text)):
            self._socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                self._read()
            except websocket.WebSocketTimeoutException:
                raise AssertionError(f"{text!r} not received in {deadline} s") from None
        return found

    def keep_alive(self):
        """Answer Odoo's pings; it closes a websocket that does not within some 50 s."""
        self._socket.settimeout(0.05)
        with contextlib.suppress(websocket.WebSocketTimeoutException):
            while True:
                self._read()

    def find(self, text):
        """Return the notification received so far that contains ``text``, or None."""
        return next((n for n in self.notifications if text in json.dumps(n)), None)

    def close(self):
        """Close it, as a browser does that leaves the page."""
        self._socket.close()

    def drop(self):
        """Cut the connection, without a word to Odoo."""
        self._socket.shutdown()

    def wait_closed(self):
        """Wait until Odoo closes it, and answer as a browser does."""
        while self._socket.recv_data(control_frame=True)[0] != CLOSE:
            pass


def channel_key(stack, database, channel):
    """Return a channel as it is in ``bus_bus``: JSON, with the database or without."""
    named = stack.environment.series.channels_name_database
    return json.dumps([database, channel] if named else channel, separators=(",", ":"))


class Sender:
    """Sends on the bus as a transaction of Odoo does, all of it through PgBouncer."""

    def __init__(self, stack, database):
        self._stack = stack
        self._database = database

    def send(self, channel, notify=True):
        """Commit a message for ``channel``, then NOTIFY; return the message's text."""
        text = f"message-{uuid.uuid4()}"
        key = self.key(channel)
        message = json.dumps({"type": "e2e", "payload": text})
        self._execute(
            self._database,
            "INSERT INTO bus_bus (channel, message, create_date)"
            " VALUES (%s, %s, now() AT TIME ZONE 'UTC')",
            key,
            message,
        )
        if notify:
            self.notify(f"[{key}]")
        return text

    def key(self, channel):
        """Return a channel as it is in ``bus_bus``: JSON."""
        return channel_key(self._stack, self._database, channel)

    def notify(self, payload):
        """Send a NOTIFY as Odoo does."""
        self._execute("postgres", "SELECT pg_notify('imbus', %s)", payload)

    def last_id(self):
        """Return the id of the last message."""
        return self._execute(self._database, "SELECT max(id) FROM bus_bus")[0][0]

    def _execute(self, database, query, *args):
        return execute(self._stack, database, query, *args)


def execute(stack, database, query, *args):
    """Execute a query through PgBouncer and commit; return its rows, if any."""
    conn = stack.connect(database, role="odoo", pooled=True)
    try:
        with conn, conn.cursor() as cr:
            cr.execute(query, args)
            return cr.fetchall() if cr.description else None
    finally:
        conn.close()
