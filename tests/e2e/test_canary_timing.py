"""When a canary is sent and what its absence means, by a clock that is simulated.

The schedule of notifications, of what becomes of the canaries and of how late the
listener looks is drawn. The listener is as in ``listening/listener.py``: it reads,
looks at what was sent, checks, and waits for so long or until something comes.
"""

import heapq
import itertools
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listening.canary import CanaryWatch, Deaf, Sent, SilenceWatch, Silent

HERE = ("started", "postgres")

#: Seconds. How late the listener may look, in a busy process.
LATE = 0.5

#: Between two looks at the same clock.
TICK = 1e-3


@dataclass
class Road:
    """By which canaries are sent; as a :class:`CanarySender`, in simulated time.

    - ``works``: of each attempt in turn, whether it comes to a COMMIT
    - ``takes``: seconds until that, or until the attempt has failed
    - ``arrives``: seconds from a COMMIT until the canary arrives
    - ``deaf_since``: from when on nothing arrives
    """

    works: itertools.cycle
    takes: itertools.cycle
    arrives: itertools.cycle
    deaf_since: float = math.inf
    sent: Sent | None = None
    now: float = 0.0
    busy_until: float = 0.0
    requests: list = field(default_factory=list)
    failures: list = field(default_factory=list)
    events: list = field(default_factory=list)
    numbers: itertools.count = field(default_factory=itertools.count)

    @property
    def failure(self):
        """Of the last attempt that has ended; it wakes nobody."""
        ended = [why for at, why in self.failures if at <= self.now]
        return ended[-1] if ended else None

    def request(self, token):
        if self.now < self.busy_until:
            return False
        self.requests.append(self.now)
        self.busy_until = at = self.now + next(self.takes)
        does_work = next(self.works)
        self.failures.append((at, None if does_work else "refused"))
        if does_work:
            self.happens(at, sent=Sent(token, at, HERE))
            self.arrive(at + next(self.arrives), token)
        return True

    def happens(self, at, **what):
        heapq.heappush(self.events, (at, next(self.numbers), what))

    def arrive(self, at, payload):
        if at < self.deaf_since:
            self.happens(at, payload=payload)


@dataclass
class Run:
    """What became of a connection that was opened at 0."""

    road: Road
    heard: list = field(default_factory=list)
    own: list = field(default_factory=list)
    doubts: list = field(default_factory=list)
    ended: float | None = None


def listen(road, others, late, until, kind=CanaryWatch):
    """Run a listener until then, or until it is deaf.

    :param others: when notifications of others come
    :param late: by how many seconds it looks late, in turn
    """
    run = Run(road)
    for at in others:
        road.arrive(at, "another-1")
    watch = kind(road, HERE, 0.0)
    while road.now < until:
        due = []
        while road.events and road.events[0][0] <= road.now:
            due.append(heapq.heappop(road.events)[2])
        payloads = {what["payload"] for what in due if "payload" in what}
        if payloads:
            was_proven, watch.is_proven = watch.is_proven, False
            watch.heard(road.now, payloads)
            run.heard.append(road.now)
            if watch.is_proven:
                run.own.append(road.now)
            watch.is_proven |= was_proven
        for what in due:
            if "sent" in what:
                road.sent = what["sent"]
        try:
            wait = watch.check(road.now)
        except Deaf:
            run.ended = road.now
            return run
        run.doubts.append((road.now, watch.doubt(road.now)))
        # what wakes it: its own time-out, or something that comes
        wakes = [road.now + wait, *(at for at, _n, what in road.events[:1])]
        road.now = max(road.now + TICK, min(wakes) + next(late))
    return run


def in_turn(strategy):
    return st.lists(strategy, min_size=1, max_size=8).map(itertools.cycle)


def seconds(least, most):
    return st.floats(least, most, allow_nan=False)


LATENESS = in_turn(st.just(0.0) | seconds(0, LATE))
OTHERS = st.lists(seconds(0, 300), max_size=60)

#: The jitter's own dice.
SEEDS = st.random_module()


ALWAYS = st.builds(itertools.cycle, st.just([True]))
SOON = in_turn(seconds(0, 1))
IN_TIME = in_turn(st.sampled_from([0.0, CanaryWatch.DEADLINE]) | seconds(0, 4))


def roads(works=ALWAYS, arrives=SOON, **more):
    return st.builds(Road, works, in_turn(seconds(0, 3)), arrives, **more)


@given(
    roads(works=in_turn(st.booleans()), arrives=IN_TIME),
    OTHERS,
    in_turn(st.just(0.0) | seconds(0, 20)),
    SEEDS,
)
def test_never_deaf_while_canaries_arrive_in_time(road, others, late, _seed):
    """However busy the process is."""
    assert listen(road, others, late, 300).ended is None


@given(roads(deaf_since=seconds(0, 200)), OTHERS, LATENESS, SEEDS)
def test_deafness_is_noticed_in_time(road, others, late, _seed):
    run = listen(road, others, late, 300)
    # silence, a look, COMMIT, the deadline, another look; and no sooner
    silence, took = CanaryWatch.SILENCE[1] + LATE, 3.0
    bound = road.deaf_since + silence + took + CanaryWatch.DEADLINE + LATE + 2 * TICK
    assert run.ended is not None
    assert run.ended <= bound
    # one that is under way when it becomes deaf
    assert run.ended >= road.deaf_since - 1 + CanaryWatch.DEADLINE - TICK


@given(
    roads(works=in_turn(st.booleans()), deaf_since=seconds(0, 300)),
    OTHERS,
    LATENESS,
    SEEDS,
)
@example(
    Road(itertools.cycle([False]), itertools.cycle([0.1]), itertools.cycle([0.1])),
    [],
    itertools.cycle([0.0]),
    None,
)
def test_doubt_is_what_it_says(road, others, late, _seed):
    """Said at the first look after EXPIRY; and that look comes."""
    run = listen(road, others, late, 300)
    looks = [now for now, _doubt in run.doubts]
    for now, doubt in run.doubts:
        heard = max((at for at in run.heard if at <= now), default=0.0)
        own = max((at for at in run.own if at <= now), default=None)
        own_expiry = CanaryWatch.OWN_EXPIRY if own is not None else CanaryWatch.EXPIRY
        is_silent = now - heard > CanaryWatch.EXPIRY
        is_unproven = now - (own or 0.0) > own_expiry + TICK
        if is_silent:
            assert "nothing came" in doubt
        elif is_unproven:
            assert "of our own" in doubt
        elif now - (own or 0.0) < own_expiry - TICK:
            assert doubt is None
    # it looks again soon enough for a doubt to be there a second after it is due
    for one, two in itertools.pairwise(looks):
        heard = max((at for at in run.heard if at <= one), default=0.0)
        expired = heard + CanaryWatch.EXPIRY
        assert not (one < expired and two > expired + 1.0 + LATE + TICK)


@given(roads(), in_turn(seconds(0.2, 2)), LATENESS, SEEDS)
def test_our_own_road_is_proven_now_and_then_and_no_more(road, gaps, late, _seed):
    """While others are heard all the time, so that none of ours is due for silence."""
    others = itertools.takewhile(lambda at: at < 300, itertools.accumulate(gaps))
    run = listen(road, others, late, 300)
    soonest, latest = CanaryWatch.OWN_INTERVAL
    assert road.requests[0] == 0.0
    for own, following in zip(run.own, road.requests[1:], strict=False):
        assert soonest <= following - own <= latest + LATE + TICK


@given(roads(), OTHERS, LATENESS, SEEDS)
def test_a_canary_is_sent_only_after_silence(road, others, late, _seed):
    """But our own, and what was not sent or has not come, a second later."""
    run = listen(road, others, late, 300)
    shortest, longest = CanaryWatch.SILENCE
    for at in road.requests[1:]:
        heard = max((each for each in run.heard if each <= at), default=0.0)
        own = max((each for each in run.own if each <= at), default=-math.inf)
        before = max(each for each in road.requests if each < at)
        assert (
            at - heard >= shortest
            or at - own >= CanaryWatch.OWN_INTERVAL[0]
            or at - before >= 1.0
        )
    # and after each silence there is one, unless it is under way
    events = sorted({0.0, *run.heard, *road.requests, 300.0})
    for one, two in itertools.pairwise(events):
        assert two - one <= longest + 3 + 1 + 2 * LATE + TICK


class Asked:
    """A server that answers, and takes its time."""

    def __init__(self, takes):
        self.takes = takes
        self.now = 0.0
        self.asked = []

    def __call__(self):
        self.asked.append(self.now)
        self.now += next(self.takes)


@given(OTHERS, in_turn(seconds(0, 5)), LATENESS, SEEDS)
@example([], itertools.cycle([5.0]), itertools.cycle([LATE]), None)
def test_a_silent_connection_is_asked_and_opened_anew(others, takes, late, _seed):
    server = Asked(takes)
    watch = SilenceWatch(server, 0.0)
    others, heard = sorted(others), 0.0
    soonest, latest = SilenceWatch.SILENT_AFTER
    # what came, or was asked and answered
    last = 0.0
    while True:
        now = server.now
        if others and others[0] <= now:
            watch.heard(now, {"any"})
            heard = last = now
            others = [at for at in others if at > now]
        count = len(server.asked)
        try:
            wait = watch.check(now)
        except Silent:
            break
        assert watch.doubt(now) is None
        assert now - heard < latest
        if len(server.asked) > count:
            assert now - last >= SilenceWatch.ASK_AFTER - TICK
            last = now
        else:
            assert now - last < SilenceWatch.ASK_AFTER + TICK
            assert wait <= SilenceWatch.ASK_AFTER + TICK
        wakes = [now + wait, *others[:1]]
        server.now = max(server.now, now + TICK, min(wakes) + next(late))
    # a look is late, and it may come after an answer that took long
    assert soonest <= now - heard <= latest + SilenceWatch.ASK_AFTER + 5 + LATE + TICK


def test_the_simulation_can_be_deaf():
    """By a canary that comes too late, by as little as a clock tells."""
    road = Road(
        itertools.cycle([True]),
        itertools.cycle([0.0]),
        itertools.cycle([CanaryWatch.DEADLINE + 1]),
    )
    run = listen(road, [], itertools.cycle([0.0]), 300)
    assert run.ended == pytest.approx(CanaryWatch.DEADLINE, abs=2 * TICK)
