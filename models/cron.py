"""The override of the listening connection of Odoo's scheduled actions.

Each cron worker (prefork) and cron thread (threaded) LISTENs on ``cron_trigger``, so
that ``ir.cron._trigger()`` starts a job at once, on a cursor that it takes from Odoo's
pool. So behind PgBouncer in transaction mode that LISTEN is lost, and moreover stays on
one of PgBouncer's server connections, whose notifications reach whoever uses it next.
And stock Odoo does not survive the loss of that connection: the thread ends for good,
the worker exits, and the master stops altogether if it cannot spawn another one while
the database is away.

The loops of stock Odoo stay as they are, on a connection that never fails
(:mod:`.handed`), and is fed by a :class:`~..listening.listener.Listener`. That, and two
guards for when the database is away, is all that we reach into
``odoo/service/server.py``.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any, Callable

import psycopg2
from psycopg2.pool import PoolError

import odoo
from odoo.modules.registry import Registry
from odoo.service import server as odoo_server

from odoo.addons.base.models import ir_cron

from ..listening.connecting import REFUSALS
from ..listening.display import one_line, sentences
from ..listening.listener import Listener
from ..listening.log import Log
from ..listening.state import FALLBACK, State
from . import handed, roads, slots
from .handed import HandedConnection, handing
from .override import Override

_logger = logging.getLogger(__name__)

#: The channel on which ``ir.cron`` sends the name of a database with work to do.
CHANNEL = "cron_trigger"

MEANWHILE = "Triggered scheduled actions may start a minute late meanwhile."

#: What it means when the database, the pooler or the pool cannot be had.
AWAY = (psycopg2.OperationalError, psycopg2.InterfaceError, PoolError)

_log = Log(_logger)


def warn(what: str, message: str, error: Exception) -> None:
    """Tell that something is away."""
    _log.problem(what, logging.WARNING, message, sentences(one_line(error)))


class CronConnection(HandedConnection):
    """A connection for one of the loops.

    They wait for it with a timer of 60 s, by which they run their jobs whatever happens
    to the connection behind; and do not poll while they run them.
    """

    #: Seconds after which everything is looked at once more when a connection was lost:
    #: PgBouncer notices ``server_login_retry`` (1 s) later that PostgreSQL is back, and
    #: what the loop tries to run until then fails.
    AGAIN_AFTER = 5.0

    def __init__(self) -> None:
        super().__init__(CHANNEL, everything)
        self._end: Callable[[], None] = lambda: None

    def listen(self) -> None:
        """Start listening, in a thread of its own."""
        shared = slots.shared
        metrics = shared.take() if shared else None
        state = State(_logger, CHANNEL, MEANWHILE, metrics=metrics)

        def give_back() -> None:
            if metrics is not None:
                shared.give_back(metrics)

        found = roads.listen_settings()
        if found is None:
            state.unusable()
            self._end = give_back
            return
        listener = Listener(
            found,
            on_notifications=self.put,
            on_listening=lambda: self._catch_up(state.name == FALLBACK),
            state=state,
        )
        self._end = listener.stop

        def run() -> None:
            listener.run()
            give_back()

        threading.Thread(target=run, name=f"{__name__}.Listener", daemon=True).start()

    def _catch_up(self, was_lost: bool) -> None:
        self.put_everything()
        if was_lost:
            again = threading.Timer(self.AGAIN_AFTER, self.put_everything)
            again.daemon = True
            again.start()

    def close(self) -> None:
        self.closed = 1
        self._end()


def everything() -> list[str]:
    """Return the payloads that make a loop run all jobs that are due.

    Before 19.0 there is no such function, and any awakening does.
    """
    return list(getattr(odoo_server, "cron_database_list", list)())


def worker_start(self: Any) -> None:
    """Start a cron worker. Replaces ``WorkerCron.start``."""
    with handing(CronConnection):
        _worker_start.original(self)


def cron_thread(self: Any, number: int) -> None:
    """Run a cron thread. Replaces ``ThreadedServer.cron_thread``."""
    with handing(CronConnection):
        _cron_thread.original(self, number)


#: The databases with scheduled actions, as last known.
_known: list[str] = []


def database_list(*args: Any) -> list[str]:
    """List the databases. Replaces ``cron_database_list``, or before 19.0 a method.

    Stock Odoo's raises if they cannot be had, which ends the cron thread or worker; or
    it is empty, and what is triggered within the next minute is not looked at.
    """
    try:
        _known[:] = _database_list.original(*args) or _known
    except AWAY as error:
        message = "The databases with scheduled actions cannot be listed: %s"
        warn("databases", message, error)
    return list(_known)


def process_spawn(self: Any) -> None:
    """Spawn the workers that are missing, or try again in a moment.

    Replaces ``PreforkServer.process_spawn``, which opens a cursor first for each
    database that was loaded before, and stops the whole server if there is none.
    """
    Override.find_lost()
    try:
        _process_spawn.original(self)
    except AWAY as error:
        warn("spawn", "No worker can be spawned while the database is away: %s", error)
        forget_dropped()


def forget_dropped() -> None:
    """Forget what was loaded of databases that are gone for good.

    As Odoo does with one that it drops itself. Else no worker was spawned any more; it
    is so for as long as the pooler has Odoo wait for the first of them.
    """
    query = "SELECT datname FROM pg_database WHERE datallowconn"
    with contextlib.closing(roads.road(roads.notify_database())) as road:
        try:
            found = {name for (name,) in road.query(query)}
        except REFUSALS:
            return
    for name in set(getattr(Registry.registries, "snapshot", ())) - found:
        Registry.delete(name)


# ----------------------------------------------------------------------
# Patching
# ----------------------------------------------------------------------


def has_triggers() -> bool:
    """Whether there is anything to listen for: not in 14.0."""
    return hasattr(ir_cron, "ir_cron_trigger") or hasattr(ir_cron, "IrCronTrigger")


_worker_start = Override(odoo_server, "WorkerCron.start", worker_start)
_cron_thread = Override(odoo_server, "ThreadedServer.cron_thread", cron_thread)
_process_spawn = Override(odoo_server, "PreforkServer.process_spawn", process_spawn)
_database_list = Override(
    odoo_server,
    "cron_database_list"
    if hasattr(odoo_server, "cron_database_list")
    else "WorkerCron._db_list",
    database_list,
)

OVERRIDES = (_worker_start, _cron_thread, _process_spawn, _database_list)


def missing() -> list[str]:
    """Return the names that we need of Odoo's server and do not find."""
    return [str(override) for override in OVERRIDES if not override.is_possible]


def patch() -> None:
    """Have the cron loops get our connection, if Odoo's server is what we know."""
    if missing() or not has_triggers():
        return
    for override in (handed.DB_CONNECT, *OVERRIDES):
        override.apply()


def announce() -> None:
    """Tell the administrator if nothing was patched."""
    if missing() and has_triggers():
        _logger.error(
            "The scheduled actions of Odoo %s are not run as expected: no %s. They are "
            "left as they are.",
            odoo.release.version,
            ", ".join(missing()),
        )


patch()
