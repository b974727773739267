"""The diaries of a trial: each note says who wrote it, encrypted for the one who keeps the diary.

That one is erased now and then, and goes on writing. What a process reads of a note is its writer
or the mask of one who was erased, in the state of the diary and in the rows of its notes. The keys
are in the server of the log, behind the same wire, or in a file beside the log.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from engine import (
    Aggregate,
    Claim,
    Decision,
    Engine,
    Event,
    Meta,
    Personal,
    Projection,
    Query,
    Rejected,
    Row,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
)

from .members_notebooks import RUNG, Count, Entitle, Note, Remind, Ring, ringing

__all__ = ["PLACES", "Diary", "Signers", "get_signers", "keys_of", "read", "shown_of"]

_ERASED: Final = "(erased)"
Signatures: TypeAlias = Sequence[tuple[int, str, str]]
"""Version, text and writer of each note of a diary, in order."""
PLACES: Final = ("state", "rows")
"""Where a process reads a diary."""


class Signed(Event, name="signed"):
    what: str
    by: Personal[str]


class Diary(Aggregate, kind="notebook"):
    """A notebook, with a person."""

    notes: int = 0
    last: str = ""
    signed: list[tuple[str, str]] = []

    @handles
    def note(self, command: Note) -> Signed:
        return _signed(command.what)

    @handles
    def entitle(self, command: Entitle) -> Decision[Signed]:
        return Decision(_signed(command.what), claims=[Claim("title", command.title)])

    @handles
    def remind(self, command: Remind) -> Decision[Signed]:
        return Decision(_signed(command.what), timers=[ringing(self.id, command.what)])

    @handles
    def ring(self, command: Ring) -> Signed | None:
        return _signed(command.what + RUNG) if self.last == command.what else None

    @handles
    def count(self, command: Count) -> None:
        raise Rejected("counted", "so many are there", notes=self.notes)

    @applies
    def signed_by(self, event: Signed) -> None:
        self.notes += 1
        self.last = event.what
        self.signed.append((event.what, event.by))


def _signed(what: str) -> Signed:
    return Signed(what, _writer_of(what))


def _writer_of(what: str) -> str:
    return f"who wrote {what}"


class Signer(Row, key="place", index=["diary"]):
    place: str
    diary: str
    version: int
    what: str
    by: str


class Signers(Projection, name="signers", version=1):
    rows: Table[Signer]

    @projects
    def signed(self, event: Signed, meta: Meta) -> None:
        place = f"{meta.id}/{meta.version}"
        self.rows.put(Signer(place, meta.id, meta.version, event.what, event.by))


class GetSigners(Query[list[Signer]]):
    diary: str


@answers
async def get_signers(query: GetSigners, views: Views) -> list[Signer]:
    return await views.find(Signers.rows, where={"diary": query.diary}, order_by="version")


def keys_of(store: str) -> str | None:
    """Give where the keys of a log are; None for beside its file."""
    url, _, options = store.partition("?")
    schema = re.search(r"schema=(\w+)", options)
    return None if schema is None else f"{url}?schema={schema[1]}_keys"


async def read(engine: Engine, diary: str, place: str) -> Signatures:
    """Read who wrote in a diary, as this process sees it in one of the places."""
    if place == "rows":
        rows = await engine.query(GetSigners(diary))
        return [(row.version, row.what, row.by) for row in rows]
    state = await engine.state(Diary, diary)
    return [(version, *signed) for version, signed in enumerate(state.signed, 1)]


def shown_of(signatures: Signatures) -> tuple[int, int, bool]:
    """Give the first version whose writer is shown, and the last one that is masked; 0 for none.

    And whether each is the right writer, or masked.
    """
    shown = [version for version, _, by in signatures if by != _ERASED]
    masked = [version for version, _, by in signatures if by == _ERASED]
    is_right = all(by in (_writer_of(what), _ERASED) for _, what, by in signatures)
    return min(shown, default=0), max(masked, default=0), is_right
