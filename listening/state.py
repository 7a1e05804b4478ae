"""The one place that tells: what is known of a listening connection and of the tables.

The parts report what happens to them; what becomes of that in the log, and in the
answer to "do live messages flow?", is decided here.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable

import psycopg2

from .canary import Deaf
from .connecting import ConnectionLost
from .display import one_line, sentences
from .log import Log
from .metrics import Metrics

#: NOTIFY is proven to arrive; or it is not, and why is known; or neither, yet: nobody
#: has subscribed, or the connection is being opened anew.
LISTENING, FALLBACK, STARTING = "listening", "fallback", "starting"

#: Odoo's own dispatcher was left alone; another addon's is in force; Odoo's loop does
#: not take what it is handed.
UNSUPPORTED, OVERRIDDEN, STUCK = "unsupported", "overridden", "stuck"

#: What may keep us from listening or reading; anything else is told with a traceback.
FORESEEN = (psycopg2.Error, OSError)

#: Of the draft "Health Check Response Format for HTTP APIs"
#: (draft-inadarei-api-health-check), from which Odoo's own answers take their "pass".
PASS, WARN, FAIL = "pass", "warn", "fail"


class State:
    """What is known of one listening connection, and of the tables read beside it.

    :param logger: where the log lines go
    :param channel: the channel that is listened on
    :param meanwhile: a sentence: how it goes on while nobody listens
    :param metrics: where to count what happens; None: in memory of our own
    """

    #: How it can be, in one word; the first of them, as far as the connection goes.
    CONNECTION_STATES = (STARTING, LISTENING, FALLBACK)
    STATES = (*CONNECTION_STATES, UNSUPPORTED, OVERRIDDEN, STUCK)

    #: Seconds after which a reading under way counts as failed, for health: the table
    #: is given 10 s for an answer (:attr:`.road.Road.PATIENCE`).
    OVERDUE_AFTER = 10.0

    def __init__(
        self,
        logger: logging.Logger,
        channel: str,
        meanwhile: str,
        metrics: Metrics | None = None,
    ) -> None:
        self.log = Log(logger)
        #: what has happened; what is not counted here, is so by whoever sees it
        self.metrics = Metrics() if metrics is None else metrics
        # the tables are read in threads; whatever else is counted, is in one
        self._counting = threading.Lock()
        #: called when it is not known any more whether notifications arrive
        self.on_doubt: Callable[[], None] = lambda: None
        #: whether somebody does not take what has arrived; whoever knows sets it
        self.is_stuck: Callable[[], bool] = lambda: False
        #: whether another addon's dispatcher is in force; whoever knows sets it
        self.is_overridden: Callable[[], bool] = lambda: False
        #: whether Odoo's own dispatcher was left as it is
        self.is_unsupported = False
        self.channel = channel
        self._meanwhile = meanwhile
        self._reason: str | None = None
        self._name = ""
        #: when the name became what it is (``time.time()``)
        self.since = 0.0
        self._change(STARTING)
        #: for each database with subscribers, until when its table counts as readable
        self._readable_until: dict[str, float] = {}

    # ------------------------------------------------------------------
    # What happens: the listening connection
    # ------------------------------------------------------------------

    def proven(self, where: str) -> None:
        """A notification has arrived; ``where`` says by what connection."""
        self._change(LISTENING)
        self.log.solved(
            "connection", 'Listening on "%s": %s.', self.channel, where, at_first=True
        )

    def renewing(self) -> None:
        """The connection was closed, to be opened anew."""
        self._doubt(STARTING)

    def failed(self, error: Exception, advice: str = "") -> None:
        """The connection ended, or was found deaf, or there is none to be had.

        :param advice: what to do about it, in whole sentences, if that is known
        """
        reason = one_line(error)
        is_loss = isinstance(error, (ConnectionLost, Deaf))
        self.metrics.losses += is_loss
        self.metrics.connect_failures += not is_loss
        self.metrics.deaf += isinstance(error, Deaf)
        self._doubt(FALLBACK, reason)
        self.log.problem(
            "connection",
            logging.WARNING if isinstance(error, ConnectionLost) else logging.ERROR,
            'Lost the connection that listens on "%s": %s'
            if is_loss
            else 'Cannot listen on "%s": %s',
            self.channel,
            sentences(reason, advice, self._meanwhile),
            reason=reason,
            exc_info=not isinstance(error, FORESEEN),
        )

    def doubted(self, reason: str) -> None:
        """It is not known whether notifications arrive; the connection is kept."""
        is_same = (self._name, self._reason) == (FALLBACK, reason)
        self._doubt(FALLBACK, reason)
        self.log.problem(
            "connection",
            logging.WARNING,
            'By the connection that listens on "%s" %s',
            self.channel,
            sentences(reason, self._meanwhile),
            reason=reason,
            is_same=is_same,
        )

    def unusable(self) -> None:
        """There is nothing to listen on: the settings are wrong, as was said."""
        self._doubt(FALLBACK)

    def bug(self, what: str) -> None:
        """Something of ours, or that we call, has raised the current exception."""
        self.log.problem(
            what, logging.ERROR, '%s ("%s").', what, self.channel, exc_info=True
        )

    # ------------------------------------------------------------------
    # What happens: the tables
    # ------------------------------------------------------------------

    def table_wanted(self, database: str) -> None:
        """A reading begins."""
        until = time.monotonic() + self.OVERDUE_AFTER
        known = self._readable_until.get(database, until)
        self._readable_until[database] = min(known, until)

    def table_read(self, database: str) -> None:
        """A reading has succeeded."""
        self._table_done(database, True)
        message = 'The bus table of the database "%s" can be read again.'
        self.log.solved(("table", database), message, database)

    def table_failed(self, database: str, error: Exception) -> None:
        """A reading has failed."""
        self._table_done(database, False)
        reason = one_line(error)
        self.log.problem(
            ("table", database),
            logging.WARNING,
            'Cannot read the bus table of the database "%s": %s',
            database,
            sentences(reason),
            reason=reason,
            exc_info=not isinstance(error, FORESEEN),
        )

    def table_forgotten(self, database: str) -> None:
        """Nobody has subscribed in that database any more."""
        self._readable_until.pop(database, None)

    def _table_done(self, database: str, is_read: bool) -> None:
        self._readable_until[database] = float("inf") if is_read else 0.0
        with self._counting:
            self.metrics.readings += is_read
            self.metrics.failed_readings += not is_read

    # ------------------------------------------------------------------
    # What is known
    # ------------------------------------------------------------------

    @property
    def is_listening(self) -> bool:
        """Whether NOTIFY is proven to arrive."""
        return self._name == LISTENING

    @property
    def name(self) -> str:
        """How it is: one of :attr:`STATES`."""
        if self.is_unsupported:
            return UNSUPPORTED
        if self.is_overridden():
            return OVERRIDDEN
        return STUCK if self.is_stuck() else self._name

    @property
    def tables(self) -> dict[str, bool]:
        """For each database with subscribers, whether its table can be read."""
        now = time.monotonic()
        # a copy, since other threads change it
        return {name: now < until for name, until in list(self._readable_until.items())}

    @property
    def health(self) -> str:
        """:data:`PASS`, :data:`WARN` or :data:`FAIL`.

        - live messages flow: PASS; by the table alone, or maybe not for every database:
          WARN. So it is if NOTIFY arrives and no table can be read: then the server
          behind is there, and a slow moment or one database that was dropped must not
          take all of an instance out of service.
        - they do not, or nothing is known of them: FAIL
        """
        if self.name in (UNSUPPORTED, OVERRIDDEN, STUCK):
            return FAIL
        tables = self.tables
        if not self.is_listening and tables and not any(tables.values()):
            return FAIL
        return PASS if self.name != FALLBACK and all(tables.values()) else WARN

    def _doubt(self, name: str, reason: str | None = None) -> None:
        was_listening = self.is_listening
        self._reason = reason
        self._change(name)
        if was_listening:
            self.on_doubt()

    def _change(self, name: str) -> None:
        if self._name != name:
            self._name = name
            self.metrics.state = self.CONNECTION_STATES.index(name)
            self.since = time.time()
