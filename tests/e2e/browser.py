"""Users in a real browser: Debian's Chromium, driven by Playwright."""

import contextlib
import time

from client import DEADLINE
from playwright.sync_api import sync_playwright

#: Without these Chromium asks its maker's servers for this and that, all the time.
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)

#: For a machine without a graphics card, and for root, whom Chromium else refuses.
BARE = ("--disable-gpu", "--no-sandbox")


@contextlib.contextmanager
def chromium(path):
    """Run a headless Chromium.

    :param path: of its program
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(path), args=[*QUIET, *BARE]
        )
        try:
            yield browser
        finally:
            browser.close()


class Discuss:
    """A user who has logged in and opened a channel of Discuss, in a window of its own.

    :param browser: as by :func:`chromium`
    :param str url: of Odoo
    :param str login: the user, whose password is the same
    :param int channel: the id of the ``discuss.channel``
    """

    def __init__(self, browser, url, login, channel, **options):
        context = browser.new_context(**options)
        context.set_default_timeout(1000 * DEADLINE)
        self.page = page = context.new_page()
        page.goto(f"{url}/web/login")
        page.locator("input[name=login]").fill(login)
        page.locator("input[name=password]").fill(login)
        page.locator("form.oe_login_form button[type=submit]").click()
        page.wait_for_url("**/odoo**")
        page.goto(f"{url}/odoo/discuss?active_id=discuss.channel_{channel}")
        self._composer = page.locator(".o-mail-Composer-input")
        self._composer.wait_for()
        # lost if the page is loaded again
        page.evaluate("window.isStillThis = true")

    def write(self, text, just_before=lambda: None):
        """Send a message; return when it was sent (``time.monotonic()``).

        :param just_before: called when it is typed, and not sent yet
        """
        # key by key: Odoo may keep what is pasted and sent at once
        self._composer.press_sequentially(text)
        just_before()
        sent = time.monotonic()
        self._composer.press("Enter")
        return sent

    def read(self, text):
        """Wait until a message is there, without a reload."""
        self.page.locator(".o-mail-Message-body", has_text=text).wait_for()
        assert self.page.evaluate("window.isStillThis")
