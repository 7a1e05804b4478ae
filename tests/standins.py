"""Dispatchers of other series, made by us after what is known of them.

Module, class, names and the calls in their order are theirs, so that our overrides find
what they would find there; all else is left out.
"""

import json
import select
import selectors
import threading
from types import SimpleNamespace

from odoo import sql_db


def hashable(key):
    return tuple(key) if isinstance(key, list) else key


def tuplify(key):
    return tuple(map(tuplify, key)) if isinstance(key, list) else key


class ImDispatch:
    """That of 15.0: events of requests that wait, taken out when they are set."""

    def __init__(self):
        self.channels = {}
        self.started = False

    def loop(self):
        with sql_db.db_connect("postgres").cursor() as cr:
            conn = cr._cnx
            cr.execute("listen imbus")
            cr.commit()  # pylint: disable=invalid-commit
            while not module_15.stopped.is_set():
                if select.select([conn], [], [], 1) == ([], [], []):
                    continue
                conn.poll()
                channels = []
                while conn.notifies:
                    channels.extend(json.loads(conn.notifies.pop().payload))
                events = set()
                for channel in channels:
                    events.update(self.channels.pop(hashable(channel), set()))
                for event in events:
                    event.set()

    # what the tests do with it

    def subscribe(self, channel):
        event = threading.Event()
        self.channels.setdefault(channel, set()).add(event)
        return event


class BusDispatcher(threading.Thread):
    """That of the development line: topics of channels, a worker for each database."""

    def __init__(self):
        super().__init__(daemon=True)
        self._topic_by_channel = {}

    def _listener_loop(self):
        cursor = sql_db.db_connect("postgres").cursor()
        with cursor as cr, selectors.DefaultSelector() as selector:
            cr.execute("listen imbus")
            cr.commit()  # pylint: disable=invalid-commit
            conn = cr._cnx
            selector.register(conn, selectors.EVENT_READ)
            while not module_20.stopped.is_set():
                if not selector.select(1):
                    continue
                conn.poll()
                channels = []
                while conn.notifies:
                    channels.extend(json.loads(conn.notifies.pop().payload))
                for channel in channels:
                    event = self._topic_by_channel.get(tuplify(channel))
                    if event:
                        event.set()

    # what the tests do with it

    def subscribe(self, channel):
        return self._topic_by_channel.setdefault(channel, threading.Event())


module_15 = SimpleNamespace(
    ImDispatch=ImDispatch, dispatch=None, hashable=hashable, stopped=threading.Event()
)
module_20 = SimpleNamespace(
    BusDispatcher=BusDispatcher,
    dispatch=BusDispatcher(),
    tuplify=tuplify,
    stopped=threading.Event(),
)
