"""Private fields of events and rows: those that no export has.

Rules: a field is private if its whole type is marked, as in `salary: Private[int]`, or if it is
personal; a mark deeper inside a type is refused, since it would keep nothing back. The mark is in
the class alone, and changes nothing that is stored.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias, TypeVar, cast

import msgspec
from msgspec import inspect

from ..errors import DefinitionError

__all__ = ["Private", "has_inside", "private_fields"]

T = TypeVar("T")

Private: TypeAlias = Annotated[T, msgspec.Meta(extra={"foldline": "private"})]
"""The type of a field of an event or a row that no export has: `salary: Private[int]`.

To everything else it is the type inside. An export knows the mark from the classes of `--app`.
"""

_MARKS: Final = ("private", "personal")


def private_fields(cls: type[msgspec.Struct]) -> frozenset[str]:
    """Give the names that private and personal fields of a class have in JSON, or as columns.

    Raises DefinitionError for a mark inside a type, and NameError where a field names a type that
    is not there yet.
    """
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    found: set[str] = set()
    for field in info.fields:
        type_: Any = field.type
        while isinstance(type_, inspect.Metadata):
            if _mark(type_) in _MARKS:
                found.add(field.encode_name)
            type_ = type_.type
        if has_inside(type_, "private"):
            raise DefinitionError(
                f"{cls.__qualname__}.{field.name} has `Private` inside its type, where it would "
                f"keep nothing back: mark the whole field, as in `salary: Private[int | None]`"
            )
    return frozenset(found)


def _mark(type_: inspect.Metadata) -> object:
    return cast("dict[str, object]", type_.extra or {}).get("foldline")


def has_inside(type_: Any, mark: str, inside: tuple[type, ...] = ()) -> bool:
    """Tell whether a type is marked, or has a mark anywhere inside."""
    parts: tuple[Any, ...] = ()
    if isinstance(type_, inspect.Metadata):
        if _mark(type_) == mark:
            return True
        parts = (type_.type,)
    elif isinstance(type_, inspect.StructType | inspect.DataclassType | inspect.TypedDictType):
        if type_.cls not in inside:
            inside = (*inside, type_.cls)
            parts = tuple(field.type for field in type_.fields)
    elif isinstance(type_, inspect.Type):
        parts = tuple(getattr(type_, name) for name in type_.__struct_fields__)
    elif isinstance(type_, tuple):
        listed: list[Any] = [*type_]
        parts = tuple(listed)
    return any(has_inside(part, mark, inside) for part in parts)
