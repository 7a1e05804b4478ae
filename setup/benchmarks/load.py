"""Odoo under load: users who make requests, and the connections that this takes."""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import client
import psutil
import psycopg2
import requests
import websocket
from odoo_server import CONF, read_options
from ports import HOST, free_ports
from provision import SETUP
from servers import PgBouncer
from stack import Stack

from .delivery import User
from .figures import percentile

#: Seconds between two counts. A NOTIFY's connection lives for some 10 ms, and there are
#: several at any time of a burst.
INTERVAL = 0.1

#: Seconds after the load, for the last messages to arrive.
PATIENCE = 10.0

#: For all the instances of a comparison, of which a direct one takes some 25.
MAX_CONNECTIONS = 250

#: What is said of each setting, and taken from a PgBouncer that runs.
SETTINGS = (
    "default_pool_size",
    "reserve_pool_size",
    "min_pool_size",
    "server_idle_timeout",
)

#: Different things that a client does in turn.
ACTIONS = 4


class Client(User):
    """One of many tabs of a user who is logged in, with a chat of its own."""

    def __init__(self, user: User, chat: int) -> None:
        self._odoo = user._odoo
        self._http = requests.Session()
        self._http.cookies = user._http.cookies
        self._chat = chat
        self._actions = itertools.cycle(
            [self._search, self._post, self._complete, self._open_page]
        )
        self.posted: list[str] = []
        self.seconds: list[float] = []
        self.failures: Counter[str] = Counter()

    def act(self) -> None:
        """Do the next of the things that a user does."""
        action = next(self._actions)
        start = time.monotonic()
        try:
            action()
        except (AssertionError, requests.RequestException) as error:
            self.failures[type(error).__name__] += 1
        else:
            self.seconds.append(time.monotonic() - start)

    def act_until(self, end: float) -> None:
        while time.monotonic() < end:
            self.act()

    def _search(self) -> None:
        fields = {"display_name": {}, "email": {}, "country_id": {"fields": {}}}
        self.call("res.partner", "web_search_read", [], fields, limit=80)

    def _complete(self) -> None:
        self.call("res.partner", "name_search", "a", limit=8)

    def _post(self) -> None:
        text = f"message-{uuid.uuid4()}"
        self.call(
            *("discuss.channel", "message_post", self._chat),
            **{"body": text, "message_type": "comment"},
        )
        self.posted.append(text)

    def _open_page(self) -> None:
        response = self._http.get(f"{self._odoo.url}/odoo", timeout=120)
        # Odoo answers an error of the database with a redirection to another page.
        assert response.ok and response.url.endswith("/odoo"), response.url


class Mailbox(threading.Thread):
    """A websocket that is open all the time, and what comes out of it."""

    def __init__(self, user: User) -> None:
        super().__init__()
        self._websocket = user.subscribe("bench")
        self._closing = threading.Event()
        self._received = ""

    def run(self) -> None:
        # Odoo may close it when it cannot connect to PostgreSQL any more.
        with contextlib.suppress(AssertionError, websocket.WebSocketException):
            while not self._closing.is_set():
                if select.select([self._websocket], [], [], INTERVAL)[0]:
                    self._received += json.dumps(self._websocket.read())

    def count(self, texts: list[str]) -> int:
        """Return how many of the messages have arrived."""
        return sum(text in self._received for text in texts)

    def close(self) -> None:
        self._closing.set()
        self.join()
        self._websocket.close()


class Counts(threading.Thread):
    """Counts each role's connections, again and again, for the `with` block."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self._connection = stack.connect("postgres", role="postgres")
        self._connection.autocommit = True
        self._done = threading.Event()
        self.samples: list[Counter[str]] = []

    def run(self) -> None:
        while not self._done.wait(INTERVAL):
            self.samples.append(count(self._connection))

    def most(self, role: str) -> int:
        """Return the most connections that a role had at a time."""
        return max(sample[role] for sample in self.samples)

    def most_of_all(self) -> int:
        """Return the most that all had together, the superuser who counts as well."""
        return max(sample.total() for sample in self.samples)

    def __enter__(self) -> Counts:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._done.set()
        self.join()
        self._connection.close()


def count(superuser: psycopg2.extensions.connection) -> Counter[str]:
    with superuser.cursor() as cr:
        cr.execute(
            "SELECT usename, count(*) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' GROUP BY usename"
        )
        return Counter(dict(cr.fetchall()))


def burst(clients: list[Client], seconds: float) -> dict[str, Any]:
    """Have all of them make requests at once; return the figures."""
    for each in clients:
        each.posted, each.seconds, each.failures = [], [], Counter()
    start = time.monotonic()
    with ThreadPoolExecutor(len(clients)) as threads:
        list(threads.map(lambda each: each.act_until(start + seconds), clients))
    elapsed = time.monotonic() - start
    times = [x * 1000 for each in clients for x in each.seconds]
    return {
        "requests": len(times),
        "failed": sum((each.failures for each in clients), Counter()).total(),
        "p50_ms": percentile(times, 50),
        "p99_ms": percentile(times, 99),
        "worst_ms": max(times, default=None),
        "per_s": len(times) / elapsed,
    }


class Pooler(PgBouncer):
    """A PgBouncer of its own, by one of the files in setup/ and some lines on top."""

    def __init__(self, stack: Stack, name: str, conf: str, *lines: str) -> None:
        [port] = free_ports(1)
        # A copy, since the servers' user may not be able to read the original.
        (stack.folder / conf).write_text((SETUP / conf).read_text())
        # The included file ends within its section [pgbouncer].
        ini = [f"%include {conf}", f"listen_port = {port}", *lines, ""]
        (stack.folder / f"{name}.ini").write_text("\n".join(ini))
        super().__init__(stack, f"{name}.ini", port, f"{name}.log")

    def settings(self) -> dict[str, float]:
        """Return those of `SETTINGS` that are in force."""
        console = psycopg2.connect(
            host=HOST,
            port=self.port,
            dbname="pgbouncer",
            user="odoo",
            password=read_options(CONF)["db_password"],
        )
        with contextlib.closing(console):
            console.autocommit = True
            with console.cursor() as cr:
                cr.execute("SHOW CONFIG")
                shown = {row[0]: row[1] for row in cr.fetchall()}
        return {name: float(shown[name]) for name in SETTINGS}


class Instance:
    """An Odoo with its users: tabs that make requests, and one open websocket."""

    def __init__(
        self, stack: Stack, role: str, port: int, databases: list[str], **kwargs: Any
    ) -> None:
        """Make one that connects to a port as a role; `kwargs` are those of `Odoo`."""
        self.role = role
        self._port = port
        self._databases = databases
        self._odoo = stack.odoo(
            *databases, args=[f"--db_user={role}", f"--db_port={port}"], **kwargs
        )
        self._mailbox: Mailbox | None = None

    def __enter__(self) -> Instance:
        self._odoo.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._mailbox:
            self._mailbox.close()
        self._odoo.stop()

    @property
    def pid(self) -> int:
        return self._odoo.pid

    def open(self, clients: int) -> None:
        """Log in, and open the tabs and the websocket."""
        users = [User(self._odoo, database) for database in self._databases]
        chats = [
            user.call("discuss.channel", "create", [{"name": "bench"}] * clients)
            for user in users
        ]
        self.clients = [
            Client(users[i % len(users)], chats[i % len(users)][i])
            for i in range(clients)
        ]
        self._mailbox = Mailbox(users[0])
        self._mailbox.start()

    def live(self) -> dict[str, int]:
        """Return how many messages were posted in the first database, and arrived."""
        clients = self.clients[:: len(self._databases)]
        posted = [text for each in clients for text in each.posted]
        with contextlib.suppress(AssertionError):
            client.wait_until(
                lambda: self._mailbox.count(posted) == len(posted),
                "all messages have arrived",
                PATIENCE,
            )
        return {"posted": len(posted), "delivered": self._mailbox.count(posted)}

    def warm_up(self) -> None:
        """Make one request after the other, until every worker has served some."""
        actions = itertools.cycle(self.clients)

        def all_have_served() -> bool:
            next(actions).act()
            return all(map(self._is_connected, self._workers()))

        for each in self.clients:
            for _ in range(ACTIONS):
                each.act()
        client.wait_until(all_have_served, "every worker has served a request")

    def _workers(self) -> list[psutil.Process]:
        children = psutil.Process(self._odoo.pid).children()
        return [each for each in children if "gevent" not in each.cmdline()]

    def _is_connected(self, process: psutil.Process) -> bool:
        return any(
            each.raddr and each.raddr.port == self._port
            for each in process.net_connections("tcp")
        )


def restart_with(stack: Stack, max_connections: int) -> None:
    """Restart PostgreSQL with another limit."""
    stack.execute(f"ALTER SYSTEM SET max_connections = {max_connections}")
    stack.postgres.stop()
    stack.postgres.start()
