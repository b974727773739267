"""The builds of a projection as they were found: which serves, and whether it is what is declared.

Rules: pure. Every store keeps the same of a build, and asks here what that means.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from ...errors import EngineError, StoreFailed, StoreRefused, UsageError
from ...model.projection import ProjectionDefinition
from ...model.rows import RowShape
from ...model.shape import CLASSES_MAX, schema_hash
from .outside import Found
from .views import Part

__all__ = [
    "definition_hash",
    "moved_elsewhere",
    "numbered",
    "served_position",
    "serving",
    "sinks_of",
]


def definition_hash(definition: ProjectionDefinition) -> str:
    """Give what changes when the tables of a projection change: 16 hexadecimal digits.

    Behind a dot as many for what the same bytes mean, where that is not told by their form alone:
    which names an enum gives to numbers, and what an absent field of a struct says.
    """
    shapes: list[Any] = []
    meant: list[Any] = []
    for name in sorted(definition.tables):
        shape = definition.tables[name].shape
        columns = [(c.name, c.sql, c.nullable) for c in shape.columns]
        nested, meaning = _fields_hashes(shape)
        meant += [[name, meaning]] if meaning != nested else []
        searched: list[Any] = [shape.search] if shape.search else []  # absent as in old releases
        searched += ["trigrams"] * shape.trigrams
        shapes.append([name, shape.key, shape.indexes, columns, nested, *searched])
    made = definition.sql_tables
    shapes += [[name, made[name].statements] for name in sorted(made)]
    hashes = [_hash(shapes), _hash(meant)] if meant else [_hash(shapes)]
    return ".".join(hashes)


def _hash(described: Any) -> str:
    return blake2b(msgspec.json.encode(described), digest_size=8).hexdigest()


@lru_cache(maxsize=CLASSES_MAX)
def _fields_hashes(shape: RowShape) -> tuple[str, str]:
    # As a struct of resolved types, so that what is inside nested fields is covered too.
    fields = [(column.name, column.annotation) for column in shape.columns]
    struct = msgspec.defstruct(shape.row.__name__, fields)
    return schema_hash(struct), schema_hash(struct, meaning=True)


def serving(builds: Sequence[Found]) -> Found | None:
    """Give the build that serves."""
    return next((build for build in builds if build.state == "serving"), None)


def sinks_of(builds: Sequence[Found]) -> tuple[Sequence[Found], Sequence[str]]:
    """Give the builds of sinks that deliver, and the names of all projections that have tables."""
    sinks = [build for build in builds if not build.tables and build.state == "serving"]
    return sinks, sorted({build.projection for build in builds if build.tables})


def numbered(builds: Sequence[Found], number: int, projection: str) -> Found:
    """Give the build with a number; raise UsageError where there is none."""
    for build in builds:
        if build.number == number:
            return build
    there = [build.number for build in builds]
    raise UsageError(f"projection {projection!r} has no build {number}: there are {there}")


def moved_elsewhere(
    part: Part, position: int, builds: Sequence[Found], swapped: int | None
) -> EngineError:
    """Say why a part's checkpoint could not be moved from where its writer left it.

    `swapped` is a build that this store was to swap in, where it does not know whether it has. If
    that one serves, nobody else is to blame: the swap is tried again, and found done.
    """
    name = part.definition.name
    now = serving([build for build in builds if build.projection == name])
    if now is not None and now.number == swapped != part.build:
        return StoreFailed(
            f"build {part.build} of projection {name!r} serves no more: another build was swapped "
            f"in. Nothing was written; this worker rests until that swap is known here",
            written=False,
            passes=True,
        )
    return StoreRefused(
        f"the views of projection {name!r} are not at position {position} any more, where this "
        f"worker left them: another worker writes them. Nothing was written; stop one of the two."
    )


def served_position(
    projection: str, declared: tuple[int, str], builds: Sequence[Found], views: str
) -> int:
    """Give how far the tables are that serve a projection, if they are what is declared.

    `declared` is its version and the hash of its tables. Raises StoreRefused for other tables.
    """
    now = serving([build for build in builds if build.projection == projection])
    if now is None:
        raise StoreRefused(
            f"{views} has no views of projection {projection!r}: start an engine that has it on "
            f"this store, or leave it out here"
        )
    version, hash_here = declared
    if now.version != version:
        begun = any(
            b.projection == projection and b.version == version and b.state == "building"
            for b in builds
        )
        raise StoreRefused(
            f"the views of projection {projection!r} in {views} are of version {now.version}, "
            f"and version {version} is declared here: "
            + (
                "ask again when it serves, it is being built"
                if begun
                else "run the release of this program that the engine has, or start an engine "
                "of this one, which builds them anew"
            )
        )
    if not now.has(hash_here):
        raise StoreRefused(
            f"the tables of projection {projection!r} are declared otherwise here than by the "
            f"engine that wrote version {version} of them to {views}: use its class, or declare "
            f"`version={version + 1}` and start an engine, which builds them anew"
        )
    return now.position
