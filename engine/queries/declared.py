"""Answers as they are declared: functions, each for one class of query, and what it reads.

Rules: whatever does not fit is refused when the function is decorated or the engine is made, with
the mend in the message. What an answer gives is compared with its type where somebody asks for
that, in debug mode. Nothing is asked here.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast, overload

import msgspec

from ..errors import DefinitionError, UsageError
from ..model.annotations import Signature, defining_namespace, read_signature, union_members
from ..model.checking import judge_of
from ..model.messages import Query
from ..model.projection import Dialect, Projection, dialects_of
from ..model.projections import projections_of
from .views import Views

__all__ = ["AnswerDefinition", "answers", "answers_of", "check_awaited", "judged"]

F = TypeVar("F", bound=Callable[[Any, Views], Awaitable[Any]])

_MARK = "__foldline_answers__"
_HOLDERS: Final = (list, tuple, dict, set, frozenset)


class AnswerDefinition(msgspec.Struct, frozen=True):
    """A function that answers one type of query."""

    query: type[Query[Any]]
    function: Callable[[Any, Views], Awaitable[Any]]
    projections: tuple[str, ...] | None
    """Which ones a query `at` a position waits for; None for all of the engine but sinks."""
    dialects: tuple[Dialect, ...] = ()
    """In whose SQL it is written; none said, in that of the views."""


@overload
def answers(function: F, /) -> F: ...
@overload
def answers(
    *,
    projections: Sequence[type[Projection]] | None = ...,
    dialect: Dialect | Sequence[Dialect] | None = ...,
) -> Callable[[F], F]: ...
def answers(
    function: Any = None,
    /,
    *,
    projections: Sequence[type[Projection]] | None = None,
    dialect: Dialect | Sequence[Dialect] | None = None,
) -> Any:
    """Mark `async def f(query: Q, views: Views) -> ...` as what answers queries of type Q.

    With `projections`, a query `at` a position waits for these, and for what the answer reads;
    without, for all but sinks. `dialect` says in whose SQL its statements are: in that of the views
    unless given. With `dialect=("sqlite", "postgresql")` a past of views in PostgreSQL answers it
    too, which is folded in SQLite.
    """
    names: tuple[str, ...] | None = None
    if projections is not None:
        names = tuple(definition.name for definition in projections_of(projections))
    dialects = dialects_of("an answer", dialect)

    def mark(answer: F) -> F:
        signature = read_signature(answer, defining_namespace(1), method=False)
        setattr(answer, _MARK, AnswerDefinition(_query_of(signature), answer, names, dialects))
        return answer

    if function is None:
        return mark
    if inspect.isclass(function):
        name = function.__name__
        raise DefinitionError(f"@answers was given {name}: write `@answers(projections=[{name}])`")
    signature = read_signature(function, defining_namespace(1), method=False)
    setattr(function, _MARK, AnswerDefinition(_query_of(signature), function, names))
    return function


def answers_of(
    functions: Sequence[Callable[..., Any]], projections: Container[str]
) -> Mapping[type[Query[Any]], AnswerDefinition]:
    """Give what answers each type of query; raise DefinitionError for what does not fit together.

    `projections` are the names of those that there are.
    """
    by_query: dict[type[Query[Any]], AnswerDefinition] = {}
    if callable(functions) or not isinstance(cast("object", functions), Iterable):
        raise DefinitionError(
            f"answers= is a list of functions marked with @answers, and {functions!r:.100} is none"
        )
    for function in functions:
        where = getattr(function, "__qualname__", repr(function))
        definition = getattr(function, _MARK, None)
        if not isinstance(definition, AnswerDefinition):
            raise DefinitionError(f"{where} is no answer: mark it with @answers")
        other = by_query.get(definition.query)
        if other is not None:
            raise DefinitionError(
                f"{definition.query.__name__} is answered by {where} and by "
                f"{getattr(other.function, '__qualname__', other.function)}: keep one"
            )
        for name in definition.projections or ():
            if name not in projections:
                raise DefinitionError(
                    f"{where} waits for projection {name!r}, which this engine has not: pass it to "
                    f"Engine(projections=[...])"
                )
        by_query[definition.query] = definition
    return by_query


def judged(definition: AnswerDefinition) -> AnswerDefinition:
    """Give an answer that raises UsageError for what is not of the type that its query declares."""
    function, name = definition.function, definition.query.__name__
    judge = judge_of(_answer_type(definition.query))

    async def answer(query: Any, views: Views) -> Any:
        given = await function(query, views)
        check_awaited(query, given)
        fault = judge(given)
        if fault is not None:
            where = getattr(function, "__qualname__", repr(function))
            raise UsageError(
                f"the answer to {name}{fault}: give from {where} what `Query[...]` declares. "
                f"Engine(debug=True) has found it."
            )
        return given

    return msgspec.structs.replace(definition, function=answer)


def check_awaited(query: Query[Any], answer: object) -> None:
    """Raise UsageError for an answer that is a coroutine."""
    if type(answer) is types.CoroutineType:
        answer.close()
        raise UsageError(
            f"the answer to {type(query).__name__} is a coroutine, which nobody awaited: write "
            f"`return await ...` in the function that answers it"
        )


def _query_of(signature: Signature) -> type[Query[Any]]:
    """Check the signature of an answer, and give the query that it is for."""
    where = signature.where
    if not signature.is_async:
        raise DefinitionError(f"{where} answers queries and is not async: write `async def`")
    shown = "async def answer(query: SomeQuery, views: Views) -> ..."
    annotations = [annotation for _, annotation in signature.parameters]
    query: Any = annotations[0] if annotations else None
    fits = isinstance(query, type) and issubclass(query, Query) and query is not Query
    if not fits or len(annotations) != 2 or annotations[1] is not Views:
        raise DefinitionError(f"{where} must take one query and the views: write `{shown}`")
    wanted = _answer_type(query)
    if signature.returns is inspect.Parameter.empty:
        raise DefinitionError(
            f"{where} says not what it returns: annotate it `-> {_shown(wanted)}`"
        )
    if not _fits(signature.returns, wanted):
        raise DefinitionError(
            f"{where} is annotated to return {_shown(signature.returns)}, and the answer to "
            f"{query.__name__} is {_shown(wanted)}: make them the same"
        )
    return typing.cast("type[Query[Any]]", query)


def _answer_type(query: Any) -> Any:
    """Give what stands in the brackets of `Query[...]`, or Any where that cannot be told."""
    for cls in query.__mro__:
        for base in getattr(cls, "__orig_bases__", ()):
            if typing.get_origin(base) is Query:
                answer = typing.get_args(base)[0]
                unknown = isinstance(answer, TypeVar | str | typing.ForwardRef)
                return Any if unknown else answer
    return Any


def _fits(given: Any, wanted: Any) -> bool:
    """Tell whether one type may stand where the other is promised, as far as can be told here.

    The type checkers look closer; this finds the missing and the plainly different one.
    """
    if wanted is Any or given is Any or given == wanted:
        return True
    possible = union_members(wanted)
    return all(any(_fits_one(g, w) for w in possible) for g in union_members(given))


def _fits_one(given: Any, wanted: Any) -> bool:
    parts = _parts(given), _parts(wanted)
    given, wanted = _plain(given), _plain(wanted)
    if given == wanted:
        return len(parts[0]) != len(parts[1]) or all(map(_may_be, *parts))
    return isinstance(given, type) and isinstance(wanted, type) and issubclass(given, wanted)


def _may_be(given: Any, wanted: Any) -> bool:
    """Tell whether what stands in the brackets of one type may stand in those of the other."""
    return isinstance(given, TypeVar) or _fits(given, wanted) or _fits(wanted, given)


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Give the types in the brackets of a list, a dict and the like; nothing for other types."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    is_known = isinstance(origin, type) and issubclass(
        origin, list | tuple | dict | set | frozenset
    )
    return parts if is_known and not any(map(_is_odd, parts)) else ()


def _is_odd(part: Any) -> bool:
    return part is Ellipsis or isinstance(part, TypeVar | str | typing.ForwardRef)


def _plain(annotation: Any) -> Any:
    if annotation is None:
        return types.NoneType
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _plain(typing.get_args(annotation)[0])
    return annotation if origin is None else origin


def _shown(annotation: Any) -> str:
    name = getattr(annotation, "__name__", None)
    return name if isinstance(annotation, type) and name else str(annotation)
