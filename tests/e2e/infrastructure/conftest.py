"""What people run around Odoo elsewhere: for ``setup/test --infrastructure`` alone.

What cannot be had is not run, and said to be so.
"""

import json
import time

import pytest
from basics import SetupError
from client import allowed, own_lines, wait_until
from engines import Engines
from probe import Probe
from provision import provision

#: Log lines of the addon about one fault, at most.
MAX_LINES = 15

#: What a line may be about, how it says that all is well, and how that it is not.
NOT_LISTENING = "Cannot listen", "Lost the connection", "By the connection"
WORDS = [
    ('"imbus"', "Listening on", NOT_LISTENING),
    ('"cron_trigger"', "Listening on", NOT_LISTENING),
    ("bus table of", "can be read again", ["Cannot read"]),
]


@pytest.fixture(scope="session")
def engines():
    return Engines(provision(with_test_tools=True))


@pytest.fixture(scope="session")
def get_engine():
    """Return what a function returns, or skip the test if that cannot be had."""

    def get(function, *args):
        try:
            return function(*args)
        except SetupError as error:
            pytest.skip(str(error))

    return get


@pytest.fixture(scope="module")
def database(stack):
    stack.create_database("e2e")
    return "e2e"


class Fault:
    """What the addon logs about a fault, from when it is made until it is over."""

    def __init__(self, server):
        self._server = server
        self._before = len(own_lines(server))

    @property
    def lines(self):
        return own_lines(self._server)[self._before :]

    def is_over(self):
        """Whether the last word about each connection, and the table, is a good one."""
        last = {}
        for line in self.lines:
            for about, good, bad in WORDS:
                if about in line and (good in line or any(b in line for b in bad)):
                    last[about] = good in line
        return all(last.values())

    def wait_over(self, deadline=60, is_noticed=True, faults=1):
        """Wait for the good end; who notices nothing may say nothing.

        :param faults: how many they were in truth
        """
        if is_noticed:
            wait_until(lambda: self.lines, "it is noticed", deadline)
        wait_until(self.is_over, "the log ends with 'Listening on'", deadline)
        # and that is the last word
        time.sleep(1)
        assert self.is_over(), self.lines
        assert len(self.lines) <= faults * MAX_LINES, self.lines


@pytest.fixture
def fault():
    """Begin to look at what a server logs about a fault."""
    return Fault


@pytest.fixture
def kill_listening_backend(stack, database, sql, listening, fault):
    """Return how late (s) the worst message was upon that, and its :class:`Fault`."""

    def kill(server):
        with Probe(stack, server, database) as probe:
            backend = listening(server)
            log = fault(server)
            sql("SELECT pg_terminate_backend(%s)", backend)
            log.wait_over()
        return probe.worst, log

    return kill


@pytest.fixture
def figure(record_property):
    """Keep a figure for docs/infrastructure.json, and hold it to what is allowed.

    :param engine: what it was measured with, with its version
    :param what: what was done
    :param seconds: how late the worst message was, or a scheduled action; None if
        there was nobody whom it could be measured at
    :param to_reach: seconds
    :param fault: its :class:`Fault`, if there was one
    """

    def keep(engine, what, seconds, to_reach, fault=None, **others):
        row = {"engine": engine, "what": what}
        row["seconds"] = None if seconds is None else round(seconds, 2)
        row["to_reach"] = to_reach
        if fault:
            row["lines"] = len(fault.lines)
        record_property("figure", json.dumps({**row, **others}))
        print(f"{engine}, {what}: {row['seconds']} s (to reach: {to_reach} s)")
        assert seconds is None or seconds <= allowed(to_reach)

    return keep
