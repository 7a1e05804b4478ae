"""What the log says, and how often."""

import ast
import logging
import time
from pathlib import Path

from odoo.tests.common import BaseCase

from ..listening.display import one_line
from ..listening.log import Log
from ..listening.state import State

_logger = logging.getLogger(__name__)


class TestLog(BaseCase):
    def setUp(self):
        super().setUp()
        self.log = Log(_logger)

    def problem(self, what="one", reason=""):
        self.log.problem(what, logging.WARNING, "%s %s", what, reason, reason=reason)

    def test_once_a_minute_with_the_number_of_those_left_out(self):
        with self.assertLogs(_logger) as logs:
            for _i in range(1000):
                self.problem()
            self.assertEqual(len(logs.output), 1)
            self.log.PERIOD = 0
            self.problem()
        self.assertIn("999 more", logs.output[1])
        # by which error trackers know it again
        self.assertEqual(len({record.msg for record in logs.records}), 1)

    def test_another_reason_and_another_thing_are_news(self):
        with self.assertLogs(_logger) as logs:
            for _i in range(10):
                for what in ("one", "two"):
                    for reason in ("a", "b"):
                        self.problem(what, reason)
        self.assertEqual(len(logs.output), 4)

    def test_what_was_told_is_told_to_be_over(self):
        with self.assertLogs(_logger) as logs:
            self.log.solved("one", "well")
            self.problem()
            self.log.solved("one", "well")
            self.log.solved("one", "well")
        self.assertEqual(
            [record.levelname for record in logs.records], ["WARNING", "INFO"]
        )
        with self.assertLogs(_logger) as logs:
            self.log.solved("two", "well", at_first=True)
            self.log.solved("two", "well", at_first=True)
        self.assertEqual(len(logs.output), 1)

    def test_many_reasons_of_one_minute_are_told_once(self):
        self.log.MAX_REASONS = 10
        with self.assertLogs(_logger) as logs:
            for _i in range(3):
                for number in range(30):
                    self.problem(reason=str(number))
        self.assertEqual(len(logs.output), 30)

    def test_memory_is_bounded(self):
        self.log.PERIOD = -1
        self.log.MAX_REASONS = 10
        with self.assertLogs(_logger):
            for number in range(100):
                self.problem(reason=str(number))
        self.assertLessEqual(len(self.log._told), 10)


class TestState(BaseCase):
    """What becomes of what happens."""

    def setUp(self):
        super().setUp()
        self.doubts = []
        self.state = State(_logger, "imbus", "Meanwhile.")
        self.state.on_doubt = lambda: self.doubts.append(1)

    def test_one_line_for_each_change(self):
        with self.assertLogs(_logger) as logs:
            for _i in range(3):
                self.state.proven("there")
            self.state.renewing()
            self.state.proven("there")
            for _i in range(3):
                self.state.failed(OSError("away"))
            self.state.proven("there")
        self.assertEqual(len(logs.output), 3)
        self.assertEqual(len(self.doubts), 2)

    def test_a_doubt_that_comes_back_is_told(self):
        self.state.log.PERIOD = 0.2
        with self.assertLogs(_logger) as logs:
            for _i in range(2):
                self.state.proven("there")
                self.state.doubted("nothing came")
            deadline = time.monotonic() + 30
            while len(logs.output) < 4:
                self.assertLess(time.monotonic(), deadline)
                self.state.doubted("nothing came")
                time.sleep(0.01)
        self.assertIn("nothing came", logs.output[-1])
        self.assertIn("1 more like it", logs.output[-1])

    def test_a_doubt_is_told_once(self):
        self.state.proven("there")
        with self.assertLogs(_logger) as logs:
            for _i in range(3):
                self.state.doubted("nothing came")
            self.state.doubted("nothing came, and none can be sent")
        self.assertEqual(len(logs.output), 2)
        self.assertEqual(len(self.doubts), 1)

    def test_each_table_that_cannot_be_read_is_named(self):
        with self.assertLogs(_logger) as logs:
            for _i in range(3):
                for name in ("one", "two", "three"):
                    self.state.table_failed(name, OSError("away"))
            self.state.table_read("two")
        self.assertEqual(len(logs.output), 4)
        self.assertIn('"two" can be read again', logs.output[3])

    def test_a_reason_that_is_a_question(self):
        with self.assertLogs(_logger) as logs:
            self.state.failed(OSError("Is it there?"))
            self.state.failed(OSError("It is not"), "Have it come.")
        self.assertIn("Is it there? Meanwhile.", logs.output[0])
        self.assertIn("It is not. Have it come. Meanwhile.", logs.output[1])

    def test_libpq_asks_and_nobody_can_answer(self):
        error = OSError(
            'connection to server at "there" failed: Connection refused\n'
            "\tIs the server running on that host and accepting TCP/IP connections?\n"
        )
        self.assertTrue(one_line(error).endswith("Connection refused"))

    def test_what_is_not_foreseen_has_a_traceback(self):
        with self.assertLogs(_logger) as logs:
            try:
                raise KeyError("bug")
            except KeyError as error:
                self.state.failed(error)
        self.assertIn("Traceback", logs.output[0])


class TestMessages(BaseCase):
    """Each is one constant template, so that error trackers group by it; and ends."""

    #: Where the template stands among the arguments.
    CALLS = {"error": 0, "warning": 0, "info": 0, "problem": 2, "solved": 1}

    def templates(self):
        """Yield each template of the addon's, as the expression that it is."""
        root = Path(__file__).parents[1]
        for path in [*root.glob("listening/*.py"), *root.glob("models/*.py")]:
            for node in ast.walk(ast.parse(path.read_text())):
                name = getattr(getattr(node, "func", None), "attr", None)
                if isinstance(node, ast.Call) and name in self.CALLS:
                    found = node.args[self.CALLS[name]]
                    where = f"{path.name}:{node.lineno}"
                    if isinstance(found, ast.IfExp):
                        yield where, found.body
                        found = found.orelse
                    yield where, found

    def test_templates(self):
        found = list(self.templates())
        self.assertGreater(len(found), 15)
        for where, template in found:
            with self.subTest(where=where):
                self.assertNotIsInstance(template, (ast.JoinedStr, ast.BinOp))
                if isinstance(template, ast.Constant):
                    # what takes the place of the latter is a sentence
                    self.assertTrue(template.value.endswith((".", "%s")))
