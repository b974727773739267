"""A list of projections, as an engine or a query is given it: each is one, and no two share a name.

Rules: what does not fit is refused with the mend in the message. This file knows no store.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Sequence
from typing import Any

from ..errors import DefinitionError
from .projection import ProjectionDefinition

__all__ = ["check_names", "projections_of"]


def projections_of(projections: object) -> list[ProjectionDefinition]:
    """Give what is known of projection classes; raise DefinitionError for what is none.

    Also where two have one name, or two of their tables have one in SQL.
    """
    listed = isinstance(projections, Sequence) and not isinstance(projections, str)
    given = typing.cast("Sequence[Any]", projections if listed else [projections])
    found: list[ProjectionDefinition] = []
    for cls in given:
        definition = vars(cls).get("__definition__") if inspect.isclass(cls) else None
        if not isinstance(definition, ProjectionDefinition):
            raise DefinitionError(
                f"`projections` takes a list of classes of projections and sinks, as "
                f"Engine([Order], projections=[Orders]), and {cls!r:.100} is none. Aggregates and "
                f"process managers go into the first list"
            )
        if definition in found:
            raise DefinitionError(f"`projections` names {cls.__qualname__} twice: name it once")
        found.append(definition)
    if not listed:
        raise DefinitionError(
            f"`projections` takes a list of classes: write [{found[0].cls.__qualname__}]"
        )
    check_names(found)
    return found


def check_names(definitions: Sequence[ProjectionDefinition]) -> None:
    """Raise DefinitionError where two have one name, or two of their tables have one in SQL."""
    names: dict[str, ProjectionDefinition] = {}
    tables: dict[str, ProjectionDefinition] = {}
    for definition in definitions:
        other = names.setdefault(definition.name, definition)
        if other is not definition:
            raise DefinitionError(
                f"{definition.cls.__qualname__} and {other.cls.__qualname__} are both projection "
                f"{definition.name!r}: give one of them another name"
            )
        for table in definition.table_names:
            other = tables.setdefault(table.lower(), definition)
            if other is not definition:
                raise DefinitionError(
                    f"{definition.cls.__qualname__} and {other.cls.__qualname__} both have the SQL "
                    f"table {table}: rename one of the tables or projections"
                )
