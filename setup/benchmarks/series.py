"""What the addon promises, on the series of Odoo at hand, as rows of one table.

Ours runs through PgBouncer in transaction mode; stock Odoo runs beside it, directly on
PostgreSQL, and they take turns as they do in `delivery`. How late stock is when its
connection is lost is not measured here: that takes a minute, is the same in all series,
and is in `faults`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import client
import psutil
import websocket
from ports import free_ports
from provision import step
from stack import Stack
from test_cron import Action

from . import machine, report_series
from .delivery import Contender, Server, suspended
from .figures import Figures, percentile

MODES = {"prefork": 2, "threaded": 0}

STOCK = Contender(report_series.STOCK, "stock Odoo, direct", addon=None, direct=True)
OURS = Contender(
    report_series.OURS, "addon, PgBouncer", addon="server-wide", direct=False
)

CLIENTS, ROUNDS, TRIGGERS = 10, 3, 5

#: In each round. Many short turns, for a machine is fast in one second and slow in the
#: next.
TURNS, MESSAGES = 10, 10

#: Seconds between the last arrival of a message and the next message. The longer one is
#: for 16.0 of 2022, which loses some by itself if they come in bursts, and for long
#: polling: a message that comes while a client asks again is late in stock Odoo, too.
PAUSE, LONG_PAUSE = 0.02, 0.05

#: Seconds to wait for a message, and for one that another did not bring along.
PATIENCE, LONG_PATIENCE = 2.0, 10.0

#: Seconds until all clients wait for messages.
SUBSCRIBING = 1.0

#: How often the listening backend is killed, and the seconds for which messages are
#: sent afterwards, one in each `INTERVAL`.
KILLS, AFTER, INTERVAL = 3, 2.0, 0.2
KILL = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE query = 'LISTEN "imbus"' AND application_name LIKE 'bus_alt_connection-%'
"""

#: Messages, and seconds between them, while there is nothing to listen on. Not a part
#: of a whole second, for the table may be read so often.
UNHEARD, UNHEARD_INTERVAL = 40, 0.27

VERDICTS = {0: "OK", 1: "WARNING", 2: "FAILED"}


class Audience:
    """Clients of one server on one channel, by whichever transport the series has.

    Each has a thread, because long polling has nothing that could be selected. What a
    closed one has not received is missing.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        # Of its own: in 14.0 a channel may be without the name of its database.
        self._channel = f"{server.contender.name}-{uuid.uuid4()}"
        self._committed: dict[str, float] = {}
        self._news = threading.Event()
        self._closing = threading.Event()
        self._clients = [server.user.websocket(self._channel) for _ in range(CLIENTS)]
        self._arrived: list[dict[str, float]] = [{} for _ in self._clients]
        for pair in zip(self._clients, self._arrived, strict=True):
            threading.Thread(target=self._read, args=pair, daemon=True).start()

    def _read(self, connected: Any, arrived: dict[str, float]) -> None:
        while not self._closing.is_set():
            try:
                found = connected.read(1)
            except (AssertionError, OSError, websocket.WebSocketException):
                return
            now = time.monotonic()
            for notification in found:
                arrived.setdefault(str(notification["message"]["payload"]), now)
            self._news.set()

    def send(self) -> str:
        text = str(uuid.uuid4())
        self._committed[text] = self.server.sender.send(self._channel, text)
        return text

    def wait(self, texts: Sequence[str], seconds: float) -> bool:
        """Wait until all have these messages; return whether they do."""
        end = time.monotonic() + seconds
        while self.missing(texts) and (left := end - time.monotonic()) > 0:
            self._news.wait(left)
            self._news.clear()
        return not self.missing(texts)

    def settle(self, texts: Sequence[str]) -> None:
        """Wait for what is late; what comes with the next message is not lost."""
        if not self.wait(texts, PATIENCE):
            self.send()
            self.wait(texts, LONG_PATIENCE)

    def missing(self, texts: Sequence[str]) -> int:
        return sum(text not in arrived for text in texts for arrived in self._arrived)

    def lateness(self, texts: Sequence[str]) -> list[float]:
        """Return the seconds from the commit to each arrival."""
        return [
            arrived[text] - self._committed[text]
            for text in texts
            for arrived in self._arrived
            if text in arrived
        ]

    def close(self) -> None:
        self._closing.set()
        for connected in self._clients:
            connected.close()


def take_turns(audiences: list[Audience], number: int, pause: float) -> list[Figures]:
    """Measure a round: so many messages on each server, alternately."""
    texts: dict[Audience, list[str]] = {audience: [] for audience in audiences}
    patience = PATIENCE
    for turn in range(TURNS):
        first = (number + turn) % len(audiences)
        for audience in audiences[first:] + audiences[:first]:
            others = [each.server for each in audiences if each is not audience]
            with suspended(others):
                for count in range(1 + MESSAGES):
                    text = audience.send()
                    # The first one of a turn does not count.
                    texts[audience] += [text] * bool(count)
                    if not audience.wait([text], patience):
                        # It is late, and others may be, too.
                        patience = max(PATIENCE / 10, patience / 2)
                    time.sleep(pause)
    figures = []
    for audience, sent in texts.items():
        audience.settle(sent)
        lateness = [seconds * 1000 for seconds in audience.lateness(sent)]
        figures.append(
            {
                "round": number,
                "contender": audience.server.contender.name,
                "delivered": len(lateness),
                "p50_ms": percentile(lateness, 50),
            }
        )
    return figures


def lateness_after_kills(stack: Stack, audience: Audience) -> Figures:
    """Kill what listens, again and again, and send at once and for a while."""
    texts = []
    for _ in range(KILLS):
        client.wait_until(lambda: stack.execute(KILL), "it listens")
        end = time.monotonic() + AFTER
        while time.monotonic() < end:
            texts.append(audience.send())
            time.sleep(INTERVAL)
    return outcome(audience, texts)


def lateness_unheard(stack: Stack, workers: int) -> Figures:
    """Send while there is nothing to listen on."""
    [closed] = free_ports(1)
    env = {"ODOO_DB_LISTEN_PORT": str(closed)}
    with Server(stack, OURS, workers=workers, env=env) as server:
        audience = Audience(server)
        time.sleep(SUBSCRIBING)
        # That there is nothing has to be found out once.
        audience.settle([audience.send()])
        texts = []
        for _ in range(UNHEARD):
            texts.append(audience.send())
            time.sleep(UNHEARD_INTERVAL)
        figures = outcome(audience, texts)
        audience.close()
    return figures


def outcome(audience: Audience, texts: list[str]) -> Figures:
    audience.settle(texts)
    worst = max(audience.lateness(texts), default=None)
    return {"worst_s": worst, "lost": audience.missing(texts)}


def trigger_delay(stack: Stack, server: Server) -> float:
    """Return the most seconds from `_trigger()` to the run of a scheduled action."""
    action = Action(stack, server.odoo, server.contender.database)
    # What a new database has to do, and the server when it has just been started.
    with contextlib.suppress(AssertionError):
        action.delay()
    return max(action.delay() for _ in range(TRIGGERS))


def pooled_listens(stack: Stack) -> list[str]:
    """Return the statements that have PgBouncer's connections listen.

    A later statement may hide them: then PgBouncer has complained of notifications.
    """
    process = psutil.Process(stack.pgbouncer.process.pid)
    ports = {connection.laddr.port for connection in process.net_connections()}
    found = stack.execute(
        "SELECT query, client_port FROM pg_stat_activity WHERE query ILIKE 'listen%'"
    )
    stray = stack.pgbouncer.log.read_text().count("got packet 'A'")
    return [query for query, port in found if port in ports] + ["?"] * stray


def bus_check(server: Server) -> Figures:
    """Return the command's verdict, and what is not OK."""
    result = server.odoo.run("bus_check", "--json", stderr=subprocess.DEVNULL)
    checks = json.loads(result.stdout)["checks"]
    return {
        "verdict": VERDICTS.get(result.returncode, str(result.returncode)),
        "not_ok": [each for each in checks if each["status"] not in ("OK", "-")],
    }


def complaints(server: Server) -> list[str]:
    return [x for x in client.own_lines(server.odoo) if " INFO " not in x]


class Row(dict):
    """The figures of one series and mode."""

    def add(self, name: str, part: Callable[..., Any], *args: object) -> None:
        """Have something measured; what cannot be is None, and why is kept."""
        self[name] = None
        try:
            self[name] = part(*args)
        except (AssertionError, OSError, ValueError) as error:
            self["failed"][name] = str(error)


def measure_mode(stack: Stack, mode: str) -> Row:
    series = stack.environment.series
    workers = MODES[mode]
    row = Row(
        series=series.name,
        mode=mode,
        machine=machine.facts(stack),
        failed={},
        rounds=[],
    )
    pause = PAUSE if series.has_history else LONG_PAUSE
    with contextlib.ExitStack() as running:
        with step(f"Starting stock Odoo {series.name} and ours, {mode}"):
            for contender in (STOCK, OURS):
                stack.create_database(contender.database)
            # With their cron workers, unlike those whose delivery alone is measured.
            stock, ours = servers = [
                running.enter_context(Server(stack, each, workers=workers, args=[]))
                for each in (STOCK, OURS)
            ]
        if series.has_cron_triggers:
            with step("Triggering a scheduled action"):
                for name, server in (("trigger_stock_s", stock), ("trigger_s", ours)):
                    row.add(name, trigger_delay, stack, server)
        audiences = [Audience(server) for server in servers]
        time.sleep(SUBSCRIBING)
        for number in range(ROUNDS):
            with step(f"Delivery, round {number + 1} of {ROUNDS}"):
                row["rounds"] += take_turns(audiences, number, pause)
        with step("Asking whether all is well"):
            row.add("health", lambda: sorted(client.health(ours.odoo)))
            row.add("bus_check", bus_check, ours)
            row.add("complaints", complaints, ours)
            row.add("pooled_listens", pooled_listens, stack)
        audiences[0].close()
        with step("Killing the listening backend"), suspended([stock]):
            row.add("killed", lateness_after_kills, stack, audiences[1])
        audiences[1].close()
    with step("With nothing to listen on"):
        row.add("unheard", lateness_unheard, stack, workers)
    return row


def measure(stack: Stack) -> list[Row]:
    # What an earlier run is to blame for.
    stack.pgbouncer.log.write_text("")
    return [measure_mode(stack, mode) for mode in MODES]


def keep(rows: list[Row], file: Path) -> list[Figures]:
    """Add rows to those of other series in a file; return all, the newest of each."""
    earlier = json.loads(file.read_text()) if file.exists() else []
    kept = {(row["series"], row["mode"]): row for row in [*earlier, *rows]}
    found = sorted(kept.values(), key=lambda row: (float(row["series"]), row["mode"]))
    file.write_text(json.dumps(found, indent=1) + "\n")
    return found
