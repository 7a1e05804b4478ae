"""Chat in a real browser: what one user writes appears at the other.

Through nginx, a prefork Odoo and PgBouncer in transaction mode, as in production.
"""

import time
import uuid

import pytest
import requests
from browser import Discuss, chromium
from client import User, wait_until
from ports import HOST
from proxy import listen_at
from test_health import PATH

pytestmark = pytest.mark.newest


@pytest.fixture(scope="module")
def server(stack, database, addon, proxy):
    with stack.odoo(
        database, workers=2, addon=addon, behind_nginx=True, env=listen_at(proxy)
    ) as server:
        stack.nginx.start()
        yield server
        stack.nginx.stop()


@pytest.fixture(scope="module")
def users(stack, server, database):
    """Two users who look at the same channel, each in a window."""
    url = f"http://{HOST}:{stack.ports.nginx}"
    admin, demo = User(server, database), User(server, database, "demo")
    [channel] = admin.call("discuss.channel", "create", [{"name": "e2e"}])
    admin.call("discuss.channel", "add_members", [channel], [demo.partner_id])
    with chromium(stack.environment.chromium) as browser:
        yield [Discuss(browser, url, login, channel) for login in ("admin", "demo")]


def chat(users, record, what, just_before=lambda: None):
    """Have each write to the other; record how long the slower one took.

    :param just_before: called before each message is sent
    """
    worst = 0
    for writer, reader in (users, reversed(users)):
        text = f"Hello {uuid.uuid4()}"
        sent = writer.write(text, just_before)
        reader.read(text)
        worst = max(worst, time.monotonic() - sent)
    record(f"chat {what}", worst, 2)


def test_chat(users, record):
    chat(users, record, "in two browsers")


def test_chat_after_the_listening_backend_was_killed(
    server, users, sql, listening, record
):
    killed = []

    def kill():
        killed.append(listening(server, other_than=killed))
        sql("SELECT pg_terminate_backend(%s)", killed[-1])

    chat(users, record, "just after the listening backend was killed", kill)
    listening(server, other_than=killed)
    assert len(killed) == 2


def test_chat_in_fallback(server, users, proxy, listening, record):
    proxy.refuse()
    try:
        wait_until(
            lambda: "fallback" in requests.get(server.url + PATH).text, "the fallback"
        )
        chat(users, record, "in fallback")
    finally:
        proxy.accept()
        listening(server)
