"""Where to LISTEN: what becomes of the addon's options.

:func:`load` turns them (:mod:`.options`) into libpq connection parameters. It knows
nothing of Odoo: it is given Odoo's ``config.get``, so that it can be tested alone and
serves every series.

Passwords are in :attr:`Settings.params` and nowhere else: no repr, no error and no log
line shows them (:mod:`.display`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Any, Callable, Iterator, Mapping

import psycopg2
from psycopg2.extensions import libpq_version, parse_dsn

from . import connecting
from .advice import advise
from .connecting import DEFAULT_PORT
from .display import (
    HIDDEN,
    MAX_VALUE_LENGTH,
    describe,
    is_database,
    is_host,
    is_port,
    is_user,
    printable,
    quoted,
)
from .options import OPTIONS, look_up, set_value

#: Seconds. It follows changes of DNS within the hour, and guards against a listening
#: backend that holds back the cleanup of old transaction ids.
DEFAULT_MAX_AGE = 3600

SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

#: Database on which Odoo sends NOTIFY where the series has no ``db_system``.
DEFAULT_DATABASE = "postgres"

#: What the connection asks of libpq unless ``db_listen_dsn`` says otherwise.
CONNECTION_DEFAULTS = {
    # seconds for one attempt at one server; a TCP SYN is repeated after 1 and 3 s,
    # so two lost packets are survived
    "connect_timeout": "5",
    # an idle peer that vanished is noticed after 10 + 3 * 3 = 19 s
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
}
if libpq_version() >= 120000:
    # milliseconds; bounds what was sent and is not acknowledged, which keepalives
    # do not cover
    CONNECTION_DEFAULTS["tcp_user_timeout"] = "10000"

#: What is the matter if there is no endpoint of our own.
NO_ENDPOINT = (
    "db_listen_host, db_listen_port and db_listen_dsn are unset or lead to db_host and"
    " db_port: Odoo would listen there, as without this addon. If that is a connection"
    " pooler, point them to PostgreSQL itself."
)


class SettingsError(Exception):
    """Options with values that cannot be used; ``problems``: a sentence for each."""

    def __init__(self, *problems: str) -> None:
        super().__init__(" ".join(problems))
        self.problems = problems


@dataclass(repr=False)
class Settings:
    """Where and how to LISTEN.

    - ``params``: libpq connection parameters, the password among them
    - ``sources``: for each of our options that is set, where it was set
    - ``max_age``: seconds after which the connection is opened anew; 0: never
    - ``own_endpoint``: whether they lead elsewhere than db_host and db_port
    """

    params: dict[str, str]
    sources: dict[str, str]
    max_age: int
    own_endpoint: bool

    def connection_params(self) -> dict[str, str]:
        """Return the parameters for a connection of the running process."""
        name = f"bus_alt_connection-{os.getpid()}"
        return {"application_name": name, **self.params}

    def single_servers(self) -> Iterator[Settings]:
        """Yield the same for each server of a list."""
        for params in connecting.single_servers(self.params):
            yield replace(self, params=params)

    def advise(self, error: Exception) -> str:
        """Return what to do about a listening connection's error; empty if unknown."""
        answers = getattr(error, "answers", [("", str(error))])
        reasons = [reason for _where, reason in answers]
        return advise(reasons, self.sources, self.own_endpoint)

    def __str__(self) -> str:
        return describe(self.params)

    def __repr__(self) -> str:
        return f"<Settings: {self}>"


def load(
    get: Callable[[str], Any], environ: Mapping[str, str], config_file: str
) -> Settings:
    """Read the options, environment before file.

    :param get: returns the value of an option of odoo.conf, or None
    :param config_file: path of odoo.conf, for messages
    :raise SettingsError: if a value cannot be used
    """
    values, sources = {}, {}
    for option in OPTIONS:
        value, source = look_up(option, get, environ, config_file)
        if value:
            values[option.name], sources[option.name] = value, source
    if "db_listen_dsn" in values:
        params, origins = _of_dsn(values, sources)
    else:
        params, origins = _of_options(values, sources, get, config_file)
    if "service" not in params:
        # explicit parameters would win over those in the service file
        database = set_value(get("db_system")) or DEFAULT_DATABASE
        params = {**CONNECTION_DEFAULTS, "dbname": database, **params}
        origins.setdefault("dbname", f"db_system (in {config_file})")
    problems = _problems(params, origins, sources.get("db_listen_dsn"))
    max_age = values.get("db_listen_max_age", str(DEFAULT_MAX_AGE))
    if not re.fullmatch("[0-9]{1,9}", max_age):
        problems.append(
            f"{sources['db_listen_max_age']}: {quoted(max_age)} is wrong; allowed: a "
            "whole number of seconds."
        )
    if problems:
        raise SettingsError(*problems)
    return Settings(params, sources, int(max_age), _is_own_endpoint(params, get))


def _of_options(values, sources, get, config_file) -> tuple[dict, dict]:
    """Return the parameters and where they come from: our options, else Odoo's."""
    params, origins = {}, {}
    for option in OPTIONS:
        if option.name in values and option.keyword:
            params[option.keyword] = values[option.name]
            origins[option.keyword] = sources[option.name]
        elif option.keyword and set_value(get(option.default)):
            params[option.keyword] = set_value(get(option.default))
            origins[option.keyword] = f"{option.default} (in {config_file})"
    return params, origins


def _of_dsn(values, sources) -> tuple[dict, dict]:
    """Return the parameters in the connection string, which is whole.

    :raise SettingsError: if it cannot be parsed, or options stand beside it
    """
    dsn = sources["db_listen_dsn"]
    # what is set by a name of OCA's only stands in for what is not set by ours
    beside = [
        sources[option.name]
        for option in OPTIONS
        if option.keyword and sources.get(option.name, "").startswith("db_listen_")
    ]
    if beside:
        raise SettingsError(
            f"{', '.join(beside)} beside {dsn}: a connection string is whole. Put"
            " everything into it, or remove it."
        )
    try:
        params = parse_dsn(values["db_listen_dsn"])
    except (psycopg2.Error, ValueError):
        # libpq's own message quotes the string, and with it the password
        raise SettingsError(
            f"{dsn} cannot be parsed (value not shown: it may hold a password);"
            " allowed: a connection string or URI of libpq."
        ) from None
    params = {key: value for key, value in params.items() if value.strip()}
    return params, {keyword: f"{keyword} in {dsn}" for keyword in params}


def _is_own_endpoint(params: dict, get: Callable[[str], Any]) -> bool:
    """Return whether the parameters lead elsewhere than db_host and db_port."""
    if "service" in params or "hostaddr" in params:
        return True
    port = set_value(get("db_port")) or DEFAULT_PORT
    own = params.get("host"), params.get("port", DEFAULT_PORT)
    return own != (set_value(get("db_host")), port)


_IN_DSN = "a connection string goes to db_listen_dsn, its password percent-encoded"

#: Of a parameter, whether a value can be used, and which can.
CHECKS = {
    "host": (
        lambda value: is_host(value) and not _hint("host", value),
        "a host name, an address or a socket directory, or a comma-separated list of"
        f" them; {_IN_DSN}",
    ),
    "port": (is_port, "a number from 1 to 65535, or a comma-separated list"),
    "user": (is_user, f"the name of a role; {_IN_DSN}"),
    "dbname": (is_database, f"the name of a database; {_IN_DSN}"),
    "sslmode": (SSLMODES.__contains__, ", ".join(SSLMODES)),
    "connect_timeout": (
        # zero and less mean "for ever" to libpq, and the default to us
        re.compile(r"\s*-?[0-9]{1,9}\s*").fullmatch,
        "a whole number of seconds",
    ),
}


def _problems(params: dict, origins: dict, dsn: str | None) -> list[str]:
    """Return a sentence for each parameter that cannot be used."""

    def problem(keyword: str, allowed: str) -> str:
        # of a DSN, any part may be what was meant to be the password
        shown = HIDDEN if dsn else quoted(params[keyword])
        hint = None if dsn else _hint(keyword, params[keyword])
        hint = hint or f"allowed: {allowed}"
        return f"{origins[keyword]}: {shown} is wrong; {hint}."

    problems = [
        problem(keyword, allowed)
        for keyword, (is_valid, allowed) in CHECKS.items()
        if keyword in params and not is_valid(params[keyword])
    ]
    if problems:
        return problems
    hosts = (params.get("host") or params.get("hostaddr") or "").count(",") + 1
    for keyword, allowed in (
        ("port", f"one port, or as many as there are hosts ({hosts})"),
        ("hostaddr", f"as many addresses as there are hosts ({hosts})"),
    ):
        count = params.get(keyword, "").count(",") + 1
        if count != hosts and keyword in params and (keyword, count) != ("port", 1):
            problems.append(problem(keyword, allowed))
    return problems


def _hint(keyword: str, value: str) -> str | None:
    """Return what to write instead of something that people write, if it is that."""
    if value.startswith("tcp://"):
        return (
            "Kubernetes sets such a variable for a service of that name: call the"
            " service otherwise, or switch enableServiceLinks off"
        )
    if value[0] in "\"'" and value[-1] == value[0]:
        return "write it without the quotes"
    return _host_hint(value) if keyword == "host" else None


def _host_hint(value: str) -> str | None:
    if quoted(value) == HIDDEN:
        return None
    for host in value.split(","):
        host = printable(host.strip(), MAX_VALUE_LENGTH)
        bracketed = re.fullmatch(r"\[(.*)\](?::([0-9]+))?", host)
        if bracketed:
            address, port = bracketed.groups()
            port = f", and db_listen_port = {port}" if port else ""
            return f"write the address without brackets: {address}{port}"
        if re.fullmatch(r"[^:/@]+:[0-9]+", host):
            name, port = host.split(":")
            return f"write db_listen_host = {name} and db_listen_port = {port}"
    return None
