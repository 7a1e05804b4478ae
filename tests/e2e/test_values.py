"""Whatever the options hold: they are understood or refused, and no password is shown.

A drawn password has letters that nothing else has. So one of them in a text is a part
of a password that is shown.
"""

import logging
import string
import traceback
from types import SimpleNamespace
from unittest import mock
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn
from test_messages import Lines

from listening import connecting, settings
from listening.connecting import ConnectionFailed, Connector
from listening.display import describe, one_line
from listening.options import OPTIONS, find_misspelt
from listening.state import State

LETTERS = "ξψζλ"
ODD = "'\"\\/@:?#%&=,[]+; \n\t1"
SECRETS = st.text(st.sampled_from(LETTERS * 3 + ODD), min_size=6).filter(
    lambda text: set(text) & set(LETTERS)
)

#: Of a password that stands in a URI as it is, percent-encoded or not.
URIS = (
    "postgresql://u:{}@127.0.0.1:1/db",
    "postgres://:{}@/db",
    "postgresql://u:{}@[::1]:1,127.0.0.1:2/db?connect_timeout=5",
    "postgresql://127.0.0.1:1/db?password={}",
    "'postgresql://u:{}@127.0.0.1/db'",
    "jdbc:postgresql://127.0.0.1:1/db?user=u&password={}",
    "tcp://u:{}@127.0.0.1:1",
)

#: Other connection strings.
STRINGS = (
    "u:{}@127.0.0.1",
    "u:{}@127.0.0.1:1",
    "password={}",
    "host=127.0.0.1 port=1 password={}",
    "host=127.0.0.1 password='{}' port=1",
    "127.0.0.1 password={}",
)

MISTAKEN = st.builds(
    lambda shape, secret, quoting: shape.format(quoting(secret)),
    st.sampled_from(URIS + STRINGS),
    SECRETS,
    st.sampled_from([str, quote]),
)

PLAUSIBLE = st.sampled_from(
    ["127.0.0.1", "::1", "/nonexistent", "127.0.0.1,127.0.0.2", ",", "db:5432", "[::1]"]
    + ["1", "1,2", "65536", "-1", "²", "1h", "0", "prefer", "yes", "service=nobody"]
    + ["odoo", "odoo@server", "False", "None", "", " ", "tcp://10.0.0.1:5432", "'1'"]
    + ["host=127.0.0.1 port=1", "postgresql://127.0.0.1:1/db", "connect_timeout=x"]
)
#: Of odoo.conf, of the environment (where not all is UTF-8), and what Odoo makes of it.
ANYTHING = st.one_of(
    PLAUSIBLE,
    MISTAKEN,
    st.text(st.characters(exclude_categories=(), exclude_characters=LETTERS)),
    st.sampled_from([None, False, True, 0, 1, 5432, 1.5, "\udce9", "a\0b", b"x"]),
)

#: Options for text, and those in which a password is right.
NAMES = sorted(
    {name for option in OPTIONS for name in option[:1] + option[2:] if name}
    - {"db_password", "db_listen_password"}
)
VALUES = st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=4)
PASSWORDS = st.fixed_dictionaries(
    {}, optional={"db_password": SECRETS, "db_listen_password": SECRETS}
)
DSNS = st.fixed_dictionaries(
    {
        "db_listen_dsn": st.one_of(
            MISTAKEN,
            SECRETS,
            SECRETS.map(lambda text: make_dsn(password=text, host="127.0.0.1", port=1)),
            ANYTHING,
        )
    }
)


def assert_hidden(*texts):
    for text in texts:
        assert not set(text) & set(LETTERS), text


def load(config, environ=()):
    environ = {f"ODOO_{name.upper()}": str(v) for name, v in dict(environ).items()}
    return settings.load(config.get, environ, "/etc/odoo.conf")


@pytest.fixture(autouse=True, scope="module")
def nowhere():
    """No name leads anywhere, and nothing but the values says where to connect to."""

    def addresses(host, timeout):
        raise OSError("the name cannot be resolved")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE"):
            patch.delenv(name, raising=False)
        patch.setenv("PGPORT", "1")
        with mock.patch.object(
            connecting.dns, "resolver", SimpleNamespace(addresses=addresses)
        ):
            yield


def told(params, advise=lambda error: ""):
    """Return all that is said of a connection with these parameters, which fails."""
    logger, handler = logging.Logger("test"), Lines()
    logger.addHandler(handler)
    with pytest.raises(ConnectionFailed) as failed:
        connector = Connector(lambda: params)
        connector.connect()
    error = failed.value
    state = State(logger, "imbus", "")
    state.failed(error, advise(error))
    state.doubted(f"none can be sent: {one_line(error)}")
    return [str(error), repr(error), one_line(error), describe(params), *handler.lines]


def is_local(params):
    """Whether an attempt stays on this machine, where nobody listens."""
    hosts = params.get("hostaddr") or params.get("host", "127.0.0.1")
    known = {"127.0.0.1", "127.0.0.2", "::1", "/nonexistent"}
    port = params.get("port", "1")
    return {*hosts.split(",")} <= known and {*port.split(",")} <= set("12")


def assert_understood_or_refused(config, environ):
    try:
        found = load(config, environ)
    except settings.SettingsError as error:
        assert error.problems
        assert_hidden(str(error), repr(error), *traceback.format_exception(error))
        return
    assert found.max_age >= 0
    assert_hidden(str(found), repr(found), repr(found.sources))
    servers = list(found.single_servers())
    assert servers
    assert_hidden(*map(str, servers))
    if is_local(found.params):
        assert_hidden(*told(found.connection_params(), found.advise))


@given(
    st.builds(lambda values, passwords: {**values, **passwords}, VALUES, PASSWORDS),
    VALUES,
)
@example({"db_listen_host": "postgresql://u:ξξ,[ψψψψψψ],ζ@pg/db"}, {})
@example({"db_listen_host": "postgresql://u:ξξ,ψ:123,ζ@pg/db"}, {})
@example({"db_listen_host": "u:ξξψψζζ,@127.0.0.1"}, {})
@example({}, {"db_listen_user": "u:ξξξ\nψψψ@pg"})
@example({}, {"db_listen_max_age": "²"})
def test_options(config, environ):
    """They are understood or refused, and no password is shown."""
    assert_understood_or_refused(config, environ)


@given(
    DSNS,
    st.builds(lambda values, passwords: {**values, **passwords}, VALUES, PASSWORDS),
    st.booleans(),
)
@example({"db_listen_dsn": "postgresql://u:ξξξ/ψψψ@pg:5432/db"}, {}, True)
@example({"db_listen_dsn": "host=pg password=ξξξ\udce9"}, {}, True)
@example({"db_listen_dsn": "port=1"}, {"db_system": "u:ξξξψψψ@127.0.0.1"}, False)
def test_connection_strings(dsn, config, is_in_file):
    """As options; with what may not stand beside it, and what Odoo's own hold."""
    if is_in_file:
        assert_understood_or_refused({**config, **dsn}, {})
    else:
        assert_understood_or_refused(config, dsn)


@given(
    st.fixed_dictionaries(
        {"host": MISTAKEN | st.just("127.0.0.1"), "port": st.just("1")},
        optional={"user": MISTAKEN, "dbname": MISTAKEN, "password": SECRETS},
    )
)
@example({"host": "postgresql://u:ξ,ψψψψψψ,ζ@pg/db"})
@example({"host": "127.0.0.1", "port": "1", "user": "u:ξξξ\nψψψ@pg"})
def test_no_password_in_odoos_own_options_is_shown(params):
    """Which nobody has checked."""
    assert_hidden(*told(params))


@given(
    st.dictionaries(
        st.sampled_from(["host", "port", "user", "dbname"]), MISTAKEN, min_size=1
    ),
)
@example({"port": "ξξξψψψ"})
def test_no_password_where_a_connection_leads_to(params):
    assert_hidden(describe(params))


MESSAGES = st.sampled_from(
    [
        'could not translate host name "{}" to address: Name or service not known\n',
        'connection to server at "::1", port 1 failed: FATAL:  role "{}" is not there',
        'invalid port number: "{}"',
        "{}",
    ]
)


@given(
    MESSAGES,
    # a password without a scheme cannot be told from what stands between two quotes
    st.sampled_from([uri for uri in URIS if "{}@" in uri]) | st.just("u:-{}@127.0.0.1"),
    SECRETS,
)
@example('name "{}"', "postgresql://u:{}@pg/db", 'ξξξ"ψψψ')
def test_no_password_that_somebody_quotes_is_shown(message, shape, secret):
    if "://" not in shape:
        secret = secret.replace('"', "")
    assert_hidden(one_line(OSError(message.format(shape.format(secret)))))


@given(st.dictionaries(st.sampled_from(string.ascii_letters), MISTAKEN | SECRETS))
def test_no_value_of_the_environment_is_shown(environ):
    environ = {f"ODOO_DB_LISTN_HOST{name}": value for name, value in environ.items()}
    assert_hidden(repr(find_misspelt([], environ, "/etc/odoo.conf")))
