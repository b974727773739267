"""The question: a query that is watched, once for all who watch it, with its newest answer.

Rules: its answer is settled while nothing has changed that it has read, and no ask is under way.
It holds one answer, however many watch it and however slow they are, and counts them, so that each
can tell whether there is one that it was not given yet. Nobody else has a list that it holds, to
sort it or to take from it: the next answer is compared with it. It asks nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property, lru_cache
from types import TracebackType
from typing import Any, Final, cast

import msgspec
from msgspec import inspect

from ..model.conditions import Filter
from ..model.copying import ATOMS, copied
from ..model.footprint import footprint
from ..model.messages import Query
from ..model.rows import Scalar

__all__ = ["Question", "Told", "are_same", "key_of", "own", "weigh"]

_CLASSES_MAX: Final = 1_000
"""Of how many classes it is kept whether their objects can be changed."""
_ATOMS: Final = (
    *(inspect.IntType, inspect.FloatType, inspect.BoolType, inspect.NoneType, inspect.StrType),
    *(inspect.BytesType, inspect.DateType, inspect.DateTimeType, inspect.EnumType),
)

_canonical = msgspec.json.Encoder(order="deterministic")


class Told:
    """One answer, as it is given to whoever watches."""

    def __init__(self, answer: Any, number: int) -> None:
        self.answer = own(answer)
        self.number = number
        """From 1 on; one that equals the answer before it has no number of its own."""

    @cached_property
    def json(self) -> bytes:
        """The answer as JSON."""
        return msgspec.json.encode(self.answer)


class Question:
    """A query that is watched, and what is known of it."""

    def __init__(self, query: Query[Any], key: object) -> None:
        self.query = query
        self.key = key
        self.watchers = 0
        self.told: Told | None = None
        """Its newest answer."""
        self.weight = 0
        """Its bytes, as JSON."""
        self.position = 0
        """What the last ask surely saw."""
        self.projections: Sequence[str] = ()
        """Whose tables it read."""
        self.due = True
        """Whether it must be asked again, or for the first time."""
        self.asking = False
        self.begun = 0
        """Asks that have begun."""
        self.ended = 0
        """Number of the last ask that has ended."""
        self.tables: set[str] = set()
        self.rows: set[tuple[str, Scalar]] = set()
        """What it is known to depend on, by table and key."""
        self.some: set[tuple[str, tuple[Filter, ...]]] = set()
        """And by table and filters."""
        self.failure: tuple[Exception, TracebackType | None] | None = None
        """Why it is asked no more."""
        self._waiting: set[asyncio.Future[None]] = set()
        self._joining: set[asyncio.Future[None]] = set()

    @property
    def is_settled(self) -> bool:
        """Whether its answer is what an ask would bring now."""
        return not (self.due or self.asking)

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for an answer."""
        return bool(self._waiting or self._joining)

    def wait(self, joining: bool) -> asyncio.Future[None]:
        """Give what is done when there may be another answer; for who joins, after each ask."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._joining if joining else self._waiting).add(woken)
        return woken

    def wait_no_more(self, woken: asyncio.Future[None]) -> None:
        """Forget what `wait` gave."""
        self._waiting.discard(woken)
        self._joining.discard(woken)

    def wake(self) -> None:
        """Let all who wait look again."""
        _wake(self._waiting)
        _wake(self._joining)

    def wake_joining(self) -> None:
        """Let those look again who wait for their first answer."""
        _wake(self._joining)

    def fail(self, error: Exception) -> None:
        """Be asked no more, and tell why."""
        self.failure = error, error.__traceback__
        self.wake()

    def raise_failure(self) -> None:
        """Raise why it is asked no more, if that is so."""
        if self.failure is not None:
            error, traceback = self.failure
            # As it was raised, not with a longer traceback for each one to whom it is raised.
            raise error.with_traceback(traceback)


def _wake(waiting: set[asyncio.Future[None]]) -> None:
    for woken in waiting:
        if not woken.done():
            woken.set_result(None)
    waiting.clear()


def key_of(query: Query[Any]) -> object:
    """Give what equal queries have in common; one of its own to what cannot be compared so."""
    try:
        return type(query), _canonical.encode(query)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return object()


def weigh(answer: Any) -> int:
    """Give the bytes of an answer as JSON; an estimate where it cannot be that."""
    try:
        return len(msgspec.json.encode(answer))
    except Exception:
        return footprint(answer, 200)


def own(answer: Any) -> Any:
    """Give an answer of which nobody else has a part that can be changed, as far as it is copied.

    Rows in which nothing can be changed are shared, of which there may be many.
    """
    kind = cast("type[object]", type(answer))
    if kind is list and all(map(_is_plain, set(map(type, answer)))):
        return answer.copy()
    try:
        return copied(answer)
    except Exception:  # of a class of the host's
        return answer


@lru_cache(maxsize=_CLASSES_MAX)
def _is_plain(kind: type) -> bool:
    """Tell whether nothing of an object can be changed, by what its class says of its fields."""
    if not issubclass(kind, msgspec.Struct):
        return kind in ATOMS
    try:
        info = inspect.type_info(kind)
    except Exception:
        return False
    return (
        isinstance(info, inspect.StructType)
        and kind.__struct_config__.frozen
        and all(_is_atom(field.type) for field in info.fields)
    )


def _is_atom(declared: inspect.Type) -> bool:
    if isinstance(declared, inspect.UnionType):
        return all(map(_is_atom, declared.types))
    return isinstance(declared, _ATOMS)


def are_same(one: Any, other: Any) -> bool:
    """Tell whether two are equal; where they cannot tell, whatever they raise, they are not."""
    try:
        return type(one) is type(other) and bool(one == other)
    except BaseException:
        return False
