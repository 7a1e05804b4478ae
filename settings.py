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
)

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
    """

    def __init__(self, params, sources):
        self.params = params
        self.sources = sources

    @property
    def own_endpoint(self):
        """Whether a listening host, port or DSN is set, rather than Odoo's own."""
        return any(
            name in self.sources
            for name in ("db_listen_host", "db_listen_port", "db_listen_dsn")
        )

    def connection_params(self):
        """Return the parameters for a connection of the running process.

        :return: dict of libpq connection parameters
        """
        name = f"bus_alt_connection-{os.getpid()}"
        return {"application_name": name, **self.params}

    def __str__(self):
        if "service" in self.params:
            return f'service "{self.params["service"]}"'
        return describe(self.params)

    def __repr__(self):
        return f"<Settings: {self}>"


def describe(params):
    """Say where connection parameters lead to, without the password.

    :param dict params: libpq connection parameters
    """
    host = params.get("host") or params.get("hostaddr") or "(local socket)"
    if params.get("hostaddr", host) != host:
        host += f" ({params['hostaddr']})"
    port = params.get("port", "(default)")
    database = params.get("dbname", "(default)")
    user = params.get("user", "(default)")
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

    params, problems = {}, []
    if "db_listen_dsn" in values:
        try:
            params = parse_dsn(values["db_listen_dsn"])
        except psycopg2.Error:
            # libpq's own message quotes the string, and with it the password
            problems.append(
                f"{sources['db_listen_dsn']} cannot be parsed (value not shown: it may "
                "hold a password); allowed: a connection string or URI of libpq."
            )
    dsn_keywords = set(params)
    origins = {key: f"{key} in {sources['db_listen_dsn']}" for key in params}
    for option in OPTIONS:
        if option.keyword and option.name in values:
            params[option.keyword] = values[option.name]
            origins[option.keyword] = sources[option.name]
    if "db_listen_host" in values:
        params.pop("hostaddr", None)

    problems += _problems(params, origins)
    if problems:
        raise SettingsError(problems)
    for keyword in _wanted_of_odoo(params, dsn_keywords, "db_listen_dsn" in values):
        option = next(option for option in OPTIONS if option.keyword == keyword)
        value = _value(get(option.default))
        if value:
            params.setdefault(keyword, value)
    if "service" not in params:
        params.setdefault("dbname", DEFAULT_DATABASE)
    return Settings({**CONNECTION_DEFAULTS, **params}, sources)


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
    """Return the keywords for which Odoo's own options stand in, where they are unset.

    :param dict params: what is set
    :param set dsn_keywords: the keywords that the DSN sets
    :param bool has_dsn: whether there is a DSN
    """
    if "service" in params:
        # explicit parameters would win over those in the service file
        return set()
    wanted = {"host", "port", "user", "password", "sslmode", "dbname"}
    if dsn_keywords & {"user", "passfile"}:
        # Odoo's password is not for another user
        wanted.discard("password")
    names_host = dsn_keywords & {"host", "hostaddr"}
    names_nothing = has_dsn and not params.keys() & {"host", "port"}
    if names_host or names_nothing:
        # What a DSN leaves out means what it means to libpq: port 5432, the local
        # socket. Odoo's own host and port are those of the pooler.
        wanted -= {"host", "port"}
    return wanted


def _problems(params, origins):
    """Return a sentence for each parameter that cannot be used."""
    checks = {
        "host": (
            _is_host,
            "a host name, an address or a socket directory, or a comma-separated list "
            "of them; a connection string goes to db_listen_dsn",
        ),
        "port": (_is_port, "a number from 1 to 65535, or a comma-separated list"),
        "sslmode": (SSLMODES.__contains__, ", ".join(SSLMODES)),
        "connect_timeout": (_is_number, "a whole number of seconds"),
    }
    problems = [
        f"{origins[keyword]}: {_shown(params[keyword])} is wrong; allowed: {allowed}."
        for keyword, (is_valid, allowed) in checks.items()
        if keyword in params and not is_valid(params[keyword])
    ]
    hosts = (params.get("hostaddr") or params.get("host") or "").count(",") + 1
    ports = params.get("port", "").count(",") + 1
    if not problems and ports not in (1, hosts):
        problems.append(
            f"{origins['port']}: {_shown(params['port'])} is wrong; allowed: one port, "
            f"or as many as there are hosts ({hosts})."
        )
    return problems


def _is_host(value):
    return not any(re.search(r"\s|=|://|.@", host.strip()) for host in value.split(","))


def _is_port(value):
    ports = [port.strip() for port in value.split(",")]
    return all(not p or (_is_number(p) and 1 <= int(p) <= 65535) for p in ports)


def _is_number(value):
    return re.fullmatch("[0-9]+", value) is not None


def _shown(value):
    """Return ``value`` quoted, unless it may hold a password."""
    if re.search("[=@]|://", value):
        return "the value (not shown: it may hold a password)"
    return f'"{value}"'
