"""Where to LISTEN: the addon's options as data, and what becomes of them.

Everything that an administrator can set stands in :data:`OPTIONS`; the README's table
is held to it by a test. :func:`load` turns the options into libpq connection
parameters. It knows nothing of Odoo: it is given Odoo's ``config.get``, so that it
can be tested alone and serves every series.

Passwords: they are in :attr:`Settings.params` and nowhere else. No repr, no error and
no log line shows them, nor a value which may hold one by mistake (a URI in
``db_listen_host``, a connection string that cannot be parsed).
"""

import os
import re
from collections import namedtuple

import psycopg2
from psycopg2.extensions import libpq_version, parse_dsn

Option = namedtuple("Option", "name keyword legacy default help")
Option.__doc__ = """An option of the addon.

- ``name``: its name in ``[options]`` of odoo.conf
- ``keyword``: the libpq connection keyword that it sets; None for a whole DSN
- ``legacy``: the OCA addon's name for it, honoured when ours is unset; or None
- ``default``: Odoo's own option that stands in for it; or None
- ``help``: the README's words
"""

OPTIONS = (
    Option(
        "db_listen_host",
        "host",
        "imdispatcher_db_host",
        "db_host",
        "Host of PostgreSQL itself, or a directory with its Unix socket. "
        "A comma-separated list is tried in order, as by libpq.",
    ),
    Option(
        "db_listen_port",
        "port",
        "imdispatcher_db_port",
        "db_port",
        "Its port. A comma-separated list goes with the list of hosts.",
    ),
    Option(
        "db_listen_user",
        "user",
        None,
        "db_user",
        "Role to LISTEN with; it needs CONNECT on one database, and no more.",
    ),
    Option("db_listen_password", "password", None, "db_password", "Its password."),
    Option(
        "db_listen_sslmode",
        "sslmode",
        None,
        "db_sslmode",
        "``disable``, ``allow``, ``prefer``, ``require``, ``verify-ca`` or "
        "``verify-full``.",
    ),
    Option(
        "db_listen_name",
        "dbname",
        None,
        "db_system",
        "Database to LISTEN on. It must be the one on which Odoo sends NOTIFY: "
        "``postgres``, and from Odoo 19.1 on ``db_system``.",
    ),
    Option(
        "db_listen_dsn",
        None,
        None,
        None,
        "Any libpq connection string or URI, for the rest (``sslrootcert``, "
        "``service``, ...). The options above override its parts.",
    ),
    Option(
        "db_listen_max_age",
        None,
        None,
        None,
        "Seconds after which the connection is replaced by a new one, which listens "
        "before the old one is closed; 0 means never. 3600 if unset.",
    ),
)

#: Seconds. It follows changes of DNS within the hour, and guards against a listening
#: backend that holds back the cleanup of old transaction ids.
DEFAULT_MAX_AGE = 3600

SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

#: Database on which Odoo sends NOTIFY where the series has no ``db_system``.
DEFAULT_DATABASE = "postgres"

#: What libpq takes if there is none.
DEFAULT_PORT = "5432"

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


class SettingsError(Exception):
    """Options with values that cannot be used.

    :param list problems: one sentence for each, fit for a log
    """

    def __init__(self, problems):
        super().__init__(" ".join(problems))
        self.problems = problems


class Settings:
    """Where and how to LISTEN.

    :param dict params: libpq connection parameters, the password among them
    :param dict sources: for each of our options that is set, where it was set
    :param int max_age: seconds after which the connection is replaced; 0: never
    :param bool own_endpoint: whether they lead elsewhere than db_host and db_port
    """

    def __init__(self, params, sources, max_age, own_endpoint):
        self.params = params
        self.sources = sources
        self.max_age = max_age
        self.own_endpoint = own_endpoint

    def connection_params(self):
        """Return the parameters for a connection of the running process.

        :return: dict of libpq connection parameters
        """
        name = f"bus_alt_connection-{os.getpid()}"
        return {"application_name": name, **self.params}

    def __str__(self):
        return describe(self.params)

    def __repr__(self):
        return f"<Settings: {self}>"


def describe(params):
    """Say where connection parameters lead to, without the password.

    :param dict params: libpq connection parameters
    """
    if "service" in params:
        return f'service "{params["service"]}"'

    def shown(keyword, is_valid, default="(default)"):
        value = params.get(keyword)
        if value and not is_valid(value):
            # one of Odoo's own options, which load() has not looked at
            return "(not shown: it may hold a password)"
        return value or default

    host = shown("host", _is_host, params.get("hostaddr") or "(local socket)")
    if params.get("hostaddr", host) != host:
        host += f" ({params['hostaddr']})"
    port = params.get("port", "(default)")
    database = shown("dbname", _is_database)
    user = shown("user", _is_user)
    return f'host "{host}", port {port}, database "{database}", user "{user}"'


def load(get, environ, config_file):
    """Read the options, environment before file; empty and ``False`` mean unset.

    :param get: callable that returns the value of an option of odoo.conf, or None
    :param environ: mapping of environment variables
    :param str config_file: path of odoo.conf, for messages
    :rtype: Settings
    :raise SettingsError: if a value cannot be used
    """
    values, sources = {}, {}
    for option in OPTIONS:
        value, source = _lookup(option, get, environ, config_file)
        if value:
            values[option.name] = value
            sources[option.name] = source

    params, dsn = {}, sources.get("db_listen_dsn")
    if dsn:
        try:
            params = _parse(values["db_listen_dsn"])
        except (psycopg2.Error, ValueError):
            # libpq's own message quotes the string, and with it the password
            raise SettingsError(
                [
                    f"{dsn} cannot be parsed (value not shown: it may hold a "
                    "password); allowed: a connection string or URI of libpq."
                ]
            ) from None
    dsn_keywords = set(params)
    origins = {keyword: f"{keyword} in {dsn}" for keyword in params}
    for option in OPTIONS:
        if option.keyword and option.name in values:
            params[option.keyword] = values[option.name]
            origins[option.keyword] = sources[option.name]
    if "db_listen_host" in values:
        params.pop("hostaddr", None)

    for option in OPTIONS:
        if option.keyword in _wanted_of_odoo(params, dsn_keywords, bool(dsn)):
            value = _value(get(option.default))
            if value:
                params[option.keyword] = value
                origins[option.keyword] = f"{option.default} (in {config_file})"
    if "service" not in params:
        params = {**CONNECTION_DEFAULTS, "dbname": DEFAULT_DATABASE, **params}
    problems = _problems(params, origins, dsn)
    max_age = values.get("db_listen_max_age", str(DEFAULT_MAX_AGE))
    if not _is_number(max_age):
        problems.append(
            f"{sources['db_listen_max_age']}: {_shown(max_age)} is wrong; allowed: a "
            "whole number of seconds."
        )
    if problems:
        raise SettingsError(problems)
    odoo_endpoint = _value(get("db_host")), _value(get("db_port")) or DEFAULT_PORT
    endpoint = params.get("host"), params.get("port", DEFAULT_PORT)
    is_elsewhere = "service" in params or "hostaddr" in params
    own_endpoint = is_elsewhere or endpoint != odoo_endpoint
    return Settings(params, sources, int(max_age), own_endpoint)


#: What is the matter if there is no endpoint of our own.
NO_ENDPOINT = (
    "db_listen_host, db_listen_port and db_listen_dsn are unset or lead to db_host and"
    " db_port: Odoo listens there, as without this addon."
)


def _parse(dsn):
    """Return the parameters in a connection string; empty ones mean unset."""
    return {key: value for key, value in parse_dsn(dsn).items() if value.strip()}


def _lookup(option, get, environ, config_file):
    """Return (value, where it was set), or (None, None)."""
    for name in filter(None, (option.name, option.legacy)):
        variable = "ODOO_" + name.upper()
        value = _value(environ.get(variable))
        if value:
            return value, f"{name} (environment variable {variable})"
        value = _value(get(name))
        if value:
            return value, f"{name} (in {config_file})"
    return None, None


def _value(value):
    """Return ``value`` as text, or None if that means unset in an odoo.conf."""
    text = "" if value is None else str(value).strip()
    return None if text.lower() in ("", "false") else text


def _wanted_of_odoo(params, dsn_keywords, has_dsn):
    """Return the keywords for which Odoo's own options stand in.

    :param dict params: what is set so far
    :param set dsn_keywords: the keywords that the DSN sets
    :param bool has_dsn: whether there is a DSN
    """
    if "service" in params:
        # explicit parameters would win over those in the service file
        return set()
    wanted = {"host", "port", "user", "password", "sslmode", "dbname"} - set(params)
    if dsn_keywords & {"user", "passfile"}:
        # Odoo's password is not for another user
        wanted.discard("password")
    if params.get("sslrootcert") == "system":
        # libpq refuses it with a weak sslmode, and has a strong default for it
        wanted.discard("sslmode")
    names_host = dsn_keywords & {"host", "hostaddr"}
    names_nothing = has_dsn and not set(params) & {"host", "port"}
    if names_host or names_nothing:
        # What a DSN leaves out means what it means to libpq: port 5432, the local
        # socket. Odoo's own host and port are those of the pooler.
        wanted -= {"host", "port"}
    return wanted


def _problems(params, origins, dsn):
    """Return a sentence for each parameter that cannot be used.

    :param dict origins: for each parameter, where it was set
    :param dsn: where a DSN was set, or None
    """
    in_dsn = "a connection string goes to db_listen_dsn, its password percent-encoded"
    checks = {
        "host": (
            _is_host,
            "a host name, an address or a socket directory, or a comma-separated list "
            f"of them; {in_dsn}",
        ),
        "port": (_is_port, "a number from 1 to 65535, or a comma-separated list"),
        "user": (_is_user, f"the name of a role; {in_dsn}"),
        "dbname": (_is_database, f"the name of a database; {in_dsn}"),
        "sslmode": (SSLMODES.__contains__, ", ".join(SSLMODES)),
        "connect_timeout": (_is_timeout, "a whole number of seconds"),
    }
    shown = {
        # of a DSN, any part may be what was meant to be the password
        keyword: HIDDEN if dsn and dsn in origins.get(keyword, "") else _shown(value)
        for keyword, value in params.items()
    }
    problems = [
        f"{origins[keyword]}: {shown[keyword]} is wrong; allowed: {allowed}."
        for keyword, (is_valid, allowed) in checks.items()
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
            problems.append(
                f"{origins[keyword]}: {shown[keyword]} is wrong; allowed: {allowed}."
            )
    return problems


HIDDEN = "the value (not shown: it may hold a password)"


def _is_host(value):
    return not any(re.search(r"\s|=|://|.@", host.strip()) for host in value.split(","))


def _is_port(value):
    ports = [port.strip() for port in value.split(",")]
    return all(not p or (_is_number(p) and 1 <= int(p) <= 65535) for p in ports)


def _is_user(value):
    # user@server is a role at some providers
    return not re.search("=|://|:.*@", value)


def _is_database(value):
    return not re.search("[=@]|://", value)


def _is_timeout(value):
    # zero and less mean "for ever" to libpq, and the default to us
    return re.fullmatch(r"\s*-?[0-9]{1,9}\s*", value) is not None


def _is_number(value):
    return re.fullmatch("[0-9]{1,9}", value) is not None


def _shown(value):
    """Return ``value`` quoted, unless it may hold a password."""
    return HIDDEN if re.search("[=@]|://", value) else f'"{value}"'
