"""Lists of servers, held to libpq itself: which servers they name, and in what order.

libpq names each server that it has tried in its error. So it is asked for a whole list,
of servers that are not there, and for each of the servers that we make of it.
"""

import re
from types import SimpleNamespace
from unittest import mock

import psycopg2
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn

from listening import connecting, settings
from listening.connecting import ConnectionFailed, Connector, single_servers

#: Where nobody listens: at no port of these.
PORTS = st.integers(1, 9).map(str)
ADDRESSES = st.sampled_from(["127.0.0.1", "127.0.0.2", "::1"])
SOCKETS = st.sampled_from(["/nonexistent", "/nonexistent/é", "@nonexistent"])

#: Nor where there is no such folder, at any port. Of a list, "" means the default.
SERVERS = st.one_of(
    st.tuples(ADDRESSES | SOCKETS | st.just(""), PORTS),
    st.tuples(SOCKETS, st.just("")),
)


@pytest.fixture(autouse=True, scope="module")
def environment():
    """Another port than what an empty one of a list means."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE"):
            patch.delenv(name, raising=False)
        patch.setenv("PGPORT", "9")
        yield


def refusal(params):
    """Return what libpq says when it has tried all servers."""
    try:
        psycopg2.connect(**params, user="nobody", connect_timeout="5").close()
    except psycopg2.OperationalError as error:
        return str(error)
    raise AssertionError("there is somebody")


def tried(params):
    """Return the servers that libpq tries, in its own words."""
    return re.findall(r"connection to server (.+) failed:", refusal(params))


def load(**params):
    """Return the parameters in force with these in a connection string."""
    dsn = make_dsn(**{key: value for key, value in params.items() if value is not None})
    return settings.load({"db_listen_dsn": dsn}.get, {}, "odoo.conf").params


@st.composite
def lists(draw):
    """Parameters with lists of as many ports as hosts, or one for all."""
    servers = draw(st.lists(SERVERS, min_size=1, max_size=5))
    hosts, ports = zip(*servers, strict=True)
    params = {"host": ",".join(hosts), "port": ",".join(ports)}
    if draw(st.booleans()):
        # addresses come before names, which nobody looks up then
        params["hostaddr"] = ",".join(
            host if host[:1].isdigit() else "" for host in hosts
        )
    if draw(st.booleans()):
        params["port"] = draw(PORTS)
    return {key: value for key, value in params.items() if value}


@given(lists())
@example({"host": "/nonexistent,@nonexistent", "port": ","})
def test_a_list_is_its_servers_in_their_order(params):
    found = single_servers(params)
    one_by_one = [tried(server) for server in found]
    assert all(len(each) == 1 for each in one_by_one)
    assert [server for [server] in one_by_one] == tried(params)


@given(lists(), st.data())
def test_blanks_in_a_list_mean_nothing(params, data):
    def blank(value):
        parts = [data.draw(BLANKS) + p + data.draw(BLANKS) for p in value.split(",")]
        return ",".join(parts)

    blanks = {keyword: blank(value) for keyword, value in params.items()}
    assert single_servers(blanks) == single_servers(params)


BLANKS = st.sampled_from(["", " ", "\t", " \n"])


def joined(strategy):
    """A list of any length, or nothing."""
    return st.none() | st.lists(strategy, min_size=1, max_size=4).map(",".join)


@given(
    host=joined(SOCKETS),
    hostaddr=joined(st.just("127.0.0.1")),
    port=joined(PORTS),
)
def test_lengths_that_libpq_refuses_are_errors(host, hostaddr, port):
    # else it is somewhere else by default
    assume(host or hostaddr)
    params = {"host": host, "hostaddr": hostaddr, "port": port}
    given_ = {key: value for key, value in params.items() if value}
    # one port of those that nobody listens at
    given_.setdefault("port", "1")
    is_refused = "could not match" in refusal(given_)
    if is_refused:
        with pytest.raises(settings.SettingsError, match="as (there are|many)"):
            load(**given_)
    else:
        assert single_servers(load(**given_)) == [
            {**load(), **server} for server in single_servers(given_)
        ]


class Tried(Connector):
    """Takes note of what is opened, of which only what is up can be."""

    def __init__(self, params):
        super().__init__(lambda: params)
        self.up = ()
        self.tried = []

    def _open(self, params):
        self.tried.append((params.get("host"), params.get("hostaddr")))
        if self.tried[-1] not in self.up:
            raise OSError("down")
        return self.tried[-1], None


NAMES = st.sampled_from(["one", "two", "three", "127.0.0.1", "::1"])


@given(
    names=st.lists(NAMES, min_size=1, max_size=5),
    known=st.dictionaries(
        NAMES, st.lists(ADDRESSES, min_size=1, max_size=3, unique=True)
    ),
    data=st.data(),
)
def test_each_server_is_tried_once_and_the_last_good_one_first(names, known, data):
    """Over a while in which servers, and name servers, come and go."""

    def addresses(host, timeout):
        if host in unknown:
            raise OSError("the name cannot be resolved")
        return known.get(host, ["127.0.0.9"])

    connector = Tried({"host": ",".join(names)})
    last, is_another_first = None, False
    with mock.patch.object(
        connecting.dns, "resolver", SimpleNamespace(addresses=addresses)
    ):
        for _round in range(5):
            unknown = data.draw(st.sets(st.sampled_from(["one", "two", "three"])))
            every = []
            for name in names:
                if name[0] in "1:":
                    every.append((name, None))
                elif name not in unknown:
                    every += [(name, a) for a in addresses(name, 0)]
            every = list(dict.fromkeys(every))
            connector.up = data.draw(st.sets(st.sampled_from(every))) if every else ()
            if data.draw(st.booleans()):
                connector.begin_with_another()
                is_another_first = True
            if last in every:
                at = every.index(last) + is_another_first
                every = every[at:] + every[:at]

            connector.tried.clear()
            wanted = next((each for each in every if each in connector.up), None)
            if wanted:
                assert connector.connect() == (wanted, None)
                assert connector.tried == every[: every.index(wanted) + 1]
                last, is_another_first = wanted, False
            else:
                with pytest.raises(ConnectionFailed) as failed:
                    connector.connect()
                assert connector.tried == every
                # and the reader is told of each, found or not
                nameless = [name for name in names if name in unknown]
                assert len(failed.value.answers) == len(every) + len(nameless)
