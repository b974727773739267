"""How old events become the events of today: upcasters, and types that nobody folds any more.

Rules: an upcaster is a pure function from one class of event to the next one, found by its
annotations. What is stored never changes: an old event is upcast at every read, step by step, until
no upcaster leads on. A retired type is passed over by everybody who folds, and still counts in
versions and positions. Whatever does not fit together is refused when the engine is made. This file
decodes nothing and knows no store.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import msgspec

from ..errors import DefinitionError
from .annotations import defining_namespace, read_signature
from .messages import Event, check_name

__all__ = ["Retired", "Upcaster", "Upcasting", "upcasts"]

F = TypeVar("F", bound=Callable[[Any], Any])

_MARK = "__foldline_upcaster__"


class Upcaster(msgspec.Struct, frozen=True):
    """One step from an old class of event to the next one."""

    source: type[Event]
    target: type[Event]
    function: Callable[[Any], Any]
    where: str
    """The function's qualified name, for messages."""


class Retired(msgspec.Struct, frozen=True):
    """A stored type of event that nobody folds any more: `Retired("order-labelled")`."""

    name: str
    """The stored name of the type."""
    versions: tuple[int, ...] | None = None
    """Those that are retired; None for all."""

    def __post_init__(self) -> None:
        """Check the name and the versions."""
        mend = 'Write `Retired("the-stored-name")`.'
        check_name(self.name, "a retired event", mend)
        versions: object = self.versions
        if versions is not None and not _are_versions(versions):
            raise DefinitionError(
                f"Retired({self.name!r}) has versions={versions!r:.100}: give a tuple of those "
                f"that are retired, as in `Retired({self.name!r}, (1, 2))`; versions count from 1"
            )

    def covers(self, name: str, version: int) -> bool:
        """Say whether the stored type `name`, `version` is retired by this."""
        return name == self.name and (self.versions is None or version in self.versions)


def _are_versions(given: object) -> bool:
    if not isinstance(given, tuple | list) or not given:
        return False
    found: Sequence[object] = cast("Sequence[object]", given)
    return all(isinstance(version, int) and version >= 1 for version in found)


def upcasts(function: F) -> F:
    """Mark a function that makes today's event of an old one: `(event: Old) -> New`.

    It must be pure: it runs at every read of an old event, in no promised order. It never sees a
    clock, a database or another event. Raises DefinitionError for another signature.
    """
    signature = read_signature(function, defining_namespace(1), method=False)
    annotations = [annotation for _, annotation in signature.parameters]
    classes = [*annotations, signature.returns]
    if signature.is_async or len(annotations) != 1 or not all(map(_is_event_class, classes)):
        raise DefinitionError(
            f"{signature.where} must take one event and give the one that it is today: write "
            f"`@upcasts def {function.__name__}(event: Old) -> New`, both classes of Event"
        )
    if annotations[0] is signature.returns:
        raise DefinitionError(
            f"{signature.where} leads from {signature.returns.__name__} to itself: an upcaster "
            f"leads to another version, or to another name"
        )
    upcaster = Upcaster(annotations[0], signature.returns, function, signature.where)
    setattr(function, _MARK, upcaster)
    return function


def _is_event_class(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Event) and value is not Event


def _listed(what: str, given: Iterable[Any]) -> tuple[Any, ...]:
    try:
        return tuple(given)
    except TypeError:
        raise DefinitionError(f"{what}= is a list, and {given!r:.100} is none") from None


class Upcasting:
    """All upcasters and retired types of one engine. Raises DefinitionError for what cannot be."""

    def __init__(
        self, functions: Iterable[Callable[..., Any]] = (), retired: Iterable[Retired] = ()
    ) -> None:
        self.steps: dict[type[Event], Upcaster] = {}
        """By the class that they lead from."""
        self.retired = _listed("retired", retired)
        for each in self.retired:
            if not isinstance(each, Retired):
                raise DefinitionError(
                    f"retired= is a list of Retired(...), and {each!r:.100} is none"
                )
        for function in _listed("upcasters", functions):
            self._add(function)
        for source in self.steps:
            self.chain(source)

    def _add(self, function: Callable[..., Any]) -> None:
        upcaster: Any = getattr(function, _MARK, None)
        if not isinstance(upcaster, Upcaster):
            name = getattr(function, "__qualname__", repr(function))
            raise DefinitionError(f"{name} is no upcaster: mark it with @upcasts")
        other = self.steps.setdefault(upcaster.source, upcaster)
        if other is not upcaster:
            raise DefinitionError(
                f"{upcaster.source.__name__} is upcast by {upcaster.where} and by {other.where}: "
                f"keep one"
            )

    @property
    def classes(self) -> Sequence[type[Event]]:
        """Every class that an upcaster leads from or to."""
        return [cls for step in self.steps.values() for cls in (step.source, step.target)]

    def chain(self, cls: type[Event]) -> tuple[Upcaster, ...]:
        """Give the steps from a class to what it is today, none for one of today."""
        chain: list[Upcaster] = []
        step = self.steps.get(cls)
        while step is not None:
            chain.append(step)
            if step.target is cls or len(chain) > len(self.steps):
                raise DefinitionError(
                    f"{step.where} closes a circle of upcasters: one of them must go"
                )
            step = self.steps.get(step.target)
        return tuple(chain)

    def today(self, cls: type[Event]) -> type[Event]:
        """Give the class that events of `cls` are today."""
        chain = self.chain(cls)
        return chain[-1].target if chain else cls

    def is_retired(self, name: str, version: int) -> bool:
        """Tell whether nobody folds a stored type any more."""
        return any(retired.covers(name, version) for retired in self.retired)

    def check(self, folded: Iterable[tuple[type[Event], str]]) -> None:
        """Refuse what contradicts those who fold: (class, who folds it) for each of them."""
        known: set[type[Event]] = set()
        for cls, who in folded:
            known.add(cls)
            step = self.steps.get(cls)
            if step is not None:
                raise DefinitionError(
                    f"{who} folds {cls.__name__}, which {step.where} makes a "
                    f"{step.target.__name__} of: fold that one, and only that one is written"
                )
        for cls in (*known, *self.classes):
            if self.is_retired(cls.event_name, cls.event_version):
                raise DefinitionError(
                    f"{cls.event_name!r} version {cls.event_version} is retired, and "
                    f"{cls.__name__} declares it: drop one of the two"
                )
        for step in self.steps.values():
            if step.target not in self.steps and step.target not in known:
                raise DefinitionError(
                    f"{step.where} leads to {step.target.__name__}, which no aggregate and no "
                    f"projection folds: add an applier, or retire {step.source.event_name!r}"
                )
