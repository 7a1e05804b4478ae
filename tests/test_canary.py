"""When a canary is sent, and what it means that it does not arrive."""

import threading
import time

from odoo.tests.common import BaseCase

from ..canary import CanarySender, Deaf, Sent, Watch

HERE = ("started", "postgres")


class TestWatch(BaseCase):
    def setUp(self):
        super().setUp()
        self.requested = []
        self.watch = Watch(self.request, "me", HERE, 0.0)

    def request(self, token):
        self.requested.append(token)
        return True

    def prove(self, now):
        self.watch.check(now)
        self.watch.sent(Sent(self.requested[-1], now, HERE))
        self.watch.heard(now, {self.requested[-1]})

    def test_a_new_connection_is_proven_at_once(self):
        self.watch.check(0.0)
        self.assertEqual(len(self.requested), 1)
        self.assertFalse(self.watch.is_proven)
        self.watch.heard(0.1, {self.requested[0]})
        self.assertTrue(self.watch.is_proven)

    def test_others_do_not_prove_a_new_connection(self):
        self.watch.check(0.0)
        self.watch.heard(0.1, {"another-1"})
        self.assertFalse(self.watch.is_proven)

    def test_silence_makes_a_canary_due(self):
        self.prove(0.0)
        count = len(self.requested)
        shortest, longest = self.watch.SILENCE
        wait = self.watch.check(shortest - 0.1)
        self.assertGreater(wait, 0)
        self.assertEqual(len(self.requested), count)
        self.watch.check(longest)
        self.assertEqual(len(self.requested), count + 1)

    def test_any_notification_spares_a_canary_but_not_for_ever(self):
        self.prove(0.0)
        count = len(self.requested)
        soonest, latest = map(int, self.watch.OWN_INTERVAL)
        for second in range(1, soonest):
            self.watch.heard(float(second), set())
            self.watch.check(float(second))
        self.assertEqual(len(self.requested), count)
        self.watch.heard(float(latest), set())
        self.watch.check(float(latest))
        self.assertEqual(len(self.requested), count + 1)

    def test_deaf_if_what_was_sent_does_not_arrive(self):
        self.watch.check(0.0)
        self.watch.sent(Sent(self.requested[0], 1.0, HERE))
        self.watch.check(1.0 + self.watch.DEADLINE)
        with self.assertRaises(Deaf):
            self.watch.check(1.1 + self.watch.DEADLINE)

    def test_others_do_not_make_up_for_our_own(self):
        self.watch.check(0.0)
        self.watch.sent(Sent(self.requested[0], 0.0, HERE))
        self.watch.heard(3.0, {"another-1"})
        with self.assertRaises(Deaf):
            self.watch.check(5.0)

    def test_what_was_not_sent_says_nothing(self):
        self.prove(0.0)
        for second in range(1, 1000):
            self.watch.check(float(second))
        self.assertTrue(self.watch.is_expired(999.0))

    def test_noticed_within_8_seconds(self):
        self.assertLessEqual(max(self.watch.SILENCE) + self.watch.DEADLINE, 8)

    def test_sent_to_another_server(self):
        self.watch.check(0.0)
        self.watch.sent(Sent(self.requested[0], 0.0, ("other", "postgres")))
        with self.assertRaisesRegex(Deaf, "another server.*db_listen_host"):
            self.watch.check(0.0)

    def test_sent_on_another_database(self):
        self.watch.check(0.0)
        self.watch.sent(Sent(self.requested[0], 0.0, ("started", "system")))
        with self.assertRaisesRegex(Deaf, '"system".*db_listen_name'):
            self.watch.check(0.0)

    def test_a_canary_of_another_connection_says_nothing(self):
        self.watch.check(0.0)
        other = Watch(self.request, "other", ("restarted", "postgres"), 1.0)
        other.sent(Sent(self.requested[0], 1.0, HERE))
        other.check(1.0)
        other.check(100.0)


class TestCanarySender(BaseCase):
    def setUp(self):
        super().setUp()
        self.sent = []
        self.arrived = threading.Event()
        self.addCleanup(lambda: self.sender.stop())

    def make(self, send):
        self.sender = CanarySender(send, self.on_sent)

    def on_sent(self, canary):
        self.sent.append(canary)
        self.arrived.set()

    def test_sent(self):
        self.make(lambda token: HERE)
        self.assertTrue(self.sender.request("one"))
        self.assertTrue(self.arrived.wait(30))
        self.assertEqual((self.sent[0].token, self.sent[0].server), ("one", HERE))
        self.assertLessEqual(self.sent[0].at, time.monotonic())

    def test_failure_is_not_sent_and_can_be_repeated(self):
        failures = []

        def send(token):
            if not failures:
                failures.append(token)
                raise OSError("no road")
            return HERE

        self.make(send)
        with self.assertLogs("odoo.addons.bus_alt_connection.canary", "WARNING"):
            self.sender.request("one")
            deadline = time.monotonic() + 30
            while not self.sender.request("one"):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)
        self.assertTrue(self.arrived.wait(30))
        self.assertEqual(len(self.sent), 1)

    def test_one_at_a_time(self):
        release, entered = threading.Event(), threading.Event()
        self.addCleanup(release.set)

        def send(token):
            entered.set()
            release.wait()
            return HERE

        self.make(send)
        self.assertTrue(self.sender.request("0"))
        self.assertTrue(entered.wait(30))
        self.assertFalse(self.sender.request("1"))
        release.set()
        self.assertTrue(self.arrived.wait(30))
