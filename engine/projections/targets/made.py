"""Which commands of a reactor were made already: what the log, and this life, know of them.

Rules: the log is the record. A command that a reaction gave stands in it behind the event that it
is because of, with a key that names both, in metadata that only the engine writes; so whoever reads
the log behind a checkpoint finds every command that a former life has made, whatever an aggregate
still remembers of its keys. A command that wrote nothing, as a rejected one, leaves no trace, and
is decided again. In memory stands what is not behind the checkpoint, and nothing else for long.
This file sends and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from ...limits import Limits
from ...model.codec import decode_metadata
from ...model.stored import StoredEvent
from ...stores.contract.log import LogSource

__all__ = ["Made", "key_of", "reaction_of"]

REFUSED = "refused"
"""Behind the place of a command: what followed its rejection."""
_MADE: Final = b'{"key":"reaction:'
"""What the metadata begins with of an event whose command a reactor gave."""


def key_of(reactor: str, position: int, place: int, *, refused: bool = False) -> str:
    """Give the key of a command: the same each time that its reaction runs."""
    key = f"reaction:{reactor}:{position}:{place}"
    return f"{key}:{REFUSED}" if refused else key


class Reaction(NamedTuple):
    """Which command of a reactor led to an event."""

    reactor: str
    position: int
    """Of the event that it is because of."""
    place: int


def reaction_of(stored: StoredEvent) -> Reaction | None:
    """Give which command of a reactor led to an event; None if none did.

    Raises Damaged.
    """
    if not stored.metadata.startswith(_MADE):
        return None
    metadata = decode_metadata(stored)
    if not metadata.depth or metadata.key is None:
        return None  # somebody else's command, with a key that looks like one of these
    _, reactor, position, place, *_ = metadata.key.split(":")
    return Reaction(reactor, int(position), int(place))


class Made:
    """The commands of one reactor that need not be made again."""

    def __init__(self, reactor: str, log: LogSource, limits: Limits) -> None:
        self._log = log
        self._limits = limits
        self._begin = f'{{"key":"reaction:{reactor}:'.encode()
        """Of the metadata of an event whose command this reactor gave."""
        self._finished: set[int] = set()
        """Events of which all is done in this life, and that the checkpoint may not contain."""
        self._through: dict[int, int] = {}
        """How many commands of an event are done in this life, of one that failed at the next."""
        self._places: dict[int, set[int]] = {}
        """Places of the commands that a former life has made, by event."""

    async def begin(self, checkpoint: int) -> None:
        """Learn what was made behind a checkpoint, and believe nothing else.

        A server that took over from another one may lack the last events, and so what was told of.
        """
        self._finished.clear()
        for known in (self._through, self._places):
            for position in [position for position in known if position > checkpoint]:
                del known[position]
        await self.look(checkpoint, lambda position: position > checkpoint)

    async def look(self, after: int, wanted: Callable[[int], bool]) -> None:
        """Read the log behind a position for what was made because of wanted events."""
        events_max, bytes_max = self._limits.page_events, self._limits.page_bytes
        while True:
            page = await self._log.read_feed(after, events_max=events_max, bytes_max=bytes_max)
            if not page:
                return
            for stored in page:
                if stored.metadata.startswith(self._begin):
                    self._note(stored, wanted)
            after = page[-1].position

    def _note(self, stored: StoredEvent, wanted: Callable[[int], bool]) -> None:
        found = reaction_of(stored)
        if found is not None and wanted(found.position):
            # What followed a rejection tells of it: the command itself is not decided again.
            self._places.setdefault(found.position, set()).add(found.place)

    @property
    def held(self) -> int:
        """How many events that are done the checkpoint does not contain yet."""
        return len(self._finished)

    def is_finished(self, position: int) -> bool:
        """Tell whether all is done because of an event."""
        return position in self._finished

    def next_place(self, position: int, place: int) -> int:
        """Give the first place, from this one on, whose command is to be made."""
        place = max(place, self._through.get(position, 0))
        made = self._places.get(position, ())
        while place in made:
            place += 1
        return place

    def finish(self, position: int) -> None:
        """Note that all is done because of an event."""
        self._finished.add(position)
        self._through.pop(position, None)
        self._places.pop(position, None)

    def stopped(self, position: int, place: int) -> None:
        """Note that all is done because of an event but from this place on."""
        self._through[position] = place

    def forget(self, checkpoint: int) -> None:
        """Let go of events that the checkpoint contains; those that failed may be retried."""
        self._finished = {position for position in self._finished if position > checkpoint}
