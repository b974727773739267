"""What the people of a seed were told, and which of their texts must be there, or nowhere.

Rules: moments are counted over all lives, as in `story`. A text is to be gone where its command was
acknowledged before an erasure of its person was asked for, and that erasure is told to be finished.
It is to be there where each erasure of its person was over before its command was sent. What was
written while one was under way may be either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from engine import Receipt
from engine.stores.contract.keys import SubjectKey
from engine.testing.simulation.disk import Disk

from .outside import Outside

__all__ = ["Asked", "Book", "Said"]


class Said(msgspec.Struct):
    """One command, and what its client knows of it."""

    command: Any
    key: str
    person: str
    """Of whom it is, as a subject; empty where it is nobody's."""
    token: str = ""
    begun: int = 0
    ended: int = 0
    """When it was acknowledged; 0 if it was not."""
    answer: object = None

    @property
    def is_open(self) -> bool:
        """Whether it is to be sent again."""
        return not isinstance(self.answer, Receipt)


class Asked(msgspec.Struct):
    """One erasure that somebody asked for."""

    person: str
    begun: int
    number: int | None = None
    """None where nobody was told that the key is destroyed."""
    over: int = 0
    """When it was told to be finished; 0 if nobody was told."""

    def __str__(self) -> str:
        return f"erasure {self.number} of {self.person}"


class Book:
    """All that was said and asked in a seed, over its lives."""

    def __init__(self, disk: Disk, outside: Outside) -> None:
        self.disk = disk
        self.outside = outside
        self.said: list[Said] = []
        self.asked: list[Asked] = []
        self.keys: dict[int, SubjectKey] = {}
        """All keys that were said to be kept, by number, with their secrets."""
        self.destroyed: dict[int, bytes] = {}
        """The secrets that no file may have."""
        self.gone: dict[str, str] = {}
        """By token that must be nowhere, because of which erasure."""
        self.problems: list[str] = []
        self.now = 0
        self.looks = 0

    def tick(self) -> int:
        """Give the next moment."""
        self.now += 1
        return self.now

    def problem(self, text: str) -> None:
        """Note what is wrong, once."""
        if text not in self.problems:
            self.problems.append(text)

    # -- erasures -----------------------------------------------------------------------------

    def keys_of(self, subject: str) -> list[int]:
        """Give the numbers of all keys that a subject has had so far."""
        return [number for number, key in self.keys.items() if key.subject == subject]

    def are_destroyed(self, numbers: Iterable[int]) -> None:
        """Take that keys were destroyed: from now on no file has them."""
        for number in numbers:
            self.destroyed[number] = self.keys[number].secret or b""
        self.look("a destruction", with_tokens=False)

    def is_over(self, asked: Asked) -> None:
        """Take that an erasure was told to be finished: from now on its texts are nowhere."""
        asked.over = self.tick()
        for said in self.said:
            if said.token and said.person == asked.person and 0 < said.ended < asked.begun:
                self.gone.setdefault(said.token, str(asked))
        self.look(str(asked))

    def must_be_there(self, said: Said) -> bool:
        """Tell whether nobody can have erased a text."""
        own = [asked for asked in self.asked if asked.person == said.person]
        return bool(said.ended) and all(0 < asked.over < said.begun for asked in own)

    # -- where a text may be ------------------------------------------------------------------

    def look(self, moment: str, *, with_tokens: bool = True) -> None:
        """Look whether what must be nowhere is in a file, or would be after a loss of power."""
        self.looks += 1
        wanted = {secret: f"key {number}" for number, secret in self.destroyed.items()}
        if with_tokens:
            # Its beginning may be apart from it, as an index of words keeps it.
            wanted |= {token[3:].encode(): f"{token} ({why})" for token, why in self.gone.items()}
            self._look_outside(moment)
        for where, content in self._contents():
            for text, what in wanted.items():
                if text in content:
                    self.problem(f"{what} is in {where} behind {moment}")

    def _look_outside(self, moment: str) -> None:
        for person, texts in self.outside.erasable.items():
            for position, text in texts.items():
                if (why := self.gone.get(text[:16])) is not None:
                    self.problem(
                        f"{text} ({why}) is with the post as {position} of {person} behind {moment}"
                    )

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        disk = self.disk
        for path in sorted(disk.folder.iterdir()):
            # SQLite copies from its heap into these as it recovers a log, and all lives have one.
            if not path.name.endswith("-shm"):
                yield path.name, path.read_bytes()
        for name, content in sorted(disk.durable.items()):
            yield f"{name} as it is after a loss of power", bytes(content)
        for name, content in sorted(disk.removals.items()):
            yield f"{name}, which a loss of power brings back", bytes(content)
        for name, writes in sorted(disk.pending.items()):
            for _, data in writes:
                yield f"a write of {name} that was not synced", data or b""

    # -- what readers see ---------------------------------------------------------------------

    def see(self, what: str, text: str) -> None:
        """Take what a reader was shown: it has nobody whose erasure was over before he asked."""
        for token, why in self.gone.items():
            if token in text:
                self.problem(f"{token} ({why}) is shown by {what}")

    def check_audit(self, kept: Mapping[int, tuple[str, bool]]) -> None:
        """Compare the audit with what was told: by number, whose erasure, and whether finished."""
        for asked in self.asked:
            if asked.number is None:
                continue
            if asked.number not in kept:
                self.problem(f"{asked} was told, and is not in the audit")
            elif kept[asked.number][0] != asked.person:
                self.problem(f"{asked} is of {kept[asked.number][0]} in the audit")
            elif asked.over and not kept[asked.number][1]:
                self.problem(f"{asked} was told to be finished, and is not in the audit")
