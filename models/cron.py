"""The override of the listening connection of Odoo's scheduled actions.

Each cron worker (prefork) and cron thread (threaded) LISTENs on ``cron_trigger``, so
that ``ir.cron._trigger()`` starts a job at once, on a cursor that it takes from Odoo's
pool. So behind PgBouncer in transaction mode that LISTEN is lost, and moreover stays on
one of PgBouncer's server connections, whose notifications reach whoever uses it next.
And stock Odoo does not survive the loss of that connection: the thread ends for good,
the worker exits, and the master stops altogether if it cannot spawn another one while
the database is away.

The loops of stock Odoo stay as they are. They get another connection:
:class:`CronConnection` looks like the one they know, never fails, and is fed by a
:class:`~..listener.Listener`. That, and two guards for when the database is away, is
all that we reach into ``odoo/service/server.py``.
"""

import collections
import logging
import socket
import threading
from contextlib import suppress
from types import SimpleNamespace

import psycopg2
from psycopg2.extensions import Notify
from psycopg2.pool import PoolError

import odoo
from odoo.service import server as odoo_server

from ..reach import one_line
from ..throttle import Throttle
from . import connection

_logger = logging.getLogger(__name__)

#: The channel on which ``ir.cron`` sends the name of a database with work to do.
CHANNEL = "cron_trigger"

#: What it means when the database, the pooler or the pool cannot be had.
AWAY = (psycopg2.OperationalError, psycopg2.InterfaceError, PoolError)

_away_log = Throttle(_logger)


class CronConnection:
    """What stock Odoo's cron loops need of a psycopg2 connection that LISTENs.

    - ``fileno()``: readable when there is something to ``poll()``
    - ``notifies``: what came with the last ``poll()``

    They wait for it with a timer of 60 s, by which they run their jobs whatever happens
    to the connection behind.
    """

    #: How many notifications wait for a loop that is busy; with more of them it runs
    #: all jobs that are due.
    MAX_ARRIVED = 1000

    closed = 0

    def __init__(self):
        self.notifies = []
        self._arrived = collections.deque()
        self._may_have_missed = False
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._listener = None

    def fileno(self):
        return self._receiver.fileno()

    def poll(self):
        with suppress(BlockingIOError):
            while self._receiver.recv(4096):
                pass
        databases = []
        if self._may_have_missed:
            self._may_have_missed = False
            databases += odoo_server.cron_database_list()
        with suppress(IndexError):
            while True:
                databases.append(self._arrived.popleft())
        self.notifies += [Notify(0, CHANNEL, database) for database in databases]

    def listen(self):
        """Start listening, in a thread of its own."""
        if connection.listen_settings() is None:
            return
        self._listener = connection.make_listener(
            channel=CHANNEL,
            on_notifications=self._arrive,
            on_listening=self._miss,
            meanwhile="Triggered scheduled actions may start a minute late meanwhile.",
        )
        threading.Thread(
            target=self._listener.run, name=f"{__name__}.Listener", daemon=True
        ).start()

    def _arrive(self, databases):
        """Have the loop run the jobs of these databases."""
        if len(self._arrived) > self.MAX_ARRIVED:
            self._arrived.clear()
            self._may_have_missed = True
        self._arrived.extend(databases)
        self._wake()

    def _miss(self):
        """Have the loop run all jobs that are due, for what was triggered before."""
        self._may_have_missed = True
        self._wake()

    def _wake(self):
        # it is full when the loop is behind, and then awake anyway
        with suppress(BlockingIOError):
            self._sender.send(b".")

    def close(self):
        if self._listener:
            self._listener.stop()


class CronCursor:
    """What the loops do with their cursor before they listen, and at the end."""

    def __init__(self):
        self._cnx = CronConnection()

    def execute(self, query):
        if query.upper().startswith("LISTEN"):
            self._cnx.listen()

    def fetchone(self):
        """Answer ``pg_is_in_recovery()``: a standby is retried by the listener."""
        return (False,)

    def commit(self):
        """There is nothing to commit."""

    def close(self):
        self._cnx.close()


class SqlDb:
    """``odoo.sql_db`` in the eyes of ``odoo.service.server``, where only the cron loops
    call ``db_connect``. What the jobs do is elsewhere and stays on the pool.
    """

    def __getattr__(self, name):
        return getattr(odoo.sql_db, name)

    def db_connect(self, database):
        if database != connection.notify_database():
            return odoo.sql_db.db_connect(database)
        return SimpleNamespace(cursor=CronCursor)


def cron_database_list():
    """Return the databases with scheduled actions, as last known if they cannot be had.

    Stock Odoo's raises then, which ends the cron thread or worker.
    """
    try:
        cron_database_list.known = cron_database_list.stock()
    except AWAY as error:
        _away_log.log(
            logging.WARNING,
            "The databases with scheduled actions cannot be listed: %s",
            one_line(error),
        )
    return cron_database_list.known


def process_spawn(self):
    """Spawn the workers that are missing, or try again in a moment.

    Stock Odoo's opens a cursor first, and stops the whole server if there is none.
    """
    try:
        process_spawn.stock(self)
    except AWAY as error:
        _away_log.log(
            logging.WARNING,
            "No worker can be spawned while the database is away: %s",
            one_line(error),
        )


def patch():
    """Override the cron loops' connection, once per process.

    If ``odoo/service/server.py`` is not what we know, it is left alone.
    """
    if missing() or isinstance(odoo_server.sql_db, SqlDb):
        return
    cron_database_list.stock = odoo_server.cron_database_list
    cron_database_list.known = []
    process_spawn.stock = odoo_server.PreforkServer.process_spawn
    odoo_server.sql_db = SqlDb()
    odoo_server.cron_database_list = cron_database_list
    odoo_server.PreforkServer.process_spawn = process_spawn


def announce():
    """Tell the administrator if nothing was patched."""
    if missing():
        _logger.error(
            "The scheduled actions of Odoo %s are not run as expected: no %s. They are "
            "left as they are.",
            odoo.release.version,
            ", ".join(missing()),
        )


def missing():
    """Return what we need of Odoo's server and do not find, as a list of names."""

    def names(*path):
        """The names that the code of a function uses, if there is one."""
        found = odoo_server
        for name in path:
            found = getattr(found, name, None)
        code = getattr(found, "__code__", None)
        return set(code.co_names if code else ())

    expected = {"sql_db", "db_connect"}
    found = {
        "sql_db": hasattr(odoo_server, "sql_db"),
        "cron_database_list": callable(
            getattr(odoo_server, "cron_database_list", None)
        ),
        "WorkerCron.start with sql_db.db_connect": expected
        <= names("WorkerCron", "start"),
        "ThreadedServer.cron_thread with sql_db.db_connect": expected
        <= names("ThreadedServer", "cron_thread"),
        "PreforkServer.process_spawn": bool(names("PreforkServer", "process_spawn")),
    }
    return [name for name, is_there in found.items() if not is_there]


patch()
