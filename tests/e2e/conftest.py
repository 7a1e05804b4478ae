"""The running stack that the end-to-end tests drive.

PostgreSQL, PgBouncer in transaction mode and Odoo are real, and run on free ports of
their own. ``--stock`` runs the same tests on an Odoo without the addon: those that
prove something fail there.
"""

import functools
import os
import sys
from pathlib import Path

import hypothesis
import psutil
import pytest
from client import Sender, User, allowed, wait_until
from hypothesis.configuration import set_hypothesis_home_dir
from proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "setup"))
# `listening` is tested by itself, too. Last, for there are common names beside it.
sys.path.append(str(ROOT))

import ports  # noqa: E402
import provision  # noqa: E402
from basics import STATE, tail  # noqa: E402
from checking import check  # noqa: E402
from ports import Ports  # noqa: E402
from stack import Stack  # noqa: E402

#: Which of the runs this is that setup/test starts at a time, and how many there are.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

# what the other run is about to use looks free
ports.PORTS = ports.PORTS[WORKER::WORKERS]

#: What the application_name of a listening connection begins with; its process follows.
LISTENER = "bus_alt_connection-"

# Of what is pure, the same examples each time; with setup/test --all more, and others
# each time, of which a failure prints how to have it again. No test depends on speed.
set_hypothesis_home_dir(STATE / "hypothesis")
ALIKE = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
}
hypothesis.settings.register_profile("default", derandomize=True, **ALIKE)
hypothesis.settings.register_profile(
    "thorough", derandomize=False, print_blob=True, max_examples=1000, **ALIKE
)
hypothesis.settings.load_profile("default")

#: Markers of tests that cannot be run everywhere, and what there must be for them.
NEEDS = {
    "websockets": lambda series: series.has_websockets,
    "long_polling": lambda series: not series.has_websockets,
    "cron": lambda series: series.has_cron_triggers,
    "history": lambda series: series.has_history,
    "notify_function": lambda series: series.has_notify_function,
    "newest": lambda series: series.name == provision.DEFAULT_SERIES,
    "root": lambda series: os.geteuid() == 0,
}


@functools.cache
def get_environment():
    return provision.provision(with_test_tools=True)


def pytest_addoption(parser):
    parser.addoption("--stock", action="store_true", help="leave the addon out")


def pytest_collection_modifyitems(config, items):
    """Leave out what does not apply here, and say so; that is not to skip it."""
    if not any(item.get_closest_marker(name) for item in items for name in NEEDS):
        return
    series = get_environment().series
    missing = [name for name, is_there in NEEDS.items() if not is_there(series)]
    left_out = [i for i in items if any(map(i.get_closest_marker, missing))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    whom = "" if NEEDS["root"](series) else " and to who is not root"
    text = f"{len(left_out)} not applicable to Odoo {series.name}{whom}"
    config.stash[LEFT_OUT] = text


LEFT_OUT = pytest.StashKey()


def pytest_sessionfinish(session):
    """Tell it to who started the runs; each of them has left out the same."""
    if output := getattr(session.config, "workeroutput", None):
        output["left_out"] = session.config.stash.get(LEFT_OUT, None)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    output = getattr(node, "workeroutput", {})
    node.config.stash[LEFT_OUT] = output.get("left_out")


def pytest_terminal_summary(terminalreporter, config):
    if text := config.stash.get(LEFT_OUT, None):
        terminalreporter.write_line(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Show with a failed test what the servers said last."""
    report = yield
    stack = getattr(item, "funcargs", {}).get("stack")
    if report.failed and stack:
        for server in (stack.postgres, stack.pgbouncer):
            report.sections.append((f"end of {server.log}", tail(server.log, 40)))
    return report


def own_folder(name):
    """A stack's folder, of this run alone where several run at a time."""
    return get_environment().data / f"{name}{WORKER or ''}"


@pytest.fixture(scope="session")
def stack():
    with Stack(
        get_environment(), own_folder("test"), Ports.free(), fsync=False
    ) as stack:
        yield stack


@pytest.fixture(scope="session")
def other_cluster(stack):
    """Another PostgreSQL, with a PgBouncer of its own."""
    other = Stack(stack.environment, own_folder("other"), Ports.free(), fsync=False)
    with other:
        yield other


@pytest.fixture(scope="module")
def proxy(stack):
    """Where a module's server listens, if it wants that to fail."""
    with Proxy(stack.ports.postgres) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def database(stack):
    stack.create_database("e2e")
    return "e2e"


@pytest.fixture(scope="session")
def addon(request):
    """How the addon is switched on, for servers where that is not what is tested."""
    return None if request.config.getoption("--stock") else "server-wide"


@pytest.fixture(scope="session", params=[2, 0], ids=["prefork", "threaded"])
def odoo(request, stack, database, addon):
    """A server in each mode, for tests that leave it as they found it."""
    with stack.odoo(database, workers=request.param, addon=addon) as server:
        yield server


@pytest.fixture
def sender(stack, database):
    return Sender(stack, database)


@pytest.fixture
def subscribed(odoo, database):
    """A websocket, or long polling, that has subscribed to the channel ``e2e``."""
    websocket = User(odoo, database).websocket("e2e")
    yield websocket
    websocket.close()


@pytest.fixture
def record(record_property):
    """Keep a figure for the report, and hold it to what is allowed."""

    def record(what, worst, figure):
        record_property(what, round(worst, 2))
        print(f"{what}: worst lateness {worst:.2f} s (to reach: {figure} s)")
        assert worst <= allowed(figure)

    return record


@pytest.fixture
def sql(stack):
    """Execute a query as superuser on PostgreSQL itself."""
    return stack.execute


@pytest.fixture
def listeners(sql):
    """Return the backend pids of the listening connections, of a server or of all."""

    def pids(server=None, channel="imbus"):
        found = sql(
            "SELECT pid, application_name FROM pg_stat_activity"
            " WHERE application_name LIKE %s AND query = %s",
            f"{LISTENER}%",
            f'LISTEN "{channel}"',
        )
        if server is None:
            return [pid for pid, _name in found]
        process = psutil.Process(server.pid)
        names = {
            f"{LISTENER}{child.pid}" for child in [process, *process.children(True)]
        }
        return [pid for pid, name in found if name in names]

    return pids


@pytest.fixture
def listening(listeners):
    """Wait until a server has a listening connection; return its backend pid."""

    def wait(server, other_than=(), channel="imbus"):
        return wait_until(
            lambda: [p for p in listeners(server, channel) if p not in other_than],
            f"a listening connection other than {list(other_than)}",
        )[0]

    return wait


@pytest.fixture
def bus_check(stack, database):
    """Run the command with the options of a server, by default one that is right."""

    def run(*args, env=None, addon="server-wide", **options):
        return check(stack.odoo(database, addon=addon, env=env, **options), *args)

    return run


@pytest.fixture
def run_json(bus_check):
    return lambda **options: bus_check("--json", **options)


@pytest.fixture
def set_pgbouncer(stack):
    """Change a setting of PgBouncer until the end of the test."""
    yield lambda name, value: stack.console(f"SET {name} = '{value}'")
    # what is in force is its file again
    stack.pgbouncer.stop()
    stack.pgbouncer.start()


#: Of an addon that a test makes.
IMPORTS = """\
import functools
import select
import time

from odoo import http, sql_db
from odoo.service import server
from odoo.addons.bus.models import bus
"""

OURS_FIRST = "import odoo.addons.bus_alt_connection.models.monitoring\n"


@pytest.fixture
def other_addon(stack, database, tmp_path):
    """Return a server with another addon, made of this code, loaded after ours.

    To 17.0 Odoo loads server-wide modules in no order, another one with each start.
    """

    def load(code, workers, order="bus_alt_connection,other", **options):
        folder = tmp_path / "other"
        folder.mkdir()
        (folder / "__manifest__.py").write_text(
            '{"name": "Other", "depends": ["bus"], "post_load": "post_load"}'
        )
        ours = OURS_FIRST if order.startswith("bus_alt_connection") else ""
        (folder / "__init__.py").write_text(IMPORTS + ours + code)
        loaded = stack.environment.series.server_wide_modules
        return stack.odoo(
            database,
            workers=workers,
            addons=[tmp_path],
            args=[f"--load={','.join([*loaded, order])}"],
            **options,
        )

    return load
