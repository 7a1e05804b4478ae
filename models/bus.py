"""The override of Odoo's bus dispatcher. Start reading here.

Odoo's bus works like this: a transaction writes rows into ``bus_bus`` and, once it is
committed, sends NOTIFY on the channel ``imbus`` with the bus channels concerned. In
the process that holds the websockets, the one ``dispatch`` (a thread of class
``ImDispatch``) LISTENs, and wakes each websocket that has subscribed to one of these
channels; the websocket then reads its new rows.

Stock Odoo takes the connection that LISTENs from its pool. Behind PgBouncer in
transaction mode that LISTEN is silently lost. We override ``ImDispatch.loop`` alone, so
that it listens by :class:`~..listener.Listener` on a connection of its own
(:mod:`~..settings`), and leave everything else to Odoo: NOTIFY, rows, websockets.
Until that connection is proven to work, a :class:`~..poller.Poller` reads the table.

All that we know of the inside of Odoo's dispatcher is in this file.
"""

import json
import logging
import sys
import threading

import odoo
from odoo.service.server import CommonServer

from odoo.addons.bus.models import bus as odoo_bus

from ..poller import Poller
from ..state import State
from ..throttle import Throttle
from . import connection

_logger = logging.getLogger(__name__)

#: The channel on which Odoo sends its notifications, in every series.
CHANNEL = "imbus"

_junk_log = Throttle(_logger)
_wake_log = Throttle(_logger)

# Held by the thread that listens for this process: see take_over().
_listening = threading.Lock()

#: What is known of the live messages of this process.
state = State()


def loop(self):
    """Wake the websockets for which there is news. Replaces ``ImDispatch.loop``.

    Returns when the server stops. Odoo's ``run`` calls it in the dispatcher's thread.

    :param self: the dispatcher
    """
    with _listening:
        if odoo_bus.stop_event.is_set():
            return
        poller = Poller(
            make_road=connection.road,
            get_databases=lambda: databases(self),
            wake=lambda database, channels: wake(self, database, channels),
            state=state,
        )
        state.on_change = poller.hurry
        CommonServer.on_stop(poller.stop)
        threading.Thread(
            target=poller.run, name=f"{__name__}.Poller", daemon=True
        ).start()
        if connection.listen_settings() is None:
            odoo_bus.stop_event.wait()
            return
        listener = connection.make_listener(
            channel=CHANNEL,
            on_notifications=lambda payloads: dispatch_payloads(self, payloads),
            on_listening=poller.hurry,
            meanwhile="New messages are read from the table meanwhile.",
            state=state,
        )
        CommonServer.on_stop(listener.stop)
        listener.run()


def databases(dispatcher):
    """Return the names of the databases that have subscribers.

    :param dispatcher: Odoo's ``dispatch``
    """
    # a copy, because other threads subscribe in the meantime; and a channel can be
    # anything that an addon has made it
    return {
        channel[0]
        for channel in list(dispatcher._channels_to_ws)
        if isinstance(channel, tuple) and channel and isinstance(channel[0], str)
    }


def dispatch_payloads(dispatcher, payloads):
    """Pass on what came with NOTIFY.

    Whoever may connect to the database can send anything there, other instances and
    newer series of Odoo among them: what is not for us is skipped, what stands beside
    it is not.

    :param dispatcher: Odoo's ``dispatch``
    :param payloads: list of str, each the JSON list of the channels with news
    """
    items, junk = [], []
    for payload in payloads:
        try:
            decoded = json.loads(payload)
        except (ValueError, RecursionError):
            decoded = None
        if isinstance(decoded, list):
            items += decoded
        else:
            junk.append(payload)
    if hasattr(dispatcher, "_dispatch_notifications"):
        junk += _dispatch_items(dispatcher, items)
    else:
        junk += _dispatch_channels(dispatcher, items)
    for what in junk:
        _log_junk(what)


def _dispatch_channels(dispatcher, items):
    """Wake the websockets that have subscribed to these channels.

    :return: the items that are no channels
    """
    websockets, junk = set(), []
    for item in items:
        try:
            websockets.update(dispatcher._channels_to_ws.get(_channel(item), ()))
        except TypeError:
            junk.append(item)
    _trigger(websockets)
    return junk


def _channel(item):
    """Return the key under which Odoo keeps a channel: its list, as a tuple.

    :raise TypeError: if it is not a list; when it is looked up, also if it holds
        something unhashable
    """
    if not isinstance(item, list):
        raise TypeError(item)
    return tuple(item)


def wake(dispatcher, database, channels):
    """Wake the websockets for which the bus table has news.

    :param dispatcher: Odoo's ``dispatch``
    :param str database: the name of the database
    :param channels: set of tuples, as in ``_channels_to_ws``; None means all of them
    """
    subscribers = dispatcher._channels_to_ws
    if channels is None:
        # a copy, as in databases()
        channels = [
            channel
            for channel in list(subscribers)
            if isinstance(channel, tuple) and channel[:1] == (database,)
        ]
    _trigger(set().union(*(subscribers.get(channel, ()) for channel in channels)))


def _trigger(websockets):
    for websocket in websockets:
        try:
            websocket.trigger_notification_dispatching()
        except Exception:
            _wake_log.log(logging.WARNING, "Cannot wake %r", websocket, exc_info=True)


def _dispatch_items(dispatcher, items):
    """Hand the items to the dispatcher of Odoo's newer line, one by one if need be.

    :return: those that it does not take
    """
    try:
        dispatcher._dispatch_notifications(items)
        return []
    except Exception:
        if len(items) == 1:
            return items
    return [junk for item in items for junk in _dispatch_items(dispatcher, [item])]


def _log_junk(junk):
    try:
        text = repr(junk)
    except RecursionError:
        text = "(deeply nested)"
    _junk_log.log(
        logging.WARNING,
        'Skipped what is not a bus channel in a NOTIFY on "%s": %.100s',
        CHANNEL,
        text,
    )


# ----------------------------------------------------------------------
# Patching
# ----------------------------------------------------------------------


def patch():
    """Override ``ImDispatch.loop``, once per process.

    On the class, not on ``dispatch``: several modules have imported that by name. If
    Odoo's dispatcher is not what we know, it is left alone.
    """
    if missing():
        state.unsupported()
        return
    if odoo_bus.ImDispatch.loop is loop:
        return
    # of an earlier import of this module, if there was one
    loop.stock = getattr(odoo_bus.ImDispatch.loop, "stock", odoo_bus.ImDispatch.loop)
    odoo_bus.ImDispatch.loop = loop
    if odoo_bus.dispatch.is_alive():
        take_over(odoo_bus.dispatch)


def announce():
    """Tell the administrator what was patched, or why nothing was."""
    if missing():
        _logger.error(
            "The bus dispatcher of Odoo %s is not as expected: no %s. It is left as it "
            "is, and listens through db_host.",
            odoo.release.version,
            ", ".join(missing()),
        )
        return
    if connection.listen_settings() is None:
        state.unproven("the settings are wrong, see above")
    _logger.log(
        logging.INFO if connection.holds_websockets() else logging.DEBUG,
        "Bus patched (ImDispatch.loop): it will listen on %s.",
        connection.listen_settings() or "nothing, since the settings are wrong",
    )


def take_over(dispatcher):
    """Listen at once although Odoo's own loop is already running.

    This happens when the addon is installed from Apps. The thread of the dispatcher
    waits on its pooled connection, for up to ``TIMEOUT`` (50 s) a round, and nothing
    wakes it. So a second thread listens from now on, for the same dispatcher and the
    same subscribers, and the stock loop is told to end after its round. Thereupon the
    dispatcher's thread calls the new loop, and waits there as a reserve.

    :param dispatcher: Odoo's ``dispatch``
    """
    odoo_bus.stop_event = _StopEventForStockLoop(odoo_bus.stop_event, loop.stock)
    threading.Thread(
        target=dispatcher.loop, name=f"{__name__}.Bus", daemon=True
    ).start()
    _logger.info(
        "The bus was listening through db_host already; the new connection takes over."
    )


class _StopEventForStockLoop:
    """Odoo's ``stop_event``, set in the eyes of the stock loop alone."""

    def __init__(self, event, stock_loop):
        self._event = event
        self._code = stock_loop.__code__

    def is_set(self):
        return self._event.is_set() or sys._getframe(1).f_code is self._code

    def __getattr__(self, name):
        return getattr(self._event, name)


def missing():
    """Return what we need of Odoo's dispatcher and do not find, as a list of names."""
    dispatcher = getattr(odoo_bus, "dispatch", None)
    found = {
        "ImDispatch.loop": callable(
            getattr(getattr(odoo_bus, "ImDispatch", None), "loop", None)
        ),
        "dispatch": dispatcher is not None,
        "dispatch.is_alive": hasattr(dispatcher, "is_alive"),
        "dispatch._channels_to_ws": hasattr(dispatcher, "_channels_to_ws"),
        "stop_event": hasattr(odoo_bus, "stop_event"),
        "CommonServer.on_stop": hasattr(CommonServer, "on_stop"),
    }
    return [name for name, is_there in found.items() if not is_there]


patch()
