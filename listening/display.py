"""What may be shown of a connection, in a log line or an error: never a password.

An administrator who mistakes one option for another puts a whole URI into a host, with
its password; and libpq quotes what it does not understand. So nothing is shown that is
not certain to be what it should be.
"""

from __future__ import annotations

import re

HIDDEN = "the value (not shown: it may hold a password)"

#: Characters of a message at the longest, and of a value in it.
MAX_LENGTH = 1000
MAX_VALUE_LENGTH = 100

#: An address that may have a zone, and no host with a port.
IPV6 = "(?=.*:.*:)[0-9a-fA-F:.]+(%.+)?"


def describe(params: dict) -> str:
    """Say where libpq connection parameters lead to."""
    if "service" in params:
        return printable(f'service "{params["service"]}"')

    def shown(keyword: str, is_valid, default: str = "(default)") -> str:
        value = params.get(keyword)
        if value and not is_valid(value):
            # one of Odoo's own options, which nobody has checked
            return "(not shown: it may hold a password)"
        return value or default

    host = shown("host", is_host, params.get("hostaddr") or "(local socket)")
    if params.get("hostaddr", host) != host:
        host += f" ({params['hostaddr']})"
    return printable(
        f'host "{host}", port {shown("port", is_port)}, database'
        f' "{shown("dbname", is_database)}", user "{shown("user", is_user)}"'
    )


def printable(text: str, longest: int = MAX_LENGTH) -> str:
    """Return a text as one line, cut, and without what a terminal would obey.

    Whoever names a database, or answers in place of PostgreSQL, can write anything.
    """
    shown = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in text[: longest + 1]
    )
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def one_line(error: object) -> str:
    """Return a message of libpq or PostgreSQL, which has several lines, as one.

    Without what stands between a colon and an "@": libpq quotes a URI that was put into
    another option, and with it the password, which may have blanks. And without libpq's
    question whether the server is running, which is for whoever reads it to answer.
    """
    if isinstance(error, UnicodeDecodeError):
        error = error.object.decode(errors="replace")
    line = " ".join(str(error).split()) or repr(error)
    # the expressions take the square of its length; a password that is cut here is at
    # the end, which is cut afterwards
    line = line[: 4 * MAX_LENGTH]
    line = re.sub(r" Is the server running [^?]*\?", "", line)
    # a URI's password may have quotes
    line = re.sub("://.*@", ":***@", line)
    return printable(re.sub(r':(?! )[^"]*@', ":***@", line))


def sentences(*texts: str) -> str:
    """Join messages, each with a full stop unless it ends like a sentence."""
    return " ".join(
        text if text.endswith((".", "?", "!")) else f"{text}." for text in texts if text
    )


def quoted(value: str) -> str:
    """Return ``value`` in quotes, unless it may hold a password."""
    if re.search("[=@]|://", value):
        return HIDDEN
    return f'"{printable(value, MAX_VALUE_LENGTH)}"'


def is_host(value: str) -> bool:
    """Whether it is a host, an address, a socket's directory, or a list of them."""
    return not any(
        re.search(r"\s|=|://|.@", host)
        # part of a URI whose password has commas
        or (":" in host and host[0] not in "/@" and not re.fullmatch(IPV6, host))
        for host in map(str.strip, value.split(","))
    )


def is_port(value: str) -> bool:
    """Whether it is a port, or a list of them, of which some may be empty."""
    ports = [port.strip() for port in value.split(",")]
    return all(
        not port or (re.fullmatch("[0-9]{1,9}", port) and 1 <= int(port) <= 65535)
        for port in ports
    )


def is_user(value: str) -> bool:
    """Whether it is a role's name; user@server is one at some providers."""
    return not re.search("(?s)=|://|:.*@", value)


def is_database(value: str) -> bool:
    """Whether it is a database's name, and no connection string."""
    return not re.search("[=@]|://", value)
