"""What comes by NOTIFY: anybody can send anything, and who has news is woken anyway."""

import importlib.util
import json
import logging
from types import SimpleNamespace

from conftest import ROOT
from hypothesis import example, given
from hypothesis import strategies as st
from test_messages import Lines

from listening.state import State

# of `models`, which needs Odoo, the one that is pure
_spec = importlib.util.spec_from_file_location(
    "websockets_of_odoo", ROOT / "models" / "websockets.py"
)
websockets = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(websockets)

NUMBERS = st.integers() | st.floats() | st.booleans() | st.none()
TEXTS = st.text(st.characters(exclude_categories=()))
JSON = st.recursive(
    NUMBERS | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)

#: As ``bus.bus`` makes them: a database, and a name or a record.
DATABASES = st.sampled_from(["one", "two"])
CHANNELS = st.one_of(
    st.tuples(DATABASES, st.sampled_from(["broadcast", "a", "é", "\ud800"])),
    st.tuples(DATABASES, st.just("res.partner"), st.integers(1, 4)),
    st.tuples(DATABASES, st.just("discuss.channel"), st.integers(1, 4), st.just("m")),
)

#: What cannot be read as JSON, or not as a list of channels.
JUNK = st.one_of(
    TEXTS,
    JSON.map(json.dumps),
    st.binary().map(lambda value: value.decode("latin-1")),
    st.sampled_from(["[" * 7999, "[" * 990 + "]" * 990, "9" * 7999, "[NaN,[1e999]]"]),
)


class Websocket:
    def __init__(self):
        self.woken = 0

    def trigger_notification_dispatching(self):
        self.woken += 1


class Closed(Websocket):
    def trigger_notification_dispatching(self):
        super().trigger_notification_dispatching()
        raise OSError("closed")


class Audience:
    """A websocket on each channel, of which the first ones are closed."""

    def __init__(self, channels, closed=0):
        made = [(Closed if i < closed else Websocket)() for i in range(len(channels))]
        self.found = dict(zip(channels, made, strict=True))
        dispatcher = SimpleNamespace(
            _channels_to_ws={channel: {each} for channel, each in self.found.items()}
        )
        logger, self.log = logging.Logger("test"), Lines()
        logger.addHandler(self.log)
        state = State(logger, "imbus", "")
        known = SimpleNamespace(
            has_websockets=True,
            subscribed=lambda found: list(found._channels_to_ws),
            key=lambda item: tuple(item) if isinstance(item, list) else item,
        )
        self.websockets = websockets.Websockets(known, dispatcher, state)

    @property
    def woken(self):
        return {channel: each.woken for channel, each in self.found.items()}


SUBSCRIBED = st.lists(CHANNELS, unique=True, max_size=8)


@given(SUBSCRIBED, st.lists(st.lists(CHANNELS) | JUNK), st.data())
@example([("one", "a")], ["[" * 990 + "]" * 990, [("one", "a")]], None)
def test_who_has_news_is_woken_once_whatever_stands_beside_it(channels, sent, data):
    audience = Audience(channels, data.draw(st.integers(0, 3)) if data else 0)
    payloads, meant = [], set()
    for payload in sent:
        if isinstance(payload, list):
            meant.update(payload)
            # among things that are no channels, or nobody's
            beside = data.draw(st.lists(JSON, max_size=3)) if data else []
            items = [*beside[:1], *payload, *beside[1:]]
            payload = json.dumps(items)
        payloads.append(payload)
    audience.websockets.notify(payloads)
    for channel, woken in audience.woken.items():
        if channel in meant:
            assert woken == 1
        else:
            # by a channel that is drawn as junk
            assert woken == any(named(payload, channel) for payload in payloads)
    junk = [line for line in audience.log.lines if "not a bus channel" in line]
    assert len(junk) <= 1
    for line in junk:
        assert line.isprintable() and len(line) < 200


def named(payload, channel):
    try:
        items = json.loads(payload)
    except (ValueError, RecursionError):
        return False
    return isinstance(items, list) and list(channel) in items


IDS = st.sets(st.integers(1, 12))


@given(
    channels=SUBSCRIBED,
    rows=st.dictionaries(CHANNELS, IDS.filter(bool)),
    junk=st.sets(JUNK),
    last=st.integers(0, 12),
    got=IDS,
)
def test_new_rows_of_a_table(channels, rows, junk, last, got):
    """Who lacks one is woken once; who has got all is not."""
    audience = Audience(channels)
    for websocket in audience.found.values():
        websocket._last_notif_sent_id = last
        websocket._notif_history = [(id_, 0.0) for id_ in got if id_ > last]
    found = {json.dumps(channel): sorted(ids) for channel, ids in rows.items()}
    audience.websockets.wake("one", {**dict.fromkeys(junk, [13]), **found})
    for channel, woken in audience.woken.items():
        lacks = any(id_ > last and id_ not in got for id_ in rows.get(channel, ()))
        # or a row of a channel that is drawn as junk
        assert woken == (lacks or any(named(f"[{text}]", channel) for text in junk))


@given(SUBSCRIBED, DATABASES)
def test_everybody_of_a_database(channels, database):
    audience = Audience(channels)
    audience.websockets.wake(database, None)
    assert audience.woken == {each: int(each[0] == database) for each in channels}
