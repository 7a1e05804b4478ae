"""One server, many databases: none delays another, and idle ones leave the pool alone.

The poller itself, without Odoo, on databases that have a ``bus_bus`` and no more.
"""

import collections
import json
import logging
import threading
import time
from types import SimpleNamespace

import pytest
from client import wait_until
from many import bus_databases

from listening.poller import Poller
from listening.road import Road
from listening.state import State

COUNT = 60
LOCKED = 4


@pytest.fixture(scope="module")
def databases(stack):
    with bus_databases(stack, "many_", COUNT) as names:
        yield names


class Reader:
    """A poller, and what it has found."""

    def __init__(self, stack, databases, logger):
        self._stack = stack
        self._arrived = collections.defaultdict(dict)
        self.state = State(logger, "imbus", "")
        audience = SimpleNamespace(
            databases=lambda: databases,
            wake=self._on_news,
            rewind=lambda database, is_failover, last_id: last_id(),
        )
        self.poller = Poller(self._make_road, audience, self.state)

    def _make_road(self, database):
        return Road(lambda: self._stack.params(database, pooled=True))

    def _on_news(self, database, channels):
        now = time.monotonic()
        for channel in ["(first)"] if channels is None else channels:
            self._arrived[database].setdefault(channel, now)

    def __enter__(self):
        self._thread = threading.Thread(target=self.poller.run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self.poller.stop()
        self._thread.join(30)

    def has_read(self, databases):
        return all(self._arrived.get(name) for name in databases)

    def arrived(self, database, channel):
        return self._arrived[database].get(channel)


@pytest.fixture
def reader(stack, databases):
    return Reader(stack, databases, logging.getLogger(__name__))


def test_a_locked_database_delays_no_other(stack, databases, reader, record, caplog):
    locked, others = databases[:LOCKED], databases[LOCKED:]
    locks, senders, sent = [], {}, {}
    caplog.set_level(logging.INFO)

    def told(text):
        return all(text.format(name) in caplog.text for name in locked)

    with reader:
        wait_until(lambda: reader.has_read(databases), "all are read once")
        for name in locked:
            conn = stack.connect(name)
            conn.cursor().execute("LOCK TABLE bus_bus IN ACCESS EXCLUSIVE MODE")
            locks.append(conn)
        wait_until(
            lambda: all(
                f'"{name}": waits for a lock' in caplog.text for name in locked
            ),
            "each locked one is named",
        )
        for round_number in range(8):
            for name in others[:: len(others) // 10]:
                if name not in senders:
                    senders[name] = stack.connect(name)
                    senders[name].autocommit = True
                channel = json.dumps([name, round_number])
                insert = "INSERT INTO bus_bus (channel) VALUES (%s)"
                senders[name].cursor().execute(insert, [channel])
                sent[name, channel] = time.monotonic()
                time.sleep(0.05)
        wait_until(lambda: all(reader.arrived(*key) for key in sent), "all arrive")
        for conn in locks:
            conn.close()
        wait_until(
            lambda: all(
                f'"{name}" can be read again' in caplog.text for name in locked
            ),
            "the locked ones are read again",
        )
    for conn in senders.values():
        conn.close()
    worst = max(reader.arrived(*key) - at for key, at in sent.items())
    record(f"{LOCKED} of {COUNT} databases locked", worst, 1.5)


@pytest.fixture
def short_server_idle_timeout(stack):
    """Set on PgBouncer to 6 s, a fifth of what we recommend."""
    stack.console("SET server_idle_timeout = 6")
    yield
    stack.console("SET server_idle_timeout = 30")


def test_idle_databases_leave_the_pool_alone(
    databases, reader, sql, short_server_idle_timeout
):
    """Five times as fast as it is: 12 server connections, however many databases."""
    poller = reader.poller
    poller.SAFETY_INTERVAL /= 30
    poller.SAFETY_SPACING /= 5
    reader.state.proven("there")

    def held():
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 'many_%'"
        return sql(query)[0][0]

    with reader:
        wait_until(lambda: reader.has_read(databases), "all are read once")
        wait_until(lambda: held() <= 12, "what that held is given back")
        most = 0
        read = {name: database.due for name, database in poller._databases.items()}
        end = time.monotonic() + 1.2 * COUNT * poller.SAFETY_SPACING
        while time.monotonic() < end:
            most = max(most, held())
            time.sleep(0.1)
        due = {name: database.due for name, database in poller._databases.items()}
    assert all(due[name] > read[name] for name in databases), "each was read again"
    # some are given back late by a busy machine; without the spacing all would be held
    assert 0 < most <= 2 * 12
