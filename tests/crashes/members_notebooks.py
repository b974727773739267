"""What the processes of a trial write in.

A reminder is a note with a timer. The timer writes a second one, if that comes directly behind the
first; else it writes nothing. There are few titles, so that most notes that claim one are refused.
"""

from __future__ import annotations

from typing import Final

from engine import (
    After,
    Aggregate,
    Claim,
    Command,
    Decision,
    Event,
    Id,
    Rejected,
    applies,
    handles,
)

__all__ = [
    "REMINDER",
    "RUNG",
    "TAKEN",
    "Count",
    "Entitle",
    "Note",
    "Notebook",
    "Noted",
    "Remind",
    "Ring",
    "ringing",
]

REMINDER: Final = "!"
"""Behind the key of a reminder, as its note says it."""
RUNG: Final = "+"
"""Behind what a reminder says, as the note of its timer says it."""
TAKEN: Final = "title-taken"
"""How a note is answered whose title another notebook has."""
_RINGS_SECONDS: Final = 0.005


class Noted(Event, name="noted"):
    what: str


class Note(Command):
    notebook: Id
    what: str


class Entitle(Command):
    """A note that claims a title."""

    notebook: Id
    what: str
    title: str


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
    def entitle(self, command: Entitle) -> Decision[Noted]:
        return Decision(Noted(command.what), claims=[Claim("title", command.title)])

    @handles
    def remind(self, command: Remind) -> Decision[Noted]:
        return Decision(Noted(command.what), timers=[ringing(self.id, command.what)])

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


def ringing(notebook: str, what: str) -> After:
    """Give the timer of a reminder."""
    return After(Ring(notebook, what), "ring", seconds=_RINGS_SECONDS)
