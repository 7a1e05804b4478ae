"""The addon's options as data, how they are looked up, and which names are mistaken.

What they mean, is in the README's table, which a test holds to :data:`OPTIONS`.
"""

from __future__ import annotations

import difflib
import re
from collections import namedtuple
from typing import Any, Callable, Iterable, Mapping

Option = namedtuple("Option", "name keyword default legacy", defaults=[None])
Option.__doc__ = """An option of the addon.

- ``name``: its name in ``[options]`` of odoo.conf
- ``keyword``: the libpq connection keyword that it sets, or None
- ``default``: Odoo's own option that stands in for it, or None
- ``legacy``: the OCA addon's name for it, honoured when ours is unset, or None
"""

OPTIONS = (
    Option("db_listen_host", "host", "db_host", "imdispatcher_db_host"),
    Option("db_listen_port", "port", "db_port", "imdispatcher_db_port"),
    Option("db_listen_user", "user", "db_user"),
    Option("db_listen_password", "password", "db_password"),
    Option("db_listen_sslmode", "sslmode", "db_sslmode"),
    Option("db_listen_name", "dbname", "db_system"),
    Option("db_listen_dsn", None, None),
    Option("db_listen_max_age", None, None),
)

#: What options of ours are taken for that are misspelt; and those of a proposal for the
#: OCA addon (server-tools 3692), which some run.
OUR_PREFIXES = ("db_listen", "dblisten", "listen_db_", "imdispatch", "cron_db_")

#: How alike (0 to 1) a name must be to one of ours to be taken for that. Odoo's own
#: ``db_password`` and ``db_listen_password`` are at 0.76.
ALIKE = 0.85

#: What Kubernetes sets for a service that is called "db-listen" or "odoo-db-listen".
KUBERNETES = "_service_(host|port)|_port_[0-9]+_"


def set_value(value: Any) -> str | None:
    """Return an option's value as text, or None if that means unset in an odoo.conf.

    Odoo 19 writes None there, every series False.
    """
    text = "" if value is None else str(value).strip()
    return None if text.lower() in ("", "false", "none") else text


def look_up(
    option: Option,
    get: Callable[[str], Any],
    environ: Mapping[str, str],
    config_file: str,
) -> tuple[str | None, str | None]:
    """Return an option's value and where it was set, or (None, None).

    Our name comes before OCA's, and the environment before the file.
    """
    for name in filter(None, (option.name, option.legacy)):
        variable = "ODOO_" + name.upper()
        value = set_value(environ.get(variable))
        if value:
            return value, f"{name} (environment variable {variable})"
        value = set_value(get(name))
        if value:
            return value, f"{name} (in {config_file})"
    return None, None


def find_misspelt(
    names: Iterable[str], environ: Mapping[str, str], config_file: str
) -> list[tuple[str, str, str]]:
    """Return the options that nobody reads, although somebody meant one of ours.

    :param names: of all options in odoo.conf, Odoo's own among them
    :return: for each its name, where it is, and what was meant
    """
    known = {option.name for option in OPTIONS}
    known.update(option.legacy for option in OPTIONS if option.legacy)
    found = []
    for name in sorted(names):
        meant = _looks_like(name, known)
        if meant:
            found.append((name, f"in {config_file}", meant))
    for variable, value in sorted(environ.items()):
        name = variable.lower()
        if value.startswith("tcp://") or re.search(KUBERNETES, name):
            continue
        bare = name[len("odoo_") :] if name.startswith("odoo_") else name
        if bare in known:
            # it is read in capitals only, and with that prefix
            meant = None if variable == f"ODOO_{bare.upper()}" else bare
        else:
            meant = _looks_like(bare, known) if bare != name else None
        if meant:
            meant = f"ODOO_{meant.upper()}"
            found.append((variable, "in the environment", meant))
    return found


def _looks_like(name: str, known: set[str]) -> str | None:
    """Return the option of ours that was meant by a name."""
    name = name.lower()
    if name in known:
        return None
    cutoff = 0 if name.startswith(OUR_PREFIXES) else ALIKE
    # "cron_db_host" is our "db_listen_host" as well, and no other option of ours
    alike = name.replace("cron_db_", "db_listen_")
    return next(iter(difflib.get_close_matches(alike, sorted(known), 1, cutoff)), None)
