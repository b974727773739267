"""What a process of a log runs: the name of its release, and the projections that it keeps.

Rules: a member serves of a projection only what its owner keeps as it is declared here, of the same
version and with the same tables. All others are named, and never served from tables that nobody
keeps any more. What an owner of a release does not say of itself, is believed to be as it is here.
Where members run the projections, they say for themselves what they keep.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from hashlib import blake2b

import msgspec

from ..errors import DefinitionError, ProjectionUnserved
from ..model.codec import EventRegistry
from ..model.given import shown
from ..model.projection import Projection
from ..stores.contract.builds import definition_hash
from .readable import reads_of
from .wire import Welcome

__all__ = ["Release", "not_kept", "release_of"]

_CHARACTERS_MAX = 64


class Release(msgspec.Struct, frozen=True):
    """What one process runs."""

    name: str
    keeps: Mapping[str, tuple[int, str]]
    """Version and hash of the tables of each projection that it declares."""
    reads: Mapping[str, Sequence[int]]
    """The versions of each event that it reads."""


def release_of(
    name: object, registry: EventRegistry, projections: Sequence[type[Projection]]
) -> Release:
    """Give the release of what is declared; without a name it gets one that equal ones share.

    Raises DefinitionError for a name that is none.
    """
    keeps = {
        d.name: (d.version, definition_hash(d)) for p in projections for d in [p.__definition__]
    }
    reads = reads_of(registry)
    if name is None:
        events = sorted((kind.name, kind.version, kind.schema_hash) for kind in registry.types)
        declared = msgspec.json.encode([events, sorted(keeps.items())])
        return Release(blake2b(declared, digest_size=4).hexdigest(), keeps, reads)
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _CHARACTERS_MAX:
        raise DefinitionError(
            f"release= is a text of 1 to {_CHARACTERS_MAX} printable characters, and not "
            f"{shown(name)}"
        )
    return Release(name, keeps, reads)


def not_kept(
    own: Release, owner: Welcome | None, but: Container[str] = ()
) -> Mapping[str, ProjectionUnserved]:
    """Give what is answered for each projection that the owner does not keep as it is here.

    Those named `but` are kept by members, who say it themselves.
    """
    if owner is None or owner.keeps is None:
        return {}
    return {
        name: ProjectionUnserved(name, owner.release, owner.keeps.get(name, (None,))[0])
        for name, declared in own.keeps.items()
        if name not in but and owner.keeps.get(name) != declared
    }
