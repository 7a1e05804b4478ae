"""Reads by TLS what comes in records of 16 KB; a program, for another Python and libpq.

Arguments: "notifications" or "answers"; where to read; where to send. It ends with an
error if something has not come within `DEADLINE`.
"""

import logging
import pathlib
import queue
import sys
import threading
import time

import psycopg2
from psycopg2.extensions import parse_dsn

sys.path.append(str(pathlib.Path(__file__).resolve().parents[3]))

from listening import connecting  # noqa: E402
from listening.listener import Listener  # noqa: E402
from listening.settings import Settings  # noqa: E402
from listening.state import State  # noqa: E402

#: Seconds within which all must have come. What waits in a buffer does so until the
#: listener asks for a sign of life, after 10 s of silence.
DEADLINE = 8

RECORD = 16384

#: Bytes of a notification beside its payload, on a channel of 5 letters.
OVERHEAD = 16


def burst(size):
    """Return payloads that make so many bytes, and go across the ends of records."""
    count = size // 6000
    sizes = [size // count] * (count - 1)
    sizes.append(size - sum(sizes))
    return [f"{i:02}".ljust(size - OVERHEAD, "x") for i, size in enumerate(sizes)]


def read_notifications(params, sender):
    received = queue.Queue()
    is_listening = threading.Event()
    listener = Listener(
        Settings(params, {}, 0, True),
        lambda payloads: [received.put(payload) for payload in payloads],
        is_listening.set,
        State(logging.getLogger(), "burst", "So what."),
    )
    threading.Thread(target=listener.run, daemon=True).start()
    assert is_listening.wait(DEADLINE)
    conn = psycopg2.connect(sender)
    conn.autocommit = True
    for records in (2, 3, 4, 2, 5):
        sent = burst(records * RECORD)
        conn.cursor().execute("SELECT pg_notify('burst', unnest(%s))", (sent,))
        end = time.monotonic() + DEADLINE
        for text in sent:
            assert received.get(timeout=max(end - time.monotonic(), 0.001)) == text
    listener.stop()


def read_answers(params):
    conn, _none = connecting.Connector(lambda: params).connect()
    for rows in range(10, 700, 3):
        found = connecting.query(
            conn,
            "SELECT repeat('x', 100) FROM generate_series(1, %s)",
            (rows,),
            timeout=DEADLINE,
        )
        assert len(found) == rows


if __name__ == "__main__":
    _program, what, params, sender = sys.argv
    if what == "notifications":
        read_notifications(parse_dsn(params), sender)
    else:
        read_answers(parse_dsn(params))
