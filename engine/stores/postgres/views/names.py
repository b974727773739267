"""What the views are called in PostgreSQL, which cuts names at 63 bytes without a word.

Rules: the tables of a build have short names of their own, which tell builds and definitions apart;
a SQL view of the plain name shows the build that serves. A plain name that would be cut, or that
the server has for itself, is refused before anything is made. This file is pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

from ....errors import DefinitionError
from ....model.projection import ProjectionDefinition

__all__ = ["NAME_BYTES_MAX", "check_names", "literal", "name_of_further", "quoted", "real_name"]

NAME_BYTES_MAX: Final = 63
_STEM: Final = 30
_SYSTEM: Final = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_FOREIGN: Final = re.compile(r"[^a-z0-9_]")


def quoted(name: str) -> str:
    """Give a name as SQL has it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Give a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def real_name(table: str, number: int, definition: str) -> str:
    """Give what a build calls a table: no other build of other columns has that name."""
    mark = blake2b(f"{table}\0{definition}".encode(), digest_size=4).hexdigest()
    return f"{_FOREIGN.sub('', table.lower())[:_STEM]}_{mark}_b{number}"


def name_of_further(real: str, word: str) -> str:
    """Give what an index or a trigger of a build's table is called."""
    name = f"{real}_{word}"
    if len(name.encode()) <= NAME_BYTES_MAX:
        return name
    return f"{real}_{blake2b(word.encode(), digest_size=4).hexdigest()}"


def check_names(definition: ProjectionDefinition) -> None:
    """Raise DefinitionError for a table or a field whose name would be cut, or is the server's."""
    for what, name in _names(definition):
        if name in _SYSTEM:
            raise DefinitionError(
                f"{definition.cls.__qualname__} has the {what} {name}, a column of PostgreSQL"
                f"'s own in each table: give it another name"
            )
        if len(name.encode()) > NAME_BYTES_MAX:
            raise DefinitionError(
                f"{definition.cls.__qualname__} has the {what} {name}, of {len(name.encode())} "
                f"bytes: PostgreSQL cuts names at {NAME_BYTES_MAX}. Give it a shorter one"
            )


def _names(definition: ProjectionDefinition) -> Iterator[tuple[str, str]]:
    for name in definition.table_names:
        yield "table", name
    for table in definition.tables.values():
        for column in table.shape.columns:
            yield f"field of {table.name}", column.name
