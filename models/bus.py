"""The override of Odoo's bus dispatcher. Start reading here.

Odoo's bus works like this: a transaction writes rows into ``bus_bus`` and, once it is
committed, sends NOTIFY on the channel ``imbus`` with the bus channels concerned. In
the process that holds the websockets, the one ``dispatch`` (a thread of class
``ImDispatch``) LISTENs, and wakes each websocket that has subscribed to one of these
channels; the websocket then reads its new rows. (Other series: :mod:`.dispatcher`.)

Stock Odoo takes the connection that LISTENs from its pool. Behind PgBouncer in
transaction mode that LISTEN is silently lost. We override ``ImDispatch.loop`` alone, so
that it listens by a :class:`~..listening.listener.Listener` on a connection of its own,
and leave everything else to Odoo: NOTIFY, rows, websockets. Until that connection is
proven to work, a :class:`~..listening.poller.Poller` reads the table.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import odoo

from odoo.addons.bus.models import bus as odoo_bus

from ..listening import settings
from ..listening.listener import Listener
from ..listening.poller import Poller
from ..listening.state import State
from . import dispatcher, roads, series
from .handed import DB_CONNECT
from .handed_bus import HandedLoop
from .override import Override
from .websockets import Websockets

_logger = logging.getLogger(__name__)

#: The channel on which Odoo sends its notifications, in every series.
CHANNEL = "imbus"

#: What is known of the live messages of this process.
state = State(_logger, CHANNEL, "New messages are read from the table meanwhile.")

#: What we know of the dispatcher that this Odoo has.
known = dispatcher.find()

# Held by the thread that listens for this process; others wait as a reserve.
_listening = threading.Lock()


def loop(self: Any) -> None:
    """Tell whoever has subscribed of news. Replaces the loop of Odoo's dispatcher.

    Returns when the server stops. Odoo's ``run`` calls it in the dispatcher's thread.
    """
    with _listening:
        stop_event = getattr(odoo_bus, "stop_event", None)
        if stop_event and stop_event.is_set():
            return
        if known.has_websockets:
            listen(Websockets(known, self, state))
            return
        audience = HandedLoop(known, self, state)
        threading.Thread(
            target=listen, args=(audience,), name=f"{__name__}.Listener", daemon=True
        ).start()
        # long polling: whoever waits, waits for up to 50 s when the server is to stop
        series.on_stop(getattr(self, "wakeup_workers", audience.put_everything))
        audience.run(_loop.original)


def listen(audience: Websockets | HandedLoop) -> None:
    """Tell an audience of news, by NOTIFY and by the table, until the server stops."""
    poller = Poller(roads.road, audience, state)
    state.on_doubt = lambda: poller.read_all(within=poller.INTERVAL)
    series.on_stop(poller.stop)
    found = roads.listen_settings()
    if found is None:
        state.unusable()
        poller.run()
        return
    listener = Listener(
        found,
        on_notifications=audience.notify,
        on_listening=poller.read_all,
        state=state,
        road=roads.road(roads.notify_database()),
        notify_query=roads.notify_query(),
        # an idle time-out looks the same: not all at once, not to fill the pool
        on_road_back=lambda: poller.read_all(apart=poller.SAFETY_SPACING),
    )
    series.on_stop(listener.stop)
    # last, as what fails before is tried again by Odoo: one poller, whatever happens
    threading.Thread(target=poller.run, name=f"{__name__}.Poller", daemon=True).start()
    listener.run()


# ----------------------------------------------------------------------
# Patching
# ----------------------------------------------------------------------

_loop = Override(known.module, known.loop, loop, instance="dispatch")
state.is_overridden = lambda: not _loop.is_in_force


def missing() -> list[str]:
    """Return the names that we need of Odoo's dispatcher and do not find."""
    found = {
        str(_loop): _loop.is_possible,
        "channels that we know of the dispatcher": known.channels is not None,
        "hashable": known.key is not None,
    }
    return [name for name, is_there in found.items() if not is_there]


def patch() -> None:
    """Override the loop, once per process, unless the dispatcher is not what we know.

    On the class, not on ``dispatch``: several modules have imported that by name.

    If Odoo's own loop runs already, because the addon was installed from Apps, ours
    runs beside it, for the same dispatcher and the same subscribers. The other one goes
    on until the next restart, deaf; if it fails, the dispatcher's thread calls ours,
    and waits there as a reserve.
    """
    if missing():
        state.is_unsupported = True
        return
    is_new = not _loop.is_in_force
    _loop.apply()
    DB_CONNECT.apply()
    if is_new and known.is_running:
        threading.Thread(
            target=loop,
            args=(known.module.dispatch,),
            name=f"{__name__}.Bus",
            daemon=True,
        ).start()
        _logger.info(
            "The bus was listening through db_host already; the new connection takes"
            " over."
        )


def announce() -> None:
    """Tell the administrator what was patched, or why nothing was."""
    if missing():
        _logger.error(
            "The bus dispatcher of Odoo %s is not as expected: no %s. It is left as it "
            "is, and listens through db_host.",
            odoo.release.version,
            ", ".join(missing()),
        )
        return
    if not roads.holds_websockets():
        return
    for each in roads.misspelt_options():
        _logger.warning(
            "%s (%s) is not read by anybody. If %s is meant, call it so.", *each
        )
    found = roads.listen_settings()
    if found is None:
        state.unusable()
    elif not found.own_endpoint:
        _logger.warning(settings.NO_ENDPOINT)
    _logger.info(
        "Bus patched (%s): it will listen on %s.",
        _loop,
        found or "nothing, since the settings are wrong",
    )


patch()
