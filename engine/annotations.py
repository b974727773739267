"""Reads the annotations of a decorated function: what it takes and what it gives.

Handlers are found by their annotations, so these are resolved when a class is made, also where
they are strings, and also where they name classes that are local to a function (as in tests).
This file never calls what it reads.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from .errors import DefinitionError

__all__ = ["Signature", "defining_namespace", "read_signature", "shared_default", "union_members"]


class Signature(msgspec.Struct, frozen=True):
    """The positional parameters of a function, in order, and what it returns."""

    where: str
    """The function's qualified name, for messages."""
    parameters: tuple[tuple[str, Any], ...]
    """(name, annotation) without `self`; the annotation is `inspect.Parameter.empty` if none."""
    returns: Any
    is_async: bool


def defining_namespace(depth: int) -> Mapping[str, Any]:
    """Give the local names of the frame that executes a class statement, `depth` calls up."""
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        assert frame is not None, "a class statement always runs in a frame"
        frame = frame.f_back
    assert frame is not None
    return frame.f_locals


def read_signature(
    function: Callable[..., Any], namespace: Mapping[str, Any], *, method: bool
) -> Signature:
    """Read a function's signature; raise DefinitionError where a name cannot be resolved."""
    where = getattr(function, "__qualname__", repr(function))
    try:
        hints = typing.get_type_hints(function, localns=dict(namespace), include_extras=True)
    except NameError as error:
        raise DefinitionError(
            f"an annotation of {where} cannot be resolved: {error}. Import the name at the top of "
            f"the module, outside `if TYPE_CHECKING`: handlers are found by their annotations."
        ) from error
    parameters = list(inspect.signature(function).parameters.values())
    if method:
        parameters = parameters[1:]
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise DefinitionError(
                f"{where} takes {parameter}: a handler takes positional parameters only"
            )
    empty = inspect.Parameter.empty
    return Signature(
        where,
        tuple((p.name, hints.get(p.name, empty)) for p in parameters),
        hints.get("return", empty),
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function),
    )


def union_members(annotation: Any) -> tuple[Any, ...]:
    """Give the members of a union, or the annotation alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


_SHAREABLE = (str, bytes, int, float, complex, bool, type(None), frozenset, type)


def shared_default(cls: type[msgspec.Struct]) -> str | None:
    """Name a field whose default is one mutable object that all instances would share, if any.

    msgspec copies empty lists, dicts and sets by itself and refuses filled ones.
    """
    defaults = cls.__struct_defaults__
    names = cls.__struct_fields__[len(cls.__struct_fields__) - len(defaults) :]
    for name, default in zip(names, defaults, strict=True):
        if _is_mutable(default):
            return name
    return None


def _is_mutable(default: Any) -> bool:
    if isinstance(default, tuple):
        return any(_is_mutable(item) for item in _items(default))
    if isinstance(default, msgspec.Struct):
        config = type(default).__struct_config__
        return not config.frozen or any(
            _is_mutable(getattr(default, name)) for name in default.__struct_fields__
        )
    if isinstance(default, _SHAREABLE):
        return False
    # Enums, dates, UUIDs, Decimals and frozen dataclasses hash by value or identity and stay as
    # they are; lists, dicts, sets and plain dataclasses do not hash.
    return type(default).__hash__ is None


def _items(value: Any) -> Iterable[Any]:
    return value  # type: ignore[no-any-return]
