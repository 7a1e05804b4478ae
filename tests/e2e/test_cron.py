"""Scheduled actions start at once when triggered, and cron outlives the database."""

import contextlib
import re
import time
import uuid

import psutil
import pytest
from client import User, allowed, execute, hearing_canaries, wait_until
from probe import Probe
from proxy import listen_at

pytestmark = pytest.mark.cron

CHANNEL = "cron_trigger"

MODES = {"prefork": 2, "threaded": 0}


@pytest.fixture(scope="module", params=MODES.values(), ids=MODES)
def workers(request):
    return request.param


@pytest.fixture(scope="module")
def server(stack, database, addon, workers, proxy):
    """A server with one cron worker or thread, which listens through the proxy."""
    with stack.odoo(
        database, workers=workers, addon=addon, env=listen_at(proxy)
    ) as server:
        yield server


class Action:
    """A scheduled action that notes when it runs."""

    def __init__(self, stack, server, database, then=""):
        self._stack = stack
        self._database = database
        self._user = User(server, database)
        self._name = f"e2e {uuid.uuid4()}"
        self._execute("CREATE TABLE IF NOT EXISTS e2e_cron (name text, ran float)")
        [model] = self._user.call("ir.model", "search", [("model", "=", "res.users")])
        code = (
            'env.cr.execute("INSERT INTO e2e_cron VALUES (%s, extract(epoch from'
            f' clock_timestamp()))", ({self._name!r},))\n{then}'
        )
        action = {"name": self._name, "model_id": model, "state": "code"}
        [self.cron] = self._user.call(
            "ir.cron",
            "create",
            [
                {
                    **action,
                    **stack.environment.series.cron_values,
                    "code": code,
                    "interval_type": "months",
                    "active": True,
                    "nextcall": "2099-01-01",
                }
            ],
        )
        [self._trigger] = self._user.call(
            "ir.actions.server",
            "create",
            [{**action, "code": f"env['ir.cron'].browse({self.cron})._trigger()"}],
        )

    def _execute(self, query, *args):
        return execute(self._stack, self._database, query, *args)

    def runs(self):
        """Return when it ran (``time.time()``)."""
        found = self._execute(
            "SELECT ran FROM e2e_cron WHERE name = %s ORDER BY ran", self._name
        )
        return [ran for (ran,) in found]

    def trigger(self):
        """Have Odoo call ``_trigger()`` and commit; return when that was done."""
        self._user.call("ir.actions.server", "run", [self._trigger])
        return time.time()

    def works(self):
        """Whether Odoo answers."""
        try:
            return self._user.call("res.users", "search_count", []) > 0
        except (AssertionError, OSError, ValueError):
            return False

    def delay(self):
        """Trigger it; return the seconds until it has run."""
        before = len(self.runs())
        triggered = self.trigger()
        runs = wait_until(lambda: self.runs()[before:], "the scheduled action runs")
        return max(0, runs[0] - triggered)


@pytest.fixture
def action(stack, server, database):
    return Action(stack, server, database)


@pytest.fixture
def record(record_property, request):
    def record(delay):
        record_property(request.node.name, round(delay, 3))
        print(f"{request.node.name}: {delay:.3f} s (to reach: 1 s)")
        assert delay <= allowed(1)

    return record


def test_starts_at_once(server, action, listening, record):
    listening(server, channel=CHANNEL)
    record(max(action.delay() for _i in range(5)))


def test_after_its_backend_was_terminated(server, action, sql, listening, record):
    backend = listening(server, channel=CHANNEL)
    sql("SELECT pg_terminate_backend(%s)", backend)
    listening(server, other_than=[backend], channel=CHANNEL)
    record(action.delay())


def test_after_a_postgres_restart(stack, server, action, listening, record):
    backend = listening(server, channel=CHANNEL)
    stack.restart_postgres()
    listening(server, other_than=[backend], channel=CHANNEL)
    wait_until(action.works, "Odoo serves again")
    record(action.delay())


@pytest.mark.parametrize("seconds", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_after_the_direct_host_was_away(
    server, action, proxy, listeners, listening, record, seconds
):
    """What was triggered meanwhile runs as soon as it is back."""
    listening(server, channel=CHANNEL)
    proxy.refuse()
    try:
        wait_until(lambda: not listeners(server, CHANNEL), "it is gone")
        before = len(action.runs())
        action.trigger()
        time.sleep(seconds)
    finally:
        proxy.accept()
    listening(server, channel=CHANNEL)
    wait_until(lambda: len(action.runs()) > before, "what was triggered meanwhile")
    record(action.delay())


def test_half_open(server, action, proxy, listening, record):
    backend = listening(server, channel=CHANNEL)
    proxy.swallow()
    listening(server, other_than=[backend], channel=CHANNEL)
    proxy.reset()
    record(action.delay())


def test_no_stray_notification(stack, server, action, listening):
    """A hundred triggers, and PgBouncer does not get one back from PostgreSQL."""
    listening(server, channel=CHANNEL)
    # stock Odoo may have been here before, in another test
    before = stack.pgbouncer.log.stat().st_size
    for _i in range(100):
        action.trigger()
    action.delay()
    assert b"got packet 'A'" not in stack.pgbouncer.log.read_bytes()[before:]


def test_what_a_job_sends(stack, server, database, sql, listening):
    """A job that triggers another and sends on the bus: through the pooler."""
    listening(server, channel=CHANNEL)
    second = Action(stack, server, database)
    text = f"from a job {uuid.uuid4()}"
    first = Action(
        stack,
        server,
        database,
        then=f"env['ir.cron'].browse({second.cron})._trigger()\n"
        f"env['bus.bus']._sendone('e2e', 'e2e', {text!r})",
    )
    websocket = User(server, database).websocket("e2e")
    first.trigger()
    websocket.receive(text)
    wait_until(second.runs, "the second one")
    websocket.close()


@pytest.mark.parametrize("what", ["pgbouncer", "postgres"])
@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_server_outlives(
    stack, server, database, action, workers, listening, what, seconds
):
    """The same master, and everything flows again by itself."""
    process = psutil.Process(server.pid)
    away = getattr(stack, what)
    with Probe(stack, server, database) as probe:
        listening(server, channel=CHANNEL)
        probe.settle()
        away.stop()
        time.sleep(seconds)
        away.start()
        listening(server, channel=CHANNEL)
        wait_until(action.works, "Odoo serves again")
        assert action.delay() <= allowed(1)
    assert process.is_running() and process.pid == server.pid
    assert probe.worst <= allowed(2)


def test_server_outlives_one_of_its_databases(stack, database, addon, set_pgbouncer):
    """Workers are spawned all the same; stock Odoo stops."""
    # for which PgBouncer may have Odoo wait for the database, by default 120 s
    set_pgbouncer("query_wait_timeout", 5)
    dropped = stack.create_database("e2e_dropped")
    with stack.odoo(database, dropped, workers=2, addon=addon) as server:
        stack.drop_database(dropped)
        master = psutil.Process(server.pid)
        before = master.children()
        for process in before:
            process.kill()
        wait_until(
            lambda: len(set(master.children()) - set(before)) == len(before),
            "there are as many new ones",
            deadline=60,
        )
        User(server, database)


@contextlib.contextmanager
def canaries(stack):
    """Count the canaries of all instances on a cluster."""
    with hearing_canaries(stack) as conn:

        def count():
            conn.poll()
            return len(conn.notifies)

        yield count


def idle_server(stack, addon, *args):
    """Two cron workers and nobody who has a database or a websocket."""
    return stack.odoo(
        "nobody",
        workers=2,
        addon=addon,
        preload=False,
        args=["--max-cron-threads=2", *args],
    )


def test_sends_no_canaries(other_cluster, addon):
    """What proves the bus's connection proves theirs, too."""
    with canaries(other_cluster) as count:
        with idle_server(other_cluster, addon):
            time.sleep(10)
        assert count() == 0


@pytest.mark.slow
def test_one_canary_in_a_while(stack, database, addon):
    """Not one for each of the connections: here three."""
    seconds = 30
    with stack.odoo(
        database, workers=2, addon=addon, args=["--max-cron-threads=2"]
    ) as server:
        websocket = User(server, database).websocket("e2e")
        with canaries(stack) as count:
            time.sleep(seconds)
            assert 1 <= count() <= seconds / 2.5 + 2
        websocket.close()


@pytest.mark.slow
def test_is_not_woken_for_nothing(other_cluster, addon):
    """By its timer of 60 s and no more often, as without the addon."""
    with idle_server(
        other_cluster, addon, "--log-handler=odoo.service.server:DEBUG"
    ) as server:

        def passes():
            text = server.log.read_text()
            return re.findall(r"WorkerCron \((\d+)\) polling for jobs", text)

        # the first ones, and those after they began to listen
        wait_until(lambda: len(set(passes())) == 2, "both workers are at work")
        time.sleep(10)
        before = len(passes())
        time.sleep(75)
        workers = set(passes())
        assert len(workers) == 2
        assert len(workers) <= len(passes()) - before <= 2 * len(workers)
