"""Reads the annotations of a decorated function: what it takes and what it gives.

Handlers are found by their annotations, so these are resolved when a class is made, also where
they are strings, and also where they name classes that are local to a function (as in tests).
This file never calls what it reads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import enum
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import Any, Final, NoReturn, cast

import msgspec

from ..errors import DefinitionError

__all__ = [
    "UNRESOLVED",
    "PlainMeta",
    "Signature",
    "check_options",
    "defaults_of",
    "defining_namespace",
    "fields_of",
    "read_signature",
    "refuse_option",
    "refuse_shadowing",
    "resolve_locals",
    "shared_default",
    "struct_of",
    "union_members",
    "what_is_missing",
]

UNRESOLVED: Final = (NameError, AttributeError)
"""What an annotation raises whose name is not there yet, as `Name` or as `module.Name`."""


def what_is_missing(error: BaseException) -> str:
    """Say which name is not there, and why a module may be without it."""
    if not isinstance(error, AttributeError):
        return str(error)
    text = str(error).partition(" (")[0]  # Python guesses behind it
    return f"{text} yet. If modules import each other, put what both need into a third one"


class PlainMeta(msgspec.StructMeta):
    """Makes classes that are structs already, and says so to who marks one with @dataclass."""

    if not typing.TYPE_CHECKING:  # a checker would take each attribute of a class for known

        def __setattr__(cls, name: str, value: object) -> None:  # noqa: N805 - of a metaclass
            if name == "__dataclass_params__":
                raise DefinitionError(f"{cls.__qualname__} needs no @dataclass: drop it")
            super().__setattr__(name, value)


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


def resolve_locals(namespace: Mapping[str, Any], local: Mapping[str, Any]) -> None:
    """Put the classes themselves for the names of a function's own in a class statement's fields.

    msgspec looks for names that are strings in the module alone. What cannot be resolved yet stays.
    """
    module = sys.modules.get(str(namespace.get("__module__")))
    known = {} if module is None else vars(module)
    annotations = namespace.get("__annotations__", {})
    if local is known:
        return
    for name, annotation in annotations.items():
        if isinstance(annotation, str):
            carrier = types.SimpleNamespace(__annotations__={name: annotation})
            # A name that is declared below, or a ClassVar: msgspec's affair.
            with contextlib.suppress(Exception):
                hints = typing.get_type_hints(carrier, known, dict(local), include_extras=True)
                annotations[name] = hints[name]


def fields_of(cls: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Give the fields of a class; raise DefinitionError where a type cannot be resolved."""
    try:
        return msgspec.structs.fields(cls)
    except Exception as error:  # of an annotation, which may be any expression
        told = what_is_missing(error)
        raise DefinitionError(
            f"an annotation of a field of {cls.__qualname__} cannot be resolved: {told}. Declare "
            f"the type above the class, outside `if TYPE_CHECKING`."
        ) from error


def read_signature(
    function: Callable[..., Any], namespace: Mapping[str, Any], *, method: bool
) -> Signature:
    """Read a function's signature; raise DefinitionError where a name cannot be resolved."""
    where = getattr(function, "__qualname__", repr(function))
    try:
        hints = typing.get_type_hints(function, localns=dict(namespace), include_extras=True)
    except UNRESOLVED as error:
        told = what_is_missing(error)
        raise DefinitionError(
            f"an annotation of {where} cannot be resolved: {told}. Declare the name above, or "
            f"import it outside `if TYPE_CHECKING`: handlers are found by their annotations."
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


def refuse_shadowing(function: Any, namespace: Mapping[str, Any], mark: str) -> None:
    """Raise DefinitionError for what is no method, or takes the place of a marked one."""
    kind = cast("type[object]", type(function))
    if issubclass(kind, (staticmethod, classmethod)) or not hasattr(function, "__qualname__"):
        raise DefinitionError(
            f"what is marked is a method with `self`, and this is a {kind.__name__}: mark a plain "
            f"`def`"
        )
    other = namespace.get(function.__name__)
    marked = getattr(other, mark, None) is not None and inspect.isfunction(other)
    if marked and other is not function:
        raise DefinitionError(
            f"{function.__qualname__} is defined twice, and the second would take the place of the "
            f"first, which is marked too: give one of them another name"
        )


def union_members(annotation: Any) -> tuple[Any, ...]:
    """Give the members of a union, or the annotation alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


_STRUCT_OPTIONS: Final = (
    "array_like",
    "cache_hash",
    "dict",
    "eq",
    "forbid_unknown_fields",
    "frozen",
    "gc",
    "kw_only",
    "omit_defaults",
    "order",
    "rename",
    "repr_omit_defaults",
    "tag",
    "tag_field",
    "weakref",
)
"""What msgspec takes beside the name of a class."""


def check_options(where: str, given: Iterable[str], own: Sequence[str]) -> None:
    """Raise DefinitionError for an option of a class that means nothing, and guess what it was."""
    for option in given:
        if option not in _STRUCT_OPTIONS:
            refuse_option(where, option, own)


def refuse_option(where: str, option: str, own: Sequence[str]) -> NoReturn:
    """Raise DefinitionError for an unknown option, with those that there are."""
    near = difflib.get_close_matches(option, own, 1)
    guess = f"write `{near[0]}=`" if near else f"it takes {', '.join(own)}"
    raise DefinitionError(f"{where} has the option `{option}=`, which is none: {guess}")


def struct_of(found: Any) -> type[msgspec.Struct]:
    """Give the class itself where msgspec tells of a generic one with its types, `Pair[int]`."""
    cls: type[msgspec.Struct] = typing.get_origin(found) or found
    return cls


class _Probe(msgspec.Struct):
    made: list[int] = []


_FACTORY: Final = type(cast("object", _Probe.__struct_defaults__[0]))
"""What msgspec keeps for a default that is made anew each time."""


def defaults_of(cls: type[msgspec.Struct]) -> Mapping[str, tuple[Any, Callable[[], Any] | None]]:
    """Give, by field, the default and None, or None and the factory; nothing where there is none.

    Other than msgspec's own, it resolves no annotation.
    """
    defaults: tuple[Any, ...] = cls.__struct_defaults__
    names = cls.__struct_fields__[len(cls.__struct_fields__) - len(defaults) :]
    found: dict[str, tuple[Any, Callable[[], Any] | None]] = {}
    for name, default in zip(names, defaults, strict=True):
        if type(default) is _FACTORY:
            found[name] = (None, cast("Any", default).factory)
        elif default is not msgspec.NODEFAULT:
            found[name] = (default, None)
    return found


def shared_default(cls: type[msgspec.Struct]) -> str | None:
    """Name a field whose default is one mutable object that all instances would share, if any.

    msgspec copies empty lists, dicts and sets by itself and refuses filled ones.
    """
    for name, (default, factory) in defaults_of(cls).items():
        if _is_mutable(default) if factory is None else _gives_one(factory):
            return name
    return None


_EMPTY: Final = (list, dict, set, bytearray, tuple, frozenset)


def _gives_one(factory: Callable[[], Any]) -> bool:
    """Tell whether a factory gives the same mutable object each time."""
    if factory in _EMPTY:  # as msgspec keeps `= []`
        return False
    try:
        one: object = factory()
        other: object = factory()
    except Exception:  # its own affair, and found when the first object is made
        return False
    return one is other and _is_mutable(one)


_SHAREABLE: Final = (
    str, bytes, int, float, complex, type(None), type, enum.Enum, tzinfo, msgspec.UnsetType,
    types.FunctionType, types.BuiltinFunctionType,
)  # fmt: skip
"""Types of which no method changes an object, whatever they hash by."""


def _is_mutable(value: Any) -> bool:
    """Tell whether an object can change. Of an unknown class every object can."""
    if isinstance(value, tuple | frozenset):
        return any(map(_is_mutable, _items(value)))
    if isinstance(value, _SHAREABLE) or type(value) is object:
        return False
    cls: type[Any] = type(cast("object", value))
    if isinstance(value, msgspec.Struct):
        frozen, names = value.__struct_config__.frozen, value.__struct_fields__
    elif dataclasses.is_dataclass(cls):
        frozen = cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
        names = tuple(field.name for field in dataclasses.fields(cls))
    else:
        # What is equal by its own rule, and hashes by it, is a value to its author; what is equal
        # to itself alone is a thing, and things change.
        own: object = cls.__hash__
        return own is None or own is object.__hash__
    return not frozen or any(_is_mutable(getattr(value, name, None)) for name in names)


def _items(value: Any) -> Iterable[Any]:
    return value  # type: ignore[no-any-return]
