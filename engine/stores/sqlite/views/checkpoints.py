"""Checkpoints of views in SQLite: how far each part has come, moved with what it writes.

Rules: a checkpoint moves only from where its writer believes that it stands, and only in a build
that is the writer's; so every event counts once, whoever else writes. Everything here runs inside
the caller's transaction.
"""

from __future__ import annotations

import apsw

from ....errors import StoreRefused
from ...contract.builds import moved_elsewhere
from ...contract.views import Changes, Checkpoint, Part
from ..connection import run
from .builds import read_builds
from .catalog import Catalog

__all__ = ["checkpoint_of", "move_checkpoint"]


def checkpoint_of(connection: apsw.Connection, part: Part, path: str) -> Checkpoint:
    """Give how far a part has come; raise StoreRefused for a build that was dropped."""
    sql = (
        "SELECT position, checksum FROM checkpoints "
        "WHERE projection = ? AND build = ? AND slice = ?"
    )
    rows = run(connection, sql, (part.definition.name, part.build, part.slice))
    if not rows:
        raise StoreRefused(
            f"build {part.build} of projection {part.definition.name!r} is not in the views "
            f"{path} any more: somebody dropped it"
        )
    return Checkpoint(*rows[0])


def move_checkpoint(connection: apsw.Connection, changes: Changes, keeper: Catalog) -> None:
    """Move a checkpoint over what was written; raise what prevents that."""
    part, before, after = changes.part, changes.before, changes.after
    definition = part.definition
    assert after.position >= before.position, "a checkpoint never goes back"
    run(
        connection,
        "UPDATE checkpoints SET position = ?, checksum = ? "
        "WHERE projection = ? AND build = ? AND slice = ? AND position = ? AND EXISTS ("
        "SELECT 1 FROM builds WHERE projection = ? AND number = ? AND version = ? "
        "AND definition = ? AND log_id = ? AND state <> 'former' AND builder IS ?)",
        (
            after.position,
            after.checksum,
            definition.name,
            part.build,
            part.slice,
            before.position,
            definition.name,
            part.build,
            definition.version,
            keeper.made_as(definition.name, part.build),
            keeper.log_id,
            keeper.builder,
        ),
    )
    if connection.changes() != 1:
        builds, swapped = read_builds(connection), keeper.swapping.get(definition.name)
        raise moved_elsewhere(part, before.position, builds, swapped)
