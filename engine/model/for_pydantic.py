"""How pydantic takes a message or a row, and so how FastAPI does: as a body, an answer, a schema.

Rules: msgspec decides what a value is, for pydantic too, so a class means the same everywhere. The
JSON schema is msgspec's, with what is nested in its place, and FastAPI names it by the class. What
is refused and cannot be sent back is told without it. What pydantic wants of a class is a plain
dict: nothing here imports it, and who has no pydantic misses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, cast

import msgspec

from ..errors import InvalidInput

__all__ = ["core_schema", "json_schema"]

_REFERENCE: Final = "#/"
_Schemas: TypeAlias = Mapping[str, Mapping[str, object]]


def core_schema(cls: type[Any], _source: Any, _handler: Callable[[Any], Any]) -> dict[str, Any]:
    """Give `__get_pydantic_core_schema__` of a struct: checked and encoded by msgspec."""

    def checked(value: object) -> object:
        if isinstance(value, cls):
            return value
        try:
            return msgspec.convert(value, cls)
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            if not _can_be_shown(value):
                raise InvalidInput(f"{cls.__name__}: {error}. Nothing was run.") from None
            raise ValueError(str(error)) from None  # what pydantic takes for a refusal

    return {
        "type": "function-plain",
        "function": {"type": "no-info", "function": checked},
        "serialization": {
            "type": "function-plain",
            "function": msgspec.to_builtins,
            "when_used": "json",
        },
        # Pydantic names the schema by what stands behind the last dot, and tells classes apart
        # by the number.
        "ref": f"{cls.__module__}.{cls.__qualname__}:{id(cls)}",
    }


def _can_be_shown(value: object) -> bool:
    """Tell whether FastAPI can send back what it refuses, which it does: as JSON, in UTF-8.

    Half a character and NaN come in by Python's JSON, and do not go out again.
    """
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return False
    except TypeError:
        return True  # it did not come as JSON
    return True


def json_schema(cls: type[Any], _schema: Any, _handler: Callable[[Any], Any]) -> dict[str, Any]:
    """Give `__get_pydantic_json_schema__` of a struct: msgspec's schema, in one piece."""
    (found,), parts = msgspec.json.schema_components([cls], ref_template=_REFERENCE + "{name}")
    return _object_in_one_piece(found, parts, ())


def _in_one_piece(schema: object, parts: _Schemas, inside: tuple[str, ...]) -> object:
    """Put what a schema names in its place; of what contains itself, only that it is an object."""
    if isinstance(schema, list):
        items = cast("list[object]", schema)
        return [_in_one_piece(item, parts, inside) for item in items]
    if isinstance(schema, dict):
        return _object_in_one_piece(cast("dict[str, object]", schema), parts, inside)
    return schema


def _object_in_one_piece(
    schema: Mapping[str, object], parts: _Schemas, inside: tuple[str, ...]
) -> dict[str, Any]:
    name = str(schema.get("$ref", "")).removeprefix(_REFERENCE)
    if name in inside:
        return {"type": "object", "title": name}
    if name in parts:
        return _object_in_one_piece(parts[name], parts, (*inside, name))
    return {key: _in_one_piece(value, parts, inside) for key, value in schema.items()}
