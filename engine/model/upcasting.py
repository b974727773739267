"""How old events become those of today: upcasters, downcasters, types that nobody folds any more.

Rules: an upcaster is a pure function from one class of event to the next one, found by its
annotations. What is stored never changes: an old event is upcast at every read, step by step, until
no upcaster leads on. A retired type is passed over by everybody who folds, and still counts in
versions and positions. A downcaster leads one step back, for processes that read no newer version;
it may lose something, and upcasters lead from there to the class of today again. Whatever does not
fit together is refused when the engine is made. This file decodes nothing and knows no store.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec

from ..errors import DefinitionError
from .annotations import defining_namespace, read_signature
from .messages import Event, check_name

__all__ = ["Retired", "Upcaster", "Upcasting", "downcasts", "upcasts"]

F = TypeVar("F", bound=Callable[[Any], Any])

_MARK = "__foldline_upcaster__"
_DOWN = "__foldline_downcaster__"


class Upcaster(msgspec.Struct, frozen=True):
    """One step from an old class of event to the next one, or of a downcaster the other way."""

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
    step = _step_of(function, defining_namespace(1))
    if step is None:
        raise DefinitionError(
            f"{function.__qualname__} must take one event and give the one that it is today: write "
            f"`@upcasts def {function.__name__}(event: Old) -> New`, both classes of Event"
        )
    if step.source is step.target:
        raise DefinitionError(
            f"{step.where} leads from {step.target.__name__} to itself: an upcaster leads to "
            f"another version, or to another name"
        )
    setattr(function, _MARK, step)
    return function


def downcasts(function: F) -> F:
    """Mark a function that makes a former event of today's: `(event: New) -> Old`.

    An engine with `join=` stores what it gives while a process of the log does not read the new
    one. It must be pure, as an upcaster, and upcasters must lead back. Raises DefinitionError for
    another signature.
    """
    step = _step_of(function, defining_namespace(1))
    if step is None or step.source is step.target:
        raise DefinitionError(
            f"{function.__qualname__} must take one event and give the one that it was before: "
            f"write `@downcasts def {function.__name__}(event: New) -> Old`, two classes of Event"
        )
    setattr(function, _DOWN, step)
    return function


def _step_of(function: Callable[[Any], Any], namespace: Mapping[str, Any]) -> Upcaster | None:
    """Give a function as a step between two classes of event; None where it is none."""
    signature = read_signature(function, namespace, method=False)
    annotations = [annotation for _, annotation in signature.parameters]
    classes = [*annotations, signature.returns]
    if signature.is_async or len(annotations) != 1 or not all(map(_is_event_class, classes)):
        return None
    return Upcaster(annotations[0], signature.returns, function, signature.where)


def _is_event_class(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Event) and value is not Event


def _listed(what: str, given: Iterable[Any]) -> tuple[Any, ...]:
    try:
        return tuple(given)
    except TypeError:
        raise DefinitionError(f"{what}= is a list, and {given!r:.100} is none") from None


class Upcasting:
    """All upcasters, downcasters and retired types of one engine.

    Raises DefinitionError for what cannot be.
    """

    def __init__(
        self,
        functions: Iterable[Callable[..., Any]] = (),
        retired: Iterable[Retired] = (),
        downcasters: Iterable[Callable[..., Any]] = (),
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
            _add(self.steps, function, "upcast", _MARK)
        for source in self.steps:
            self.chain(source)
        self.downs: dict[type[Event], Upcaster] = {}
        """Downcasters, by the class that they lead from."""
        for function in _listed("downcasters", downcasters):
            _add(self.downs, function, "downcast", _DOWN)
        for step in self.downs.values():
            self.down_chain(step.source)
            today = self.today(step.source)
            if self.today(step.target) is not today:
                raise DefinitionError(
                    f"{step.where} gives a {step.target.__name__}, and no upcaster leads from "
                    f"there to {today.__name__}: nobody could read back what is stored"
                )

    def down_chain(self, cls: type[Event]) -> tuple[Upcaster, ...]:
        """Give the downcasters from a class to the oldest one that it can be stored as."""
        return _chain(self.downs, cls, "downcasters")

    @property
    def classes(self) -> Sequence[type[Event]]:
        """Every class that an upcaster leads from or to."""
        steps = (*self.steps.values(), *self.downs.values())
        return [cls for step in steps for cls in (step.source, step.target)]

    def chain(self, cls: type[Event]) -> tuple[Upcaster, ...]:
        """Give the steps from a class to what it is today, none for one of today."""
        return _chain(self.steps, cls, "upcasters")

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


def _add(
    steps: dict[type[Event], Upcaster], function: Callable[..., Any], does: str, mark: str
) -> None:
    step: Any = getattr(function, mark, None)
    if not isinstance(step, Upcaster):
        name = getattr(function, "__qualname__", repr(function))
        raise DefinitionError(f"{name} is no {does}er: mark it with @{does}s")
    other = steps.setdefault(step.source, step)
    if other is not step:
        raise DefinitionError(
            f"{step.source.__name__} is {does} by {step.where} and by {other.where}: keep one"
        )


def _chain(
    steps: dict[type[Event], Upcaster], cls: type[Event], called: str
) -> tuple[Upcaster, ...]:
    chain: list[Upcaster] = []
    step = steps.get(cls)
    while step is not None:
        chain.append(step)
        if step.target is cls or len(chain) > len(steps):
            raise DefinitionError(f"{step.where} closes a circle of {called}: one of them must go")
        step = steps.get(step.target)
    return tuple(chain)
