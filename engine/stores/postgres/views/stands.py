"""Where the views of an engine stand, as far as it knows, and whether the server still has it.

Rules: commits of views are not synced, so a server that was killed may have lost the last of them,
beside an engine that goes on. It has lost all connections as well: so each new one looks first.
Behind a pooler, whose connections outlive the server's, each answer looks. Whoever keeps the views
is told before anything is read there. This file reads checkpoints and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from ...contract.views import Part
from .link import Link
from .names import quoted

__all__ = ["Key", "Stands"]

Key: TypeAlias = tuple[str, int, int]
"""Projection, build and slice."""

_ALL: Final = "SELECT projection, build, slice, position FROM {s}.checkpoints"


class Stands:
    """The checkpoints that were committed, or read."""

    def __init__(self, schema: str, fallen: Callable[[str], None]) -> None:
        """Take where they are, and what is told of each projection that stands earlier."""
        self._query = _ALL.replace("{s}", quoted(schema))
        self._known: dict[Key, int] = {}
        self._fallen = fallen
        self._told: set[str] = set()
        """Projections that were told of, and have not been looked at since."""

    def note(self, part: Part, position: int) -> None:
        """Note where a part stands."""
        self._told.discard(part.definition.name)
        self._known[part.definition.name, part.build, part.slice] = position

    def had(self, part: Part, position: int) -> bool:
        """Tell whether a part stood at a position, by what is known."""
        return self._known.get((part.definition.name, part.build, part.slice)) == position

    def forget(self, projection: str, build: int | None = None) -> None:
        """Know nothing more of a build, or of all of a projection."""
        for key in list(self._known):
            if key[0] == projection and build in (None, key[1]):
                del self._known[key]

    def now(self) -> Mapping[Key, int]:
        """Give what is known at this moment: whatever is read from now on has no less."""
        return dict(self._known)

    async def compare(self, link: Link, known: Mapping[Key, int]) -> None:
        """Tell of each projection that stands earlier than was known before."""
        if not known:
            return
        there = {(name, build, n): at for name, build, n, at in await link.run(self._query)}
        for name in {key[0] for key, at in known.items() if there.get(key, at) < at} - self._told:
            self._told.add(name)
            self._fallen(name)
