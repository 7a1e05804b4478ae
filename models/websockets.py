"""Odoo's websockets, 16.0 to 19.0: who is to be woken, and what they have seen.

A websocket that is woken reads the rows of its channels that are behind the last one
which it knows, and not among those that it got lately.
"""

from __future__ import annotations

import bisect
import collections
import json
import logging
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator

if TYPE_CHECKING:
    from ..listening.bus_table import Rows
    from ..listening.state import State
    from .dispatcher import Dispatcher


class Websockets:
    """Those that have subscribed with Odoo's dispatcher.

    Each is woken by itself: Odoo's own loop, aborted by one that fails, starves the
    others.

    :param known: what we know of the dispatcher
    :param dispatcher: Odoo's ``dispatch``
    :param state: is told what goes wrong
    """

    def __init__(self, known: Dispatcher, dispatcher: Any, state: State) -> None:
        self._known = known
        self._dispatcher = dispatcher
        self._state = state

    def databases(self) -> set[str]:
        """Return the names of the databases that have subscribers."""
        return self._known.databases(self._dispatcher)

    def notify(self, payloads: Iterable[str]) -> None:
        """Wake those for whom there is news in these notifications.

        Whoever may connect to the database can send anything there, other instances and
        newer series of Odoo among them: what is not for us is skipped, what stands
        beside it is not.

        :param payloads: each the JSON list of the channels with news
        """
        self._wake(set().union(*map(self._subscribers, payloads)))

    def wake(self, database: str, rows: Rows) -> None:
        """Wake those for whom a bus table has news.

        Most of it they have got already, by NOTIFY: who has got all is left alone.
        Woken all at once they would take all cursors of the process, and a handshake at
        that moment would fail.
        """
        if rows is None:
            self._wake(self._of_database(database))
            return
        found = collections.defaultdict(list)
        for channel, ids in rows.items():
            for websocket in self._subscribers(f"[{channel}]"):
                found[websocket].append(ids)
        self._wake(each for each, lists in found.items() if self._lacks(each, lists))

    def rewind(
        self, database: str, is_failover: bool, last_id: Callable[[], int]
    ) -> None:
        """Make websockets forget what they have seen, if the ids have gone back.

        A standby that lagged and was promoted gives the ids of the lost rows once more;
        a websocket that has seen these skips the new ones. One that has seen nothing
        gets what was committed in the last 50 s.

        :param is_failover: whether it is known to be another server: then the ids may
            have come back up already, and all websockets forget
        :param last_id: returns the greatest id that the table's sequence has given;
            asked after the websockets, so that what they see meanwhile is not greater
        """
        seen = [
            (each, max([_last_id(each), *_history(each)]))
            for each in self._of_database(database)
        ]
        last = last_id()
        ahead = [each for each, newest in seen if is_failover or newest > last]
        for websocket in ahead:
            websocket._notif_history = []
            websocket._last_notif_sent_id = 0
        if ahead:
            self._state.log.problem(
                ("rewind", database),
                logging.WARNING,
                'The server of the database "%s" is another one, and the ids of its bus'
                " table have gone back%s: %d websocket(s) get what was sent in the last"
                " minute, maybe twice.",
                database,
                " or may have" if is_failover else "",
                len(ahead),
            )

    def _subscribers(self, payload: str) -> set:
        """Return those of the channels in a JSON list, without what is none."""
        subscribers = self._dispatcher._channels_to_ws
        found = parse(payload, self._known, self._state)
        return set().union(*(subscribers.get(key, ()) for _item, key in found))

    def _lacks(self, websocket: Any, lists: list[list[int]]) -> bool:
        """Whether a websocket lacks one of these rows and would get it, if it read now.

        :param lists: the ids of the rows, in order, of each of its channels
        """
        try:
            last, got = _last_id(websocket), set(_history(websocket))
            behind = (ids[bisect.bisect(ids, last) :] for ids in lists)
            return not all(got.issuperset(ids) for ids in behind)
        except Exception:
            self._state.bug("What a websocket has got is not known")
            return True

    def _of_database(self, database: str) -> set:
        subscribers = self._dispatcher._channels_to_ws
        channels = [
            channel
            for channel in self._known.subscribed(self._dispatcher)
            if isinstance(channel, tuple) and channel[:1] == (database,)
        ]
        return set().union(*(subscribers.get(channel, ()) for channel in channels))

    def _wake(self, found: Iterable) -> None:
        for websocket in found:
            try:
                websocket.trigger_notification_dispatching()
            except Exception:
                self._state.bug("A websocket cannot be woken")


def _last_id(websocket: Any) -> int:
    """Return the id behind which a websocket reads."""
    return getattr(websocket, "_last_notif_sent_id", 0)


def _history(websocket: Any) -> list[int]:
    """Return the greater ids that it has got; 16.0 keeps none."""
    return [each[0] for each in list(getattr(websocket, "_notif_history", ()))]


def parse(
    payload: str, known: Dispatcher, state: State, loads: Callable = json.loads
) -> Iterator[tuple]:
    """Yield the channels in a JSON list, each with its key; tell of what is none."""
    try:
        items = loads(payload)
    except (ValueError, RecursionError):
        items = None
    if not isinstance(items, list):
        tell_junk(state, payload)
        return
    for item in items:
        try:
            key = known.key(item)
            hash(key)
            if known.has_websockets and not isinstance(key, tuple):
                raise TypeError(item)
        except (TypeError, RecursionError):
            tell_junk(state, item)
        else:
            yield item, key


def tell_junk(state: State, junk: Any) -> None:
    """Tell the log of something in a notification that is no channel."""
    state.metrics.junk += 1
    try:
        text = repr(junk)
    except RecursionError:
        text = "(deeply nested)"
    state.log.problem(
        "junk",
        logging.WARNING,
        "Skipped what is not a bus channel in a NOTIFY: %.100s.",
        text,
    )
