"""When a canary is sent, and what it means that it does not arrive."""

import threading
import time
from unittest import mock

from odoo.tests.common import BaseCase

from ..listening.canary import (
    CanarySender,
    CanaryWatch,
    Deaf,
    Sent,
    SilenceWatch,
    Silent,
)
from ..models import roads

HERE = ("started", "postgres")

DEADLINE = 30


class TestCanaryWatch(BaseCase):
    """Without a clock: the times are the test's."""

    sent = failure = None

    def setUp(self):
        super().setUp()
        self.requested = []
        # as the sender of what is due
        self.watch = CanaryWatch(self, HERE, 0.0)

    def request(self, token):
        self.requested.append(token)
        return True

    def prove(self, now):
        self.watch.check(now)
        self.sent = Sent(self.requested[-1], now, HERE)
        self.watch.heard(now, {self.requested[-1]})

    def test_a_new_connection_is_proven_at_once(self):
        self.watch.check(0.0)
        self.assertEqual(len(self.requested), 1)
        self.assertFalse(self.watch.is_proven)
        self.watch.heard(0.1, {self.requested[0]})
        self.assertTrue(self.watch.is_proven)

    def test_how_long_our_own_took(self):
        self.watch.check(0.0)
        self.assertIsNone(self.watch.heard(0.1, {"another-1"}))
        self.assertEqual(self.watch.heard(0.25, {self.requested[0]}), 0.25)
        self.assertIsNone(self.watch.heard(0.5, {self.requested[0]}))

    def test_others_do_not_prove_a_new_connection(self):
        self.watch.check(0.0)
        self.watch.heard(0.1, {"another-1"})
        self.assertFalse(self.watch.is_proven)

    def test_a_new_connection_that_is_never_proven_is_doubted(self):
        """Although it hears others all the time."""
        self.failure = "refused"
        for second in range(12):
            self.watch.check(float(second))
            self.watch.heard(float(second), {"another-1"})
        self.assertIn("refused", self.watch.doubt(12.0))

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
        self.sent = Sent(self.requested[0], 1.0, HERE)
        self.watch.check(1.0 + self.watch.DEADLINE)
        with self.assertRaises(Deaf):
            self.watch.check(1.1 + self.watch.DEADLINE)

    def test_others_do_not_make_up_for_our_own(self):
        self.watch.check(0.0)
        self.sent = Sent(self.requested[0], 0.0, HERE)
        self.watch.heard(3.0, {"another-1"})
        with self.assertRaises(Deaf):
            self.watch.check(5.0)

    def test_what_was_not_sent_says_nothing_but_is_doubted(self):
        self.prove(0.0)
        self.assertIsNone(self.watch.doubt(self.watch.EXPIRY))
        self.failure = "NOTIFY waits for a lock"
        for second in range(1, 1000):
            self.watch.check(float(second))
        self.assertIn("NOTIFY waits for a lock", self.watch.doubt(999.0))

    def test_own_canaries_that_stay_away_are_doubted(self):
        self.prove(0.0)
        for second in range(1, 122):
            self.watch.heard(float(second), {"another-1"})
        self.assertIn("of our own", self.watch.doubt(121.0))

    def test_noticed_within_8_seconds(self):
        self.assertLessEqual(max(self.watch.SILENCE) + self.watch.DEADLINE, 8)

    def test_a_process_that_stood_still_was_not_silent(self):
        self.prove(0.0)
        wait = self.watch.check(0.0)
        self.watch.check(wait + 60.0)
        self.assertIsNone(self.watch.doubt(wait + 60.0))
        # and from now on time counts
        end = wait + 60.0 + self.watch.EXPIRY
        while wait < end + 1.0:
            now = max(wait, end - self.watch.EXPIRY)
            wait = now + self.watch.check(now)
        self.assertIn("nothing came", self.watch.doubt(wait))

    def test_sent_to_another_server(self):
        self.watch.check(0.0)
        self.sent = Sent(self.requested[0], 0.0, ("other", "postgres"))
        with self.assertRaisesRegex(Deaf, "another server than"):
            self.watch.check(0.0)

    def test_sent_on_another_database(self):
        self.watch.check(0.0)
        self.sent = Sent(self.requested[0], 0.0, ("started", "system"))
        with self.assertRaisesRegex(Deaf, '"postgres", but Odoo sends on "system"'):
            self.watch.check(0.0)

    def test_a_canary_of_another_connection_says_nothing(self):
        self.watch.check(0.0)
        other = CanaryWatch(self, ("restarted", "postgres"), 1.0)
        self.sent = Sent(self.requested[0], 1.0, HERE)
        other.check(1.0)
        other.check(100.0)


class TestSilenceWatch(BaseCase):
    """Without a clock, too."""

    def setUp(self):
        super().setUp()
        self.asked = 0
        self.watch = SilenceWatch(self.ask, 0.0)

    def ask(self):
        self.asked += 1

    def test_the_server_is_asked_only_in_silence(self):
        for second in range(100):
            self.watch.heard(float(second), {"any"})
            self.assertGreater(self.watch.check(second + 0.5), 0)
        self.assertEqual(self.asked, 0)
        self.watch.check(99.0 + self.watch.ASK_AFTER)
        self.assertEqual(self.asked, 1)
        self.assertGreater(self.watch.check(99.1 + self.watch.ASK_AFTER), 0)
        self.assertEqual(self.asked, 1)

    def test_opened_anew_after_a_minute_of_silence(self):
        soonest, latest = self.watch.SILENT_AFTER
        for second in range(int(soonest)):
            self.watch.check(float(second))
        with self.assertRaises(Silent):
            self.watch.check(latest)


class TestCanarySender(BaseCase):
    """On the road of this Odoo."""

    def setUp(self):
        super().setUp()
        self.was_sent = threading.Event()

    def make(self, road):
        return CanarySender(
            road, roads.notify_query(), lambda is_reopened: self.was_sent.set()
        )

    def test_sent(self):
        sender = self.make(roads.road(roads.notify_database()))
        self.assertTrue(sender.request("one"))
        self.assertTrue(self.was_sent.wait(DEADLINE))
        self.assertEqual(sender.sent.token, "one")
        self.assertEqual(sender.sent.identity[1], roads.notify_database())
        self.assertLessEqual(sender.sent.at, time.monotonic())

    def test_without_a_thread_it_is_tried_again(self):
        sender = self.make(roads.road(roads.notify_database()))
        error = RuntimeError("can't start new thread")
        with mock.patch.object(threading.Thread, "start", side_effect=error):
            self.assertFalse(sender.request("one"))
        self.assertEqual(sender.failure, "can't start new thread")
        self.assertTrue(sender.request("one"))
        self.assertTrue(self.was_sent.wait(DEADLINE))
        self.assertIsNone(sender.failure)

    def test_failures_are_repeated_more_and_more_rarely(self):
        sender = self.make(roads.road("no_such_database"))
        delays = []
        for _i in range(12):
            self.assertTrue(sender.request("one"))
            deadline = time.monotonic() + DEADLINE
            while sender._thread.is_alive():
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)
            self.assertIn("no_such_database", sender.failure)
            self.assertFalse(sender.request("one"))
            delays.append(sender._not_before - time.monotonic())
            sender._not_before = 0
        self.assertLess(delays[0], 1)
        self.assertGreater(delays[-1], 40)
        self.assertLess(max(delays), 1.2 * sender.LONGEST_WAIT)
        self.assertIsNone(sender.sent)
