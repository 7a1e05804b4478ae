"""An instance of Odoo as far as it listens, in a process of its own without Odoo.

Ours is the addon's own code, put together as models/bus.py and models/cron.py do it:
the bus listens, sends canaries and reads the tables, and one cron worker listens, as
with `max_cron_threads = 1`. Stock Odoo's is what its two loops do while nothing comes.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import selectors
import signal
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import psycopg2
from psycopg2 import sql
from stack import Stack

from listening import settings
from listening.listener import Listener
from listening.poller import Poller
from listening.road import Road
from listening.server import IDENTITY
from listening.state import State

# What becomes of it is measured, and not told.
_logger = logging.getLogger(__name__)
_logger.addHandler(logging.NullHandler())

#: Seconds for which stock Odoo's loops wait: TIMEOUT of the bus, SLEEP_INTERVAL of a
#: cron worker; and the channels on which each of them, and of ours, listens.
STOCK_WAITS = {"imbus": 50.0, "cron_trigger": 60.0}

#: What stock Odoo's kind is called here, and ours.
STOCK, OURS = "stock", "ours"

NOTIFY = sql.SQL("{}, pg_notify(%s, %s)").format(sql.SQL(IDENTITY))

Params = dict[str, Any]


class Instance:
    """Our listeners and the poller of one instance, in threads.

    :param listen: connection parameters, for the listening connections
    :param pooled: connection parameters, for the road through PgBouncer
    :param databases: those that count as in use
    :param on_news: as for :class:`listening.poller.Poller`
    """

    def __init__(
        self,
        listen: Params,
        pooled: Params,
        databases: list[str],
        on_news: Callable[[str, Any], Any] = lambda database, channels: None,
    ) -> None:
        options = {
            "db_listen_host": listen["host"],
            "db_listen_port": str(listen["port"]),
            "db_listen_user": listen["user"],
            "db_listen_password": listen["password"],
        }
        found = settings.load(options.get, {}, "odoo.conf")

        def road(database: str) -> Road:
            return Road(
                lambda: {**settings.CONNECTION_DEFAULTS, **pooled, "dbname": database}
            )

        self.state = State(_logger, "imbus", "")
        audience = SimpleNamespace(
            databases=lambda: databases,
            wake=on_news,
            rewind=lambda database, is_failover, last_id: last_id(),
        )
        self.poller = Poller(road, audience, self.state)
        poller = self.poller
        self.state.on_doubt = lambda: poller.read_all(within=poller.INTERVAL)
        self._bus = Listener(
            found,
            on_notifications=lambda payloads: None,
            on_listening=poller.read_all,
            state=self.state,
            road=road(settings.DEFAULT_DATABASE),
            notify_query=NOTIFY,
            on_road_back=lambda: poller.read_all(apart=poller.SAFETY_SPACING),
        )
        self._cron = Listener(
            found,
            on_notifications=lambda payloads: None,
            on_listening=lambda: None,
            state=State(_logger, "cron_trigger", ""),
        )
        self._parts = (self.poller, self._bus, self._cron)
        self._threads = [
            threading.Thread(target=part.run, daemon=True) for part in self._parts
        ]

    def __enter__(self) -> Instance:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for part in self._parts:
            part.stop()
        for thread in self._threads:
            thread.join(30)


def wait_like_stock(params: Params, channel: str) -> None:
    """LISTEN and wait as a loop of stock Odoo's does, for ever."""
    conn = psycopg2.connect(**params)
    conn.autocommit = True
    conn.cursor().execute(f"LISTEN {channel}")
    with selectors.DefaultSelector() as selector:
        selector.register(conn, selectors.EVENT_READ)
        while True:
            if selector.select(STOCK_WAITS[channel]):
                conn.poll()
                conn.notifies.clear()


def run(kind: str, listen: Params, pooled: Params, databases: list[str]) -> None:
    """Be an instance until terminated."""
    if kind == OURS:
        with Instance(listen, pooled, databases):
            signal.pause()
    for channel in STOCK_WAITS:
        threading.Thread(
            target=wait_like_stock, args=[listen, channel], daemon=True
        ).start()
    signal.pause()


@contextlib.contextmanager
def running(
    stack: Stack, kind: str, databases: list[str]
) -> Iterator[list[multiprocessing.Process]]:
    """Run an instance for each of these databases, each in a process."""
    context = multiprocessing.get_context("spawn")
    listen = stack.params("postgres", role="odoo_listen")
    pooled = stack.params("postgres", pooled=True)
    processes = [
        context.Process(
            target=run, args=[kind, listen, pooled, [database]], daemon=True
        )
        for database in databases
    ]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(30)
