"""One way to override a function of Odoo's, which knows whether it still holds.

Other addons override the same functions. One that was there before us is replaced with
what it has replaced; one that comes after us may call ours, or not, and then nothing of
what we promise is true any more: that has to be said aloud, and can be seen only from
outside, by whoever asks.
"""

from __future__ import annotations

import functools
import logging
from types import CodeType, FunctionType, MethodType
from typing import Any, Callable, Iterator

_logger = logging.getLogger(__name__)

#: The attribute of a function of ours that keeps the original.
ORIGINAL = "bus_alt_connection_original"

#: No wrapper of somebody else's: they refer to one another.
OUR_MODULES = {
    f"{__package__}.{name}" for name in ("bus", "cron", "handed", "monitoring")
}


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

    def check(self) -> bool:
        """Return whether ours is in force; tell the log once if it is not."""
        if self.is_in_force:
            return True
        if not self._is_told:
            self._is_told = True
            _logger.error(
                "%s: our override is not in force, %s has taken its place. %s",
                self,
                self.holder,
                ADVICE,
            )
        return False

    @classmethod
    def find_lost(cls) -> list[Override]:
        """Return those that are not in force any more; tell the log once of each."""
        return [override for override in cls.applied if not override.check()]

    def __str__(self) -> str:
        return self._path

    def _place(self) -> tuple[Any, str]:
        """Return the class or module that has the function now, and its name there."""
        kind, _dot, name = self._path.rpartition(".")
        return (getattr(self._module, kind, None) if kind else self._module), name

    def _called(self) -> Iterator[Any]:
        """Yield what is called: what is found first, and what that calls as super()."""
        owner, name = self._place()
        if not isinstance(owner, type):
            yield getattr(owner, name)
            return
        places = owner.__mro__
        if self._instance:
            found = getattr(self._module, self._instance, None)
            places = (found, *type(found).__mro__) if found is not None else places
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
    names = getattr(found, "__globals__", {})
    if id(found) in seen or names.get("__name__") in OUR_MODULES:
        return False
    seen.add(id(found))
    kept = [getattr(found, "__wrapped__", None), getattr(found, "func", None)]
    kept += getattr(found, "__dict__", {}).values()
    if isinstance(found, FunctionType):
        kept += [names[name] for name in _names(found.__code__) if name in names]
        kept += [_contents(cell) for cell in found.__closure__ or ()]
        kept += found.__defaults__ or ()
        kept += (found.__kwdefaults__ or {}).values()
    functions = (each for each in kept if isinstance(each, FUNCTIONS))
    return any(_leads_to(each, ours, seen) for each in functions)


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that a function uses, and the functions in it."""
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _names(const)


def _contents(cell: Any) -> Any:
    """Return what a closure holds; None if nothing, yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
