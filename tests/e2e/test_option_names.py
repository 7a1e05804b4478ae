"""Which names are taken for misspelt ones of ours."""

import string

from hypothesis import example, given
from hypothesis import strategies as st

from listening.options import OPTIONS, find_misspelt

NAMES = sorted(
    {name for option in OPTIONS for name in (option.name, option.legacy) if name}
)

#: Of Odoo, and of others.
FOREIGN = (
    sorted({option.default for option in OPTIONS if option.default})
    + (
        "db_name db_maxconn db_maxconn_gevent db_template dbfilter db_replica_host"
        " db_replica_port db_app_name list_db http_port gevent_port longpolling_port"
        " limit_time_real_cron max_cron_threads osv_memory_age_limit pg_path"
    ).split()
)

LETTERS = st.sampled_from(string.ascii_lowercase + string.digits + "_-")


@st.composite
def typos(draw):
    """A name of ours, and the same with one letter too many, too few or wrong."""
    name = draw(st.sampled_from(NAMES))
    at = draw(st.integers(0, len(name) - 1))
    wrong = draw(
        st.one_of(
            LETTERS.map(lambda letter: name[:at] + letter + name[at:]),
            LETTERS.map(lambda letter: name[:at] + letter + name[at + 1 :]),
            st.just(name[:at] + name[at + 1 :]),
            st.just(name[:at] + name[at : at + 2][::-1] + name[at + 2 :]),
        ).filter(lambda wrong: wrong not in NAMES)
    )
    return name, wrong


def is_one_typo(one, other):
    """Whether one letter too many, too few or wrong, or two swapped, make the other."""
    if len(one) > len(other):
        one, other = other, one
    at = next((i for i, c in enumerate(one) if c != other[i]), len(one))
    if len(one) < len(other):
        return one[at:] == other[at + 1 :]
    swapped = one[at : at + 2][::-1] + one[at + 2 :]
    return one[at + 1 :] == other[at + 1 :] or swapped == other[at:]


def find(names=(), environ=()):
    found = find_misspelt(names, dict(environ), "odoo.conf")
    return [(name, meant) for name, _where, meant in found]


@given(typos())
@example(("db_listen_host", "db_listen_port"[:-1]))
def test_one_typo_is_told_with_what_was_meant(typo):
    """Of two that are as near, either."""
    _name, wrong = typo
    [(told, meant)] = find([wrong])
    assert told == wrong
    assert meant in NAMES and is_one_typo(meant, wrong)
    variable = f"ODOO_{wrong.upper()}"
    assert find(environ={variable: "x"}) == [(variable, f"ODOO_{meant.upper()}")]


@given(st.sets(st.sampled_from(NAMES + FOREIGN)), st.sets(st.sampled_from(NAMES)))
def test_what_is_right_or_somebody_elses_is_not_told(names, variables):
    environ = {f"ODOO_{name.upper()}": "x" for name in variables}
    assert find(names, environ) == []


@given(st.sampled_from(NAMES), st.data())
@example("db_listen_host", None)
def test_a_variable_that_is_not_in_capitals_is_told(name, data):
    """Nobody reads it."""
    right = f"ODOO_{name.upper()}"
    flags = data.draw(st.lists(st.booleans(), min_size=40)) if data else [True] * 40
    pairs = zip(right, flags, strict=False)
    variable = "".join(c.lower() if flag else c for c, flag in pairs)
    wanted = [] if variable == right else [(variable, right)]
    assert find(environ={variable: "x"}) == wanted


@given(st.dictionaries(st.text(), st.text()), st.sets(st.text()))
def test_whatever_there_is(environ, names):
    for name, meant in find(names, environ):
        assert name in names | environ.keys()
        assert meant.lower().removeprefix("odoo_") in NAMES
