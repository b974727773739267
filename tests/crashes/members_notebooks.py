"""What the processes of a trial write in: notebooks, and diaries, whose notes have personal data.

A reminder is a note with a timer. The timer writes a second one, if that comes directly behind the
first; else it writes nothing, often in one batch with the note that has come between.

Each note of a diary says whose it is, encrypted for this diary. Nobody is erased here, so what any
process reads of it has that name, and is neither masked nor damaged. The keys are in the server of
the log, behind the same wire, or in a file beside the log.
"""

from __future__ import annotations

import re
from typing import Final

from engine import (
    After,
    Aggregate,
    Command,
    Decision,
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

__all__ = [
    "REMINDER",
    "RUNG",
    "Count",
    "Diary",
    "Note",
    "Notebook",
    "Noted",
    "Remind",
    "keys_of",
    "looked",
]

REMINDER: Final = "!"
"""Behind the key of a reminder, as its note says it."""
RUNG: Final = "+"
"""Behind what a reminder says, as the note of its timer says it."""
_RINGS_SECONDS: Final = 0.005


class Noted(Event, name="noted"):
    what: str


class Signed(Event, name="signed"):
    what: str
    by: Personal[str]


class Note(Command):
    notebook: Id
    what: str


class Remind(Command):
    notebook: Id
    what: str


class Ring(Command):
    """Of a timer."""

    notebook: Id
    what: str


class Count(Command):
    """Is rejected, with how many notes there are."""

    notebook: Id


class Notebook(Aggregate, kind="notebook"):
    """Remembers keys for longer than commands of one notebook are on their way."""

    notes: int = 0
    last: str = ""

    @handles
    def note(self, command: Note) -> Noted:
        return Noted(command.what)

    @handles
    def remind(self, command: Remind) -> Decision[Noted]:
        return Decision(Noted(command.what), timers=[_ringing(self.id, command.what)])

    @handles
    def ring(self, command: Ring) -> Noted | None:
        return Noted(command.what + RUNG) if self.last == command.what else None

    @handles
    def count(self, command: Count) -> None:
        raise Rejected("counted", "so many are there", notes=self.notes)

    @applies
    def noted(self, event: Noted) -> None:
        self.notes += 1
        self.last = event.what


class Diary(Aggregate, kind="notebook"):
    """The same, with a person."""

    notes: int = 0
    last: str = ""
    signers: set[str] = set()

    @handles
    def note(self, command: Note) -> Signed:
        return Signed(command.what, _signer(self.id))

    @handles
    def remind(self, command: Remind) -> Decision[Signed]:
        signed = Signed(command.what, _signer(self.id))
        return Decision(signed, timers=[_ringing(self.id, command.what)])

    @handles
    def ring(self, command: Ring) -> Signed | None:
        if self.last != command.what:
            return None
        return Signed(command.what + RUNG, _signer(self.id))

    @handles
    def count(self, command: Count) -> None:
        raise Rejected("counted", "so many are there", notes=self.notes)

    @applies
    def signed(self, event: Signed) -> None:
        self.notes += 1
        self.last = event.what
        self.signers.add(event.by)


def _ringing(notebook: str, what: str) -> After:
    return After(Ring(notebook, what), "ring", seconds=_RINGS_SECONDS)


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
