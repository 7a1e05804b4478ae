"""One way to override a function of Odoo's, which knows whether it still holds.

Other addons override the same functions. One that was there before us is replaced with
what it has replaced; one that comes after us may call ours, or not, and then nothing of
what we promise is true any more: that has to be said aloud, and can be seen only from
outside, by whoever asks.
"""

from __future__ import annotations

import functools
import gc
import logging
from types import CodeType, FunctionType, MethodType
from typing import Any, Callable, Iterator

_logger = logging.getLogger(__name__)

#: The attribute of a function of ours that keeps the original.
ORIGINAL = "bus_alt_connection_original"

#: What to do about an override that is not in force.
ADVICE = "Load bus_alt_connection after the addon that does so, or do without that."

#: What may be, or keep, a function of ours.
FUNCTIONS = (FunctionType, MethodType, functools.partial, functools.partialmethod)


class Override:
    """One function of Odoo's and ours in its place.

    :param module: where it is
    :param path: its name there, with that of its class before it if it has one
    :param ours: what takes its place
    :param instance: the name of the one object of that class, if it matters
    """

    #: All that were applied in this process.
    applied: list[Override] = []

    def __init__(
        self, module: Any, path: str, ours: Callable, instance: str | None = None
    ) -> None:
        self._module = module
        self._path = path
        self._ours = ours
        self._instance = instance
        self._is_told = False

    def apply(self) -> None:
        """Put ours in its place, if it is not there."""
        if self not in self.applied:
            self.applied.append(self)
        owner, name = self._place()
        found = getattr(owner, name)
        if found is self._ours:
            return
        # of an earlier import of the same module, if there was one
        setattr(self._ours, ORIGINAL, getattr(found, ORIGINAL, found))
        setattr(owner, name, self._ours)

    @property
    def is_possible(self) -> bool:
        """Whether there is something to override."""
        owner, name = self._place()
        return callable(getattr(owner, name, None))

    @property
    def original(self) -> Callable:
        """What was there before."""
        return getattr(self._ours, ORIGINAL)

    @property
    def is_in_force(self) -> bool:
        """Whether ours is what Odoo calls, or is called by what Odoo calls."""
        try:
            return any(_leads_to(each, self._ours, set()) for each in self._called())
        except Exception:
            # foreign objects may do anything when they are looked at
            return True

    @property
    def holder(self) -> str:
        """Who has taken our place, in words."""
        found = next(self._called(), None)
        name = getattr(found, "__qualname__", type(found).__qualname__)
        return f"{getattr(found, '__module__', None)}.{name}"

    @classmethod
    def find_lost(cls) -> list[Override]:
        """Return those that are not in force any more; tell the log once of each."""
        lost = [each for each in cls.applied if not each.is_in_force]
        for each in lost:
            if not each._is_told:
                each._is_told = True
                message = "%s: our override is not in force, %s has taken its place. %s"
                _logger.error(message, each, each.holder, ADVICE)
        return lost

    def __str__(self) -> str:
        return self._path

    def _place(self) -> tuple[Any, str]:
        """Return the class or module that has the function now, and its name there."""
        kind, _dot, name = self._path.rpartition(".")
        return (getattr(self._module, kind, None) if kind else self._module), name

    def _called(self) -> Iterator[Any]:
        """Yield what is called: what is found first, and what that calls as super()."""
        owner, name = self._place()
        places = getattr(owner, "__mro__", (owner,))
        one = getattr(self._module, self._instance or "", None)
        if one is not None:
            places = (one, *type(one).__mro__)
        for place in places:
            found = getattr(place, "__dict__", {}).get(name)
            if found is not None:
                yield found
                code = getattr(found, "__code__", None)
                if code is None or "__class__" not in code.co_freevars:
                    return


def _leads_to(found: Any, ours: Callable, seen: set) -> bool:
    """Whether a function is ours, or refers to it.

    A wrapper keeps what it wraps where ``functools.wraps`` or ``partial`` puts it, in
    its closure, in its module, in a default or in an attribute of its own.
    """
    if found is ours:
        return True
    found = getattr(found, "__func__", found)
    if id(found) in seen:
        return False
    seen.add(id(found))
    kept = [getattr(found, "__wrapped__", None), getattr(found, "func", None)]
    kept += getattr(found, "__dict__", {}).values()
    if isinstance(found, FunctionType):
        names, cells = found.__globals__, found.__closure__ or ()
        kept += [names[name] for name in _names(found.__code__) if name in names]
        kept += gc.get_referents(*cells, found.__defaults__, found.__kwdefaults__)
    functions = (each for each in kept if isinstance(each, FUNCTIONS))
    return any(_leads_to(each, ours, seen) for each in functions)


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that a function uses, and the functions in it."""
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _names(const)
