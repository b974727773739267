"""What the processes of a trial write in: notebooks, and diaries, whose notes have personal data.

Each note of a diary says whose it is, encrypted for this diary. Nobody is erased here, so what any
process reads of it has that name, and is neither masked nor damaged. The keys are in the server of
the log, behind the same wire, or in a file beside the log.
"""

from __future__ import annotations

import re

from engine import (
    Aggregate,
    Command,
    Engine,
    EngineError,
    Event,
    Id,
    Personal,
    Rejected,
    StoreFailed,
    applies,
    handles,
)

__all__ = ["Count", "Diary", "Note", "Notebook", "Noted", "keys_of", "looked"]


class Noted(Event, name="noted"):
    what: str


class Signed(Event, name="signed"):
    what: str
    by: Personal[str]


class Note(Command):
    notebook: Id
    what: str


class Count(Command):
    """Is rejected, with how many notes there are."""

    notebook: Id


class Notebook(Aggregate, kind="notebook"):
    """Remembers keys for longer than commands of one notebook are on their way."""

    notes: int = 0

    @handles
    def note(self, command: Note) -> Noted:
        return Noted(command.what)

    @handles
    def count(self, command: Count) -> None:
        raise Rejected("counted", "so many are there", notes=self.notes)

    @applies
    def noted(self, event: Noted) -> None:
        self.notes += 1


class Diary(Aggregate, kind="notebook"):
    """The same, with a person."""

    notes: int = 0
    signers: set[str] = set()

    @handles
    def note(self, command: Note) -> Signed:
        return Signed(command.what, _signer(self.id))

    @handles
    def count(self, command: Count) -> None:
        raise Rejected("counted", "so many are there", notes=self.notes)

    @applies
    def signed(self, event: Signed) -> None:
        self.notes += 1
        self.signers.add(event.by)


def _signer(diary: str) -> str:
    return f"who keeps {diary}"


def keys_of(store: str) -> str | None:
    """Give where the keys of a log are; None for beside its file."""
    url, _, options = store.partition("?")
    schema = re.search(r"schema=(\w+)", options)
    return None if schema is None else f"{url}?schema={schema[1]}_keys"


async def looked(engine: Engine, diary: str) -> str:
    """Read a diary in this process; give "read" where it is right, else what is to be said."""
    try:
        state = await engine.state(Diary, diary)
    except StoreFailed:
        return "read"  # a server is away, and who asked is told so
    except EngineError as error:
        return type(error).__name__
    return "read" if state.signers <= {_signer(diary)} else "misread"
