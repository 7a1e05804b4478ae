"""Whether an override is still in force when others have been at the same function."""

import functools
import sys

from odoo.tests.common import BaseCase

from ..models.override import ORIGINAL, Override

THIS = sys.modules[__name__]


class Owner:
    def method(self):
        return "stock"


THE_ONE = None


def wrap_by_module(self):
    return module_original(self)  # noqa: F821


class TestOverride(BaseCase):
    def setUp(self):
        super().setUp()

        def ours(self):
            return "ours"

        stock = Owner.method
        self.addCleanup(setattr, Owner, "method", stock)
        self.override = Override(THIS, "Owner.method", ours)
        self.override.apply()
        self.addCleanup(Override.applied.remove, self.override)

    def test_applied_once_and_the_original_is_kept(self):
        original = self.override.original
        self.override.apply()
        self.assertIs(self.override.original, original)
        self.assertEqual((Owner().method(), original(None)), ("ours", "stock"))
        self.assertTrue(self.override.is_in_force)

    def test_applied_again_by_another_import(self):
        def again(self):
            return "again"

        other = Override(THIS, "Owner.method", again)
        other.apply()
        self.addCleanup(Override.applied.remove, other)
        self.assertIs(other.original, self.override.original)

    def test_replaced(self):
        def theirs(self):
            return "theirs"

        Owner.method = theirs
        self.assertFalse(self.override.is_in_force)
        with self.assertLogs("odoo.addons.bus_alt_connection", "ERROR") as logs:
            self.assertIn(self.override, Override.find_lost())
            self.assertIn(self.override, Override.find_lost())
        self.assertEqual(len(logs.output), 1)
        self.assertIn("Owner.method", logs.output[0])
        self.assertIn("theirs", logs.output[0])
        self.assertIn("not in force", logs.output[0])

    def test_wrapped(self):
        ours = Owner.method

        @functools.wraps(ours)
        def by_functools(self):
            return ours(self)

        def by_closure(self):
            return ours(self)

        def twice(self):
            return by_closure(self)

        def by_attribute(self):
            return by_attribute.super(self)

        by_attribute.super = ours

        def by_default(self, original=ours):
            return original(self)

        def by_keyword(self, *, original=ours):
            return original(self)

        def by_nested(self):
            return (lambda: module_original(self))()  # noqa: F821

        wrap_by_module.__globals__["module_original"] = ours
        self.addCleanup(wrap_by_module.__globals__.pop, "module_original")
        for wrapper in (
            by_functools,
            by_closure,
            twice,
            by_attribute,
            wrap_by_module,
            by_default,
            by_keyword,
            by_nested,
            functools.partialmethod(ours),
        ):
            with self.subTest(wrapper=wrapper):
                Owner.method = wrapper
                self.assertTrue(self.override.is_in_force)

    def test_subclasses(self):  # pylint: disable=missing-return
        """What stands there now is another class of that name."""
        base = Owner
        self.addCleanup(setattr, THIS, "Owner", base)

        class Calls(base):
            def method(self):
                return super().method()

        class Inherits(base):
            pass

        class Replaces(base):
            def method(self):
                return "theirs"

        for kind, is_in_force in ((Calls, 1), (Inherits, 1), (Replaces, 0)):
            THIS.Owner = kind
            self.assertEqual(self.override.is_in_force, is_in_force, kind)

    def test_the_one_object_of_a_class(self):
        override = Override(THIS, "Owner.method", Owner.method, instance="THE_ONE")
        self.addCleanup(setattr, THIS, "THE_ONE", None)
        self.assertTrue(override.is_in_force)
        THIS.THE_ONE = Owner()
        self.assertTrue(override.is_in_force)
        THIS.THE_ONE.method = lambda: "theirs"
        self.assertFalse(override.is_in_force)

    def test_foreign_objects_may_do_anything(self):
        class Rude:
            @property
            def __class__(self):
                raise RuntimeError

        rude = Rude()

        def theirs(self):
            return rude

        Owner.method = theirs
        self.assertTrue(self.override.is_in_force)

    def test_the_original_is_where_a_reader_looks_for_it(self):
        self.assertEqual(getattr(Owner.method, ORIGINAL)(None), "stock")
