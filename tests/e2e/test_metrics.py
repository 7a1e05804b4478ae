"""What is counted on a running server, as Prometheus' own parser reads it."""

import contextlib
import json
import re

import psutil
import pytest
import requests
import yaml
from client import User, frozen_evented_worker, health_urls, wait_until
from conftest import LISTENER, ROOT
from prometheus_client.parser import text_string_to_metric_families
from proxy import listen_at

PATH = "/websocket/bus_alt_connection/metrics"

PREFIX = "bus_alt_connection_"

CRON = "cron_trigger"


@pytest.fixture(scope="module", params=[2, 0], ids=["prefork", "threaded"])
def server(request, stack, database, addon, proxy):
    """A server with two cron workers or threads, which listens through the proxy."""
    with stack.odoo(
        database,
        workers=request.param,
        addon=addon,
        preload=False,
        args=["--max-cron-threads=2"],
        env=listen_at(proxy),
    ) as server:
        yield server


@pytest.fixture
def visitor(server, database):
    websocket = User(server, database).websocket("e2e")
    yield websocket
    websocket.close()


@pytest.fixture
def metrics(server):
    return Metrics(server)


class Metrics:
    """Asks each port of a server in turn, as all of them tell the same."""

    def __init__(self, server):
        self._urls = [url.replace("/health", "/metrics") for url in health_urls(server)]

    def ask(self):
        """Return the values by name, and labels if any."""
        self._urls.reverse()
        return {
            key(sample): sample.value
            for family in parse(self._urls[0])
            for sample in family.samples
        }

    def __getitem__(self, name):
        return self.ask()[name]

    def wait(self, condition, what):
        """Wait until a condition is true of what is told; return that."""

        def look():
            found = self.ask()
            return found if condition(found) else None

        return wait_until(look, what)

    def wait_for_state(self, name):
        return self.wait(lambda found: found[state(name)] == 1, name)

    @contextlib.contextmanager
    def grows(self, *names):
        """Wait at the end until these are greater than before."""
        before = self.ask()
        yield
        self.wait(lambda found: all(found[n] > before[n] for n in names), names)


def parse(url):
    response = requests.get(url, timeout=60)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert response.headers["Cache-Control"] == "no-store"
    for secret in ("127.0.0.1", "e2e", "odoo", "postgres"):
        assert secret not in response.text
    return list(text_string_to_metric_families(response.text))


def key(sample):
    """Return a sample's name without ours, with its labels as they are written."""
    labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
    name = sample.name.removeprefix(PREFIX)
    return f"{name}{{{labels}}}" if labels else name


def state(name):
    return f'state{{state="{name}"}}'


def of(channel, name):
    return f'{name}{{channel="{channel}"}}'


def test_is_what_prometheus_reads(server, stack):
    for url in Metrics(server)._urls:
        families = parse(url)
        names = [family.name for family in families]
        assert len(set(names)) == len(names)
        for family in families:
            assert re.fullmatch(PREFIX + "[a-z_]+", family.name)
            assert family.documentation.endswith(".")
            assert family.type in ("counter", "gauge")
            assert family.samples
            for sample in family.samples:
                is_counter = family.type == "counter"
                assert sample.name == family.name + "_total" * is_counter
        [info] = [each for each in families if each.name == PREFIX + "info"]
        [sample] = info.samples
        assert sample.labels["series"] == stack.environment.series.name
        assert sample.value == 1


def test_is_there_for_long_polling(server):
    for url in Metrics(server)._urls:
        assert parse(url.replace("/websocket/", "/longpolling/"))


def test_head(server):
    response = requests.head(server.url + PATH, timeout=60)
    assert (response.status_code, response.text) == (200, "")


def test_terminated_backend(server, visitor, metrics, sql, listening):
    backend = listening(server)
    before = metrics.wait_for_state("listening")
    assert before["state_since_timestamp_seconds"] > 0
    with metrics.grows(of("imbus", "losses_total"), of("imbus", "connects_total")):
        sql("SELECT pg_terminate_backend(%s)", backend)
    after = metrics.wait_for_state("listening")
    since = "state_since_timestamp_seconds"
    assert after[since] > before[since]
    assert after["canaries_lost_total"] == before["canaries_lost_total"]


def test_notifications_and_junk(visitor, metrics, sender):
    metrics.wait_for_state("listening")
    with metrics.grows(of("imbus", "notifications_total"), "junk_total"):
        sender.notify("not json")
    before = metrics["junk_total"]
    with metrics.grows(of("imbus", "notifications_total")):
        visitor.receive(sender.send("e2e"))
    assert metrics["junk_total"] == before


def test_canaries(visitor, metrics):
    metrics.wait_for_state("listening")
    with metrics.grows("canaries_sent_total"):
        pass
    assert 0 < metrics["canary_round_trip_seconds"] < 60


def test_deaf(visitor, metrics, proxy):
    metrics.wait_for_state("listening")
    with metrics.grows("canaries_lost_total", of("imbus", "losses_total")):
        proxy.swallow()
    proxy.reset()
    metrics.wait_for_state("listening")


READABLE, UNREADABLE = 'databases{readable="yes"}', 'databases{readable="no"}'


def test_table(stack, database, visitor, metrics, proxy):
    """Readings in fallback; and of a table that is locked."""
    with metrics.grows(of("imbus", "connect_failures_total")):
        proxy.refuse()
    try:
        metrics.wait_for_state("fallback")
        metrics.wait(lambda found: found[READABLE] == 1, "the database is read")
        with metrics.grows('table_readings_total{result="success"}'):
            pass
        lock = stack.connect(database)
        try:
            with metrics.grows('table_readings_total{result="failure"}'):
                lock.cursor().execute("LOCK TABLE bus_bus IN ACCESS EXCLUSIVE MODE")
            metrics.wait(
                lambda found: (found[READABLE], found[UNREADABLE]) == (0, 1),
                "it cannot be read",
            )
        finally:
            lock.close()
        metrics.wait(
            lambda found: (found[READABLE], found[UNREADABLE]) == (1, 0),
            "it can be read again",
        )
    finally:
        proxy.accept()
    metrics.wait_for_state("listening")


def cron_listens(found):
    """Whether both do, and no other is taken for alive."""
    listeners = {
        name: value
        for name, value in found.items()
        if name.startswith("cron_listeners")
    }
    return (
        listeners.get('cron_listeners{state="listening"}') == 2
        and sum(listeners.values()) == 2
    )


@pytest.mark.cron
def test_cron(server, metrics, sql, listening, proxy):
    names = [of(CRON, "losses_total"), of(CRON, "connects_total")]
    backend = listening(server, channel=CRON)
    metrics.wait(cron_listens, "cron listens")
    with metrics.grows(*names):
        sql("SELECT pg_terminate_backend(%s)", backend)
    metrics.wait(cron_listens, "cron listens again")
    with metrics.grows(of(CRON, "notifications_total")):
        sql("SELECT pg_notify(%s, 'nobody')", CRON)
    proxy.refuse()
    try:
        metrics.wait(
            lambda found: found['cron_listeners{state="fallback"}'] == 2,
            "cron does not listen",
        )
    finally:
        proxy.accept()
    metrics.wait(cron_listens, "cron listens once more")


@pytest.mark.cron
def test_killed_processes(stack, database, addon, sql, listening):
    """A cron worker that dies leaves its counts, and no listener.

    And the next evented worker finds the metrics of cron as well.
    """
    with stack.odoo(
        database, workers=2, addon=addon, args=["--max-cron-threads=3"]
    ) as server:
        metrics = Metrics(server)
        three = 'cron_listeners{state="listening"}'
        connects = of(CRON, "connects_total")
        least = 3
        metrics.wait(lambda found: found[three] == 3, "three listen")
        for _i in range(3):
            backend = listening(server, channel=CRON)
            [(name,)] = sql(
                "SELECT application_name FROM pg_stat_activity WHERE pid = %s", backend
            )
            least = metrics[connects] + 1
            psutil.Process(int(name.removeprefix(LISTENER))).kill()
            metrics.wait(
                lambda found, n=least: found[three] == 3 and found[connects] >= n,
                "three listen again, and the new one has connected",
            )
        [evented] = [
            process
            for process in psutil.Process(server.pid).children()
            if {"gevent", "--gevent"} & set(process.cmdline())
        ]
        evented.kill()
        evented.wait(60)

        def told():
            with contextlib.suppress(AssertionError, OSError):
                return metrics.ask()

        found = wait_until(told, "it is told again")
        assert found[three] == 3
        assert found[connects] >= least


def test_evented_worker_is_frozen(stack, database, addon):
    with stack.odoo(database, workers=2, addon=addon) as server:
        with frozen_evented_worker(server):
            response = requests.get(server.url + PATH, timeout=60)
        assert response.status_code == 503


DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", ["alerts.yml", "grafana.json"])
def test_examples_ask_for_what_there_is(server, visitor, metrics, name):
    text = (DOCS / name).read_text()
    if name == "alerts.yml":
        rules = [
            rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]
        ]
        assert all(rule.keys() >= {"alert", "expr", "for"} for rule in rules)
        queries = [rule["expr"] for rule in rules]
    else:
        queries = [
            target["expr"]
            for panel in json.loads(text)["panels"]
            for target in panel["targets"]
        ]
    metrics.wait(lambda found: "canary_round_trip_seconds" in found, "a canary")
    told = {name.partition("{")[0] for name in metrics.ask()}
    asked = {
        found for query in queries for found in re.findall(rf"{PREFIX}(\w+)", query)
    }
    assert asked and asked <= told | {"cron_listeners"}
