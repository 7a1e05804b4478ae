"""How long is waited after how many failures."""

from hypothesis import example, given
from hypothesis import strategies as st

from listening.backoff import Backoff

SECONDS = st.floats(0.01, 1000)


def waits(backoff, count):
    return [backoff.delay() for _i in range(count)]


@given(SECONDS, SECONDS, st.integers(1, 3000), st.random_module())
@example(0.1, 4.0, 3000, None)
def test_bounded_growing_and_begun_anew(first, longest, count, _seed):
    backoff = Backoff(first, longest)
    found = waits(backoff, count)
    least, most = 1 - Backoff.JITTER, 1 + Backoff.JITTER
    wanted = min(first, longest)
    assert wanted * least <= found[0] <= wanted * most
    wanted = min(Backoff.SECOND, longest)
    for wait in found[1:]:
        assert wanted * least <= wait <= wanted * most
        wanted = min(wanted * 2, longest)
    backoff.reset()
    assert backoff.delay() <= min(first, longest) * most


@given(SECONDS, st.random_module())
def test_two_instances_do_not_come_back_at_once(longest, _seed):
    one, other = (waits(Backoff(0.1, longest), 20) for _i in range(2))
    assert len({*one, *other}) == 40
