"""What is said is one line that a terminal shows, of bounded length, and ends once."""

import logging

import psycopg2
from hypothesis import example, given
from hypothesis import strategies as st

from listening.connecting import ConnectionFailed, ConnectionLost
from listening.display import MAX_LENGTH, describe, one_line, quoted, sentences
from listening.settings import SettingsError, load
from listening.state import State

#: Of which the half is what a terminal obeys or a log file is split at.
CONTROLS = "\0\n\r\t\v\f\x1b\x7f\x85\u2028\u202e\ud800"
TEXTS = st.text(st.sampled_from(CONTROLS) | st.characters(exclude_categories=()))
LONG = st.builds(lambda text, times: text * times, TEXTS, st.sampled_from([1, 10**5]))

ERRORS = st.one_of(
    LONG.map(OSError),
    LONG.map(psycopg2.OperationalError),
    LONG.map(ConnectionLost),
    st.tuples(TEXTS, LONG).map(lambda answer: ConnectionFailed([answer] * 3)),
    LONG.map(KeyError),
    # of a server that speaks in another encoding
    st.binary(min_size=1).map(
        lambda text: UnicodeDecodeError("utf-8", text, 0, len(text), "invalid")
    ),
    st.builds(Exception),
)

ENDS = (".", "?", "!")


def assert_one_line(text):
    assert text.isprintable(), repr(text)
    assert 0 < len(text) <= len(text)


@given(ERRORS)
@example(OSError("\x1b]0;title\x07"))
@example(OSError("x" * 10**6))
def test_an_error_is_one_line(error):
    assert_one_line(one_line(error))


@given(st.lists(ERRORS.map(one_line) | st.just(""), min_size=1, max_size=4))
def test_sentences_end_once(texts):
    said = sentences(*texts)
    rest = said
    for text in filter(None, texts):
        assert rest.startswith(text)
        end = "" if text.endswith(ENDS) else "."
        assert rest[len(text) :].startswith(end)
        rest = rest[len(text) + len(end) :].lstrip()
    assert not rest
    assert said.endswith(ENDS) or not any(texts)


KEYWORDS = ["host", "hostaddr", "port", "dbname", "user", "service"]


@given(st.dictionaries(st.sampled_from(KEYWORDS), TEXTS.filter(bool)))
@example({"dbname": "one\ntwo"})
def test_where_a_connection_leads_is_one_line(params):
    assert describe(params).isprintable()


@given(LONG)
@example("one\ntwo")
def test_what_is_quoted_is_one_line(value):
    assert_one_line(quoted(value))


@given(st.dictionaries(st.sampled_from(["db_listen_host", "db_listen_port"]), LONG))
@example({"db_listen_host": "one\ntwo:5432"})
@example({"db_listen_host": "[" + "one\n" * 10**5 + "]"})
def test_what_is_wrong_with_settings_is_a_line_each(values):
    try:
        load(values.get, {}, "odoo.conf")
    except SettingsError as error:
        for problem in error.problems:
            assert_one_line(problem)
            assert problem.endswith(".")


class Lines(logging.Handler):
    """Keeps what is told."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@given(ERRORS)
def test_a_line_of_the_log(error):
    logger, handler = logging.Logger("test"), Lines()
    logger.addHandler(handler)
    state = State(logger, "imbus", "Meanwhile.")
    state.failed(error, "Advice.")
    state.table_failed("database", error)
    state.doubted(one_line(error))
    for line in handler.lines:
        assert line.isprintable(), repr(line)
        assert len(line) <= 2 * MAX_LENGTH
        assert line.endswith(ENDS)
    assert len(handler.lines) >= 2
