"""Waves of faults around a server, and what became of it."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from basics import SetupError, step
from client import LISTENING, User, health, wait_until
from ports import Ports
from provision import Environment
from proxy import Proxy, listen_at
from stack import Stack

from soaking.faults import FAULTS, Site
from soaking.ledger import GRACE, Ledger
from soaking.traffic import BROKEN, Browser, Sender, Trigger
from soaking.watch import LEAVERS, Backends, Log, Processes

DATABASES = ("soak_one", "soak_two")

BROWSERS = {"steady": None, "other": None, "visitor": 10.0}
"""The names of those of each database, and for how many seconds they stay."""

WAVE = (20.0, 60.0)
"""Seconds within which the faults of a wave begin."""

GAP = 5.0
"""Seconds between two faults of a wave, on average."""

TOLD = 20
"""How many violations are told at the end; all of them are in the file."""

RECOVERY = 120.0
"""Seconds after a wave until NOTIFY is proven to arrive again: a canary that could not
be sent is tried again after 60 s at the latest."""


@contextlib.contextmanager
def started(environment: Environment, is_stock: bool = False) -> Iterator[Site]:
    """A server with two databases, and all that can fail around it.

    :param is_stock: without the addon, and directly at PostgreSQL
    """
    with contextlib.ExitStack() as opened:
        stack = opened.enter_context(
            Stack(environment, environment.data / "soak", Ports.free(), fsync=False)
        )
        for database in DATABASES:
            stack.create_database(database)
        road = opened.enter_context(Proxy(stack.ports.postgres))
        with step("Starting Odoo"):
            server = opened.enter_context(
                stack.odoo(
                    *DATABASES,
                    preload=False,
                    addon=None if is_stock else "server-wide",
                    direct=is_stock,
                    env=listen_at(road),
                )
            )
        yield Site(stack, server, road, is_stock)


class Soak:
    """One run."""

    def __init__(self, site: Site, seed: int) -> None:
        stack, server = site.stack, site.server
        self.site = site
        self.seed = seed
        self.ledger = Ledger()
        for database in DATABASES:
            site.senders[database] = Sender(stack, database, self.ledger)
        self.browsers = [
            Browser(f"{database} {name}", User(server, database), self.ledger, stays)
            for database in DATABASES
            for name, stays in BROWSERS.items()
        ]
        for browser in self.browsers:
            site.senders[browser.name.split()[0]].receivers.append(browser.name)
        self.triggers = [
            Trigger(stack, server, database, self.ledger) for database in DATABASES
        ]
        self.backends = Backends(site, self.ledger)
        self.processes = Processes(site, self.ledger)
        self.log = Log(server, self.ledger)
        self.faults: Counter[str] = Counter()
        self.in_the_way: Counter[str] = Counter()

    def run(self, seconds: float, names: list[str]) -> dict[str, Any]:
        actors = [*self.site.senders.values(), *self.triggers, self.backends]
        for trigger in self.triggers:
            trigger.warm_up()
        for browser in self.browsers:
            browser.start()
        wait_until(lambda: all(b.connections for b in self.browsers), "websockets")
        for actor in actors:
            actor.start()
        self._settle(0)
        end = time.monotonic() + seconds
        wave = 0
        while time.monotonic() < end:
            wave += 1
            self._run_wave(wave, names)
        for actor in actors:
            actor.stop()
            actor.join(RECOVERY)
        # what was sent last
        self._wait(lambda: not self.ledger.waits(), "the last messages")
        for browser in self.browsers:
            browser.stop()
            browser.join(RECOVERY)
        return self._report(wave, seconds)

    def _run_wave(self, wave: int, names: list[str]) -> None:
        # of its own, so that each wave can be told from the seed and its number
        chance = random.Random(f"{self.seed}/{wave}")
        self.site.random = random.Random(f"{self.seed}/{wave}/site")
        begun = time.monotonic()
        end = begun + chance.uniform(*WAVE)
        threads: list[threading.Thread] = []
        told = []
        while time.monotonic() < end:
            name = chance.choice(names)
            fault, share = FAULTS[name], chance.random()
            low, high = fault.seconds
            gap = chance.expovariate(1 / GAP)
            busy = {
                part for t in threads if t.is_alive() for part in FAULTS[t.name].touches
            }
            if not fault.touches & busy:
                lasts = low + share * (high - low)
                thread = threading.Thread(
                    target=self._run_fault, args=(name, lasts), name=name
                )
                thread.start()
                threads.append(thread)
                told.append(f"{name} {lasts:.0f} s" if lasts else name)
            time.sleep(gap)
            self.ledger.check()
        for thread in threads:
            while thread.is_alive():
                thread.join(1)
                self.ledger.check()
        self._settle(len(threads))
        took = time.monotonic() - begun
        print(f"Wave {wave}, {took:.0f} s: {', '.join(told)}", flush=True)

    def _run_fault(self, name: str, seconds: float) -> None:
        try:
            with self.ledger.fault(name, FAULTS[name].blocks):
                if name in LEAVERS:
                    self.backends.left()
                FAULTS[name].run(self.site, seconds)
            self.faults[name] += 1
        except (*BROKEN, IndexError, SetupError) as error:
            self.in_the_way[f"{name}: {type(error).__name__}"] += 1

    def _settle(self, faults: int) -> None:
        """Everything flows by itself again after so many faults."""
        quiet = time.monotonic() + GRACE + 1
        self._wait(lambda: time.monotonic() > quiet, "quiet")
        self._wait(self._is_well, "it listens")
        self.processes.look()
        self.log.look(faults)

    def _is_well(self) -> bool:
        if self.site.is_stock:
            # there is no way to know
            return self.site.is_served()
        try:
            return health(self.site.server) == LISTENING
        except BROKEN:
            return False

    def _wait(self, condition: Any, what: str) -> None:
        end = time.monotonic() + RECOVERY
        while not condition():
            if time.monotonic() > end:
                self.ledger.violated(f"not within {RECOVERY:.0f} s: {what}")
                return
            time.sleep(0.3)
            self.ledger.check()

    def _report(self, waves: int, seconds: float) -> dict[str, Any]:
        delays = sorted(delay for t in self.triggers for delay in t.delays)
        return {
            "seed": self.seed,
            "minutes": round(seconds / 60, 1),
            "waves": waves,
            "faults": dict(self.faults),
            "in_the_way": dict(self.in_the_way),
            "sent": sum(sender.sent for sender in self.site.senders.values()),
            "messages": self.ledger.figures(),
            "connections": sum(browser.connections for browser in self.browsers),
            "triggers": {"run": len(delays), "worst": round(max(delays, default=0), 2)},
            "backends_of_a_road": self.backends.most,
            "processes": self.processes.seen,
            "log_lines": self.log.lines,
            "violations": self.ledger.violations,
        }


def render(report: dict[str, Any]) -> str:
    """The figures for a reader."""
    faults = ", ".join(f"{name} {n}" for name, n in sorted(report["faults"].items()))
    messages = report["messages"]
    lines = [
        f"{report['minutes']} minutes, {report['waves']} waves,"
        f" {sum(report['faults'].values())} faults: {faults}",
        f"{report['sent']} messages sent, {messages['received']} received by"
        f" {len(DATABASES) * len(BROWSERS)} browsers, {messages['never']} never;"
        f" p50 {messages.get('p50')} s, p99 {messages.get('p99')} s, worst"
        f" {messages.get('worst')} s",
        f"{report['connections']} websockets; {report['triggers']['run']} scheduled"
        f" actions, worst {report['triggers']['worst']} s",
        f"at most {report['backends_of_a_road']} backends of ours on a database;"
        f" {report['log_lines']} lines of ours in the log",
        f"Violations: {len(report['violations'])}",
        *report["violations"][:TOLD],
    ]
    if report["violations"]:
        lines.append(f"Again: setup/soak --seed {report['seed']}")
    return "\n".join(lines)
