"""The running stack that the end-to-end tests drive.

PostgreSQL, PgBouncer in transaction mode and Odoo are real, and run on free ports of
their own. ``--stock`` runs the same tests on an Odoo without the addon: those that
prove something fail there.
"""

import sys
from pathlib import Path

import psutil
import pytest
from client import Sender, User, allowed, wait_until
from proxy import Proxy

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "setup"))

import provision  # noqa: E402
from stack import Ports, Stack  # noqa: E402

#: What the application_name of a listening connection begins with; its process follows.
LISTENER = "bus_alt_connection-"


def pytest_addoption(parser):
    parser.addoption("--stock", action="store_true", help="leave the addon out")


@pytest.fixture(scope="session")
def stack():
    environment = provision.provision(with_test_tools=True)
    with Stack(
        environment, environment.data / "test", Ports.free(), fsync=False
    ) as stack:
        yield stack


@pytest.fixture(scope="session")
def other_cluster(stack):
    """Another PostgreSQL, with a PgBouncer of its own."""
    environment = stack.environment
    other = Stack(environment, environment.data / "other", Ports.free(), fsync=False)
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
    """A websocket that has subscribed to the channel ``e2e``."""
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

    def execute(query, *args):
        conn = stack.connect("postgres", role="postgres")
        try:
            conn.autocommit = True
            with conn.cursor() as cr:
                cr.execute(query, args)
                return cr.fetchall() if cr.description else None
        finally:
            conn.close()

    return execute


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
