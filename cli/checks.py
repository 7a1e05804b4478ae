"""Will live messages flow with this configuration? What ``odoo bus_check`` finds out.

The server's own listeners listen for a moment, by the connections that the server would
open, and what becomes of them is told. Nothing is written to any database.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException
from typing import Any, Generator

import odoo
from odoo.tools import config

from ..listening import connecting, display, server
from ..listening.advice import is_standby
from ..listening.connecting import ConnectionFailed, Connector
from ..listening.listener import Listener
from ..listening.settings import NO_ENDPOINT, Settings, SettingsError
from ..listening.state import FAIL, PASS, WARN
from ..models import bus, cron, health, override, roads, series
from .line import FAILED, NOT_TRIED, OK, WARNING, Line
from .pooler import check_pooler
from .trial import Trial

NAME = "bus_alt_connection"

#: Of a line about a running server, by its own word.
STATUSES = {PASS: OK, WARN: WARNING, FAIL: FAILED}

#: What each check yields; it may return something for the others.
Lines = Generator[Line, None, Any]


def check() -> list[Line]:
    """Find out everything."""
    with ExitStack() as opened:
        return list(_check(opened))


def _check(opened: ExitStack) -> Lines:
    yield from check_odoo()
    is_loaded = yield from check_loading()
    found = yield from check_settings()
    can_send = yield from check_notify_road()
    is_there = yield from check_listen_road(opened, found, can_send)
    is_running = yield from check_server()
    able = found if is_there and is_loaded else None
    yield from check_cron(opened, able, can_send, is_running)


def check_odoo() -> Lines:
    """Whether this Odoo is one that we know, and our overrides are in force."""
    text = f"{odoo.release.version}: its bus dispatcher is"
    missing = ", ".join(bus.missing())
    if missing:
        advice = "It is left alone here: look for a version that knows this Odoo."
        yield Line("Odoo", FAILED, f"{text} not as expected: no {missing}", advice)
    else:
        yield Line("Odoo", OK, f"{text} one that we override")
    for each in override.Override.applied:
        if not each.is_in_force:
            text = f"{each} is not in force: {each.holder} has taken its place"
            yield Line("overrides", FAILED, text, override.ADVICE)


def check_loading() -> Lines:
    """Whether a server has the addon when its cron workers start; return that."""
    name, modules = "loading", series.list_option("server_wide_modules")
    text, advice = f"server_wide_modules = {','.join(modules)}", ""
    if NAME in modules:
        forgotten = [n for n in series.SERVER_WIDE_MODULES_TO_KEEP if n not in modules]
        if forgotten:
            advice = f"Stock Odoo has {', '.join(forgotten)} in it: was that intended?"
        yield Line(name, WARNING if advice else OK, text, advice)
        return True
    states = {each: addon_state(each) for each in series.list_option("db_name")}
    if states:
        # one can be a URI, with a password
        text = ", ".join(f"{states[each]} in {display.quoted(each)}" for each in states)
    is_installed = bool(states) and set(states.values()) <= {"installed", "to upgrade"}
    if is_installed:
        text += ", which a server with the same -d loads at its start"
    else:
        advice = f"Add {NAME} to server_wide_modules, or name a database with it by -d."
    yield Line(name, OK if is_installed else WARNING, text, advice)
    return is_installed


def addon_state(database: str) -> str:
    """Return the state of our addon in a database, in Odoo's words."""
    with closing(roads.road(database)) as road:
        query = f"SELECT state FROM ir_module_module WHERE name = '{NAME}'"
        try:
            return "".join(state for (state,) in road.query(query)) or "uninstalled"
        except connecting.REFUSALS as error:
            return f"not known ({display.one_line(error)})"


def check_settings() -> Lines:
    """Whether the options can be used, and where they are; return the settings."""
    name, found = "settings", None
    try:
        found = roads.load_settings()
    except SettingsError as error:
        yield Line(name, FAILED, str(error))
    if found and found.own_endpoint:
        places: dict[str, list[str]] = {}
        for source in sorted(found.sources.values()):
            option, place = source.split(" ", 1)
            places.setdefault(place, []).append(option)
        text = "; ".join(f"{', '.join(places[place])} {place}" for place in places)
        yield Line(name, OK, text)
    elif found:
        yield Line(name, WARNING, NO_ENDPOINT)
    for option, where, meant in roads.misspelt_options():
        text = f"{option} ({where}) is not read by anybody"
        yield Line(name, WARNING, text, f"If {meant} is meant, call it so.")
    return found


def check_notify_road() -> Lines:
    """The road by which Odoo sends its notifications, and everything else.

    :return: whether anything can be sent by it
    """
    name, params = "NOTIFY road", roads.road_params(roads.notify_database())
    try:
        conn, found = Connector(lambda: params, server.examine).connect()
    except ConnectionFailed as error:
        advice = (
            "Odoo itself cannot work without it: it goes by db_host, db_port, db_user,"
            " db_password and db_sslmode."
        )
        yield Line(name, FAILED, str(error), advice)
        return False
    with closing(conn):
        text = server.describe_server(conn)
        text += "; a connection pooler" if found.is_pooled else "; no pooler recognised"
        if found.is_standby:
            advice = (
                "Nothing can be sent or written there: point db_host to the primary."
            )
            yield Line(name, FAILED, f"{text}; a standby", advice)
        else:
            yield Line(name, OK, text)
        if found.is_pooled:
            yield check_pooler(conn)
    return not found.is_standby


def listen(opened: ExitStack, found: Settings, channel: str, can_send: bool) -> str:
    """Listen as the server would, until ``opened`` is closed; return where.

    :param can_send: whether a NOTIFY can be sent, which is to arrive
    :raise ConnectionFailed: if that cannot be had
    """
    trial = Trial(channel)
    listener = Listener(
        found,
        on_notifications=lambda payloads: None,
        on_listening=lambda: None,
        state=trial,
        road=roads.road(roads.notify_database()) if can_send else None,
        notify_query=roads.notify_query(),
    )
    trial.run(listener, opened)
    return trial.wait()


def check_listen_road(
    opened: ExitStack, found: Settings | None, can_send: bool
) -> Lines:
    """The road by which the bus listens, to each server of a list.

    :return: whether it is heard at one of them
    """
    name = "LISTEN road"
    if found is None:
        yield Line(name, FAILED, "none, as the settings are wrong")
        return False
    there, answers = [], []
    for single in found.single_servers():
        try:
            there.append(listen(opened, single, bus.CHANNEL, can_send))
        except ConnectionFailed as error:
            answers += [(where or str(single), why) for where, why in error.answers]
    text = "; ".join([*there, *(f"{where}: {why}" for where, why in answers)])
    if there:
        text += "; a NOTIFY sent through db_host has arrived" if can_send else ""
        # beside a primary a standby is as it should be
        answers = [(where, why) for where, why in answers if not is_standby(why)]
    status = FAILED if not there else WARNING if answers else OK
    advice = found.advise(ConnectionFailed(answers)) if answers else ""
    yield Line(name, status, text, advice)
    return bool(there)


def check_server() -> Lines:
    """What a server says that runs by this configuration; return whether one does."""
    name = "server"
    port = series.evented_port() if config["workers"] else config["http_port"]
    # http_interface may be empty, and answers take milliseconds
    conn = HTTPConnection(config["http_interface"] or "localhost", port, timeout=2)
    try:
        with closing(conn):
            conn.request("GET", health.PATH)
            response = conn.getresponse()
            report = json.load(response) if response.status != 404 else None
            status = report and STATUSES[report["status"]]
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        yield Line(name, NOT_TRIED, f"none answers on port {port}, so none was asked")
        return False
    if report is None:
        text = f"the one that answers on port {port} does not know this addon"
        yield Line(name, NOT_TRIED, text, "If that is your server, restart it.")
        return False
    told = ", ".join(f"{key} {value}" for key, value in report.items())
    yield Line(name, status, f"the one on port {port} says: {told}")
    return True


def check_cron(
    opened: ExitStack,
    found: Settings | None,
    can_send: bool,
    is_running: bool,
) -> Lines:
    """Whether the scheduled actions can listen, too: as many connections as it takes.

    :param found: None if that is known not to be so
    :param is_running: whether a server is running that has its own already
    """
    name, count = "cron", config["max_cron_threads"]
    workers = f"{count} cron worker{'s' * (count > 1)}"
    if count < 1 or not cron.has_triggers():
        yield Line(name, NOT_TRIED, "no scheduled action is triggered in this server")
        return
    if found is None or cron.missing():
        text = f"triggered scheduled actions may start a minute late ({workers})"
        advice = "See above." if found is None else "This Odoo runs them otherwise."
        yield Line(name, WARNING, text, advice)
        return
    # the bus, and one more while one is opened and another is not quite closed
    number, needed, error = 1, count + 2, None
    while number < needed and not error:
        try:
            listen(opened, found, cron.CHANNEL, can_send)
            number += 1
        except ConnectionFailed as failure:
            error = failure
    if not error:
        text = f"{workers} can listen by the LISTEN road, too: {needed} connections"
        yield Line(name, OK, f"{text} at a time, with the bus and one in reserve")
        return
    text = f"{number} of {needed} connections could be opened, and then: {error}"
    if is_running and connection_limit(found.params.get("user")) >= needed:
        yield Line(name, NOT_TRIED, f"beside those of the running server, {text}")
        return
    yield Line(name, WARNING, text, found.advise(error))


def connection_limit(role: str | None) -> int:
    """Return how many connections a role may have; 0 or less if that is not known."""
    query = "SELECT max(rolconnlimit) FROM pg_roles WHERE rolname = %s"
    with closing(roads.road(roads.notify_database())) as road:
        try:
            [[limit]] = road.query(query, (role,))
        except connecting.REFUSALS:
            return 0
    return limit or 0
