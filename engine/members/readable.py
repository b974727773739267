"""Which events each process of a log reads, and what is not stored as it is because of that.

Rules: a version of an event is stored when every living process has said that it reads it. Until
then it is stored as its downcasters give it. An event without one is refused if somebody is known
not to read it, and stored if nobody is. A process that was connected lives for the patience longer:
its line may have broken, and it reads the log all the same. A name that a process does not know at
all is none of this: that process tells of it when it reads it. A field that was added to a version
is left out as long as somebody does not know it, if its value is the default; else that is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, TypeAlias

import msgspec

from ..errors import EventUnread
from ..model.codec import EventRegistry, Held, Without
from ..model.messages import Event
from .forwarding import PATIENCE_SECONDS

__all__ = ["Reader", "Readers", "Versions", "digest_of", "held_back", "reads_of"]

Versions: TypeAlias = Mapping[str, Sequence[int]]
"""Of each event by its stored name."""
_ANY: Final = 0
"""In place of a version, where all are passed over."""


class Reader(msgspec.Struct, frozen=True):
    """A living process of the log."""

    who: str
    reads: Versions | None
    """None where it has not said so yet, or its Foldline is too old to."""


def reads_of(registry: EventRegistry) -> Versions:
    """Give what a process reads: what it declares, and what it passes over."""
    found: dict[str, list[int]] = {}
    for kind in registry.types:
        found.setdefault(kind.name, []).append(kind.version)
    for retired in registry.upcasting.retired:
        found.setdefault(retired.name, []).extend(retired.versions or (_ANY,))
    for cls, fields in registry.added.items():
        found[_added_to(cls)] = [len(fields)]
    return {name: sorted(versions) for name, versions in sorted(found.items())}


def _added_to(cls: type[Event]) -> str:
    """Give where a process says how many added fields of a version it knows: no name of an event.

    Each release adds its own behind those of the ones before.
    """
    return f"{cls.event_name} {cls.event_version}"


def digest_of(reads: Versions) -> str:
    """Give a short text that processes share that read the same."""
    return blake2b(msgspec.json.encode(reads), digest_size=8).hexdigest()


def held_back(
    registry: EventRegistry, readers: Sequence[Reader], *, others_may_live: bool = False
) -> Held:
    """Give what is not stored as it is, where these processes read the log."""
    heard = [one for one in readers if one.reads is not None]
    is_unsure = others_may_live or len(heard) < len(readers)
    held: dict[type[Event], type[Event] | Without | EventUnread] = {}
    for cls, fields in registry.added.items():
        if (without := _held_without(cls, fields, heard, is_unsure=is_unsure)) is not None:
            held[cls] = without
    for cls in registry.classes:
        forms = [step.target for step in registry.upcasting.down_chain(cls)]
        lacking = [one.who for one in heard if not _can_read(one, cls, bool(forms))]
        if not lacking and not (is_unsure and forms):
            continue
        fitting = [form for form in forms if all(_can_read(one, form, True) for one in heard)]
        if fitting:
            held[cls] = fitting[-1] if is_unsure else fitting[0]
        elif lacking:
            held[cls] = EventUnread(cls.event_name, cls.event_version, lacking)
    return held


def _held_without(
    cls: type[Event], fields: Sequence[str], heard: Sequence[Reader], *, is_unsure: bool
) -> Without | None:
    """Give which added fields somebody does not know, or may not know."""
    known = {one.who: _known_of(one, cls, len(fields)) for one in heard}
    lacking = [who for who, count in known.items() if count < len(fields)]
    if not lacking and not is_unsure:
        return None
    choices = [frozenset(fields)] if is_unsure else []
    if lacking:
        choices.append(frozenset(fields[min(known.values()) :]))
    unread = EventUnread(cls.event_name, cls.event_version, lacking) if lacking else None
    return Without(choices, unread)


def _known_of(reader: Reader, cls: type[Event], most: int) -> int:
    assert reader.reads is not None
    if cls.event_version not in reader.reads.get(cls.event_name, ()):
        return most  # it passes over the event, or is told of by its version
    return max(reader.reads.get(_added_to(cls), ()), default=0)


def _can_read(reader: Reader, cls: type[Event], has_former: bool) -> bool:
    assert reader.reads is not None
    versions = reader.reads.get(cls.event_name)
    if versions is None:
        return not has_former
    return _ANY in versions or cls.event_version in versions


class Readers:
    """Those who are connected with one owner, or were a moment ago; holds back what they lack."""

    def __init__(self, registry: EventRegistry) -> None:
        """Begin as an owner: who was connected with the one before may not have come yet."""
        self._registry = registry
        self._living: dict[object, Reader] = {}
        """By whatever stands for each."""
        self._timers: list[asyncio.TimerHandle] = []
        self._others_may_live = bool(registry.upcasting.downs or registry.added)
        if self._others_may_live:
            self._later(self._settle)
        self._tell()

    def joins(self, key: object, reader: Reader) -> None:
        """Note who has come, or what one says of itself."""
        self._living[key] = reader
        self._tell()

    def goes(self, key: object) -> None:
        """Note that a line is lost, whose process may live."""
        before = self._registry.held
        gone = self._living.pop(key, None)
        self._tell()
        if gone is not None and self._registry.held != before:
            key = object()
            self.joins(key, gone)
            self._later(lambda: self._forget(key))

    def close(self) -> None:
        """Wait for nobody any more."""
        for timer in self._timers:
            timer.cancel()

    def _later(self, call: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._timers = [timer for timer in self._timers if timer.when() > loop.time()]
        self._timers.append(loop.call_later(PATIENCE_SECONDS, call))

    def _settle(self) -> None:
        """Believe that everybody who lives has come."""
        self._others_may_live = False
        self._tell()

    def _forget(self, key: object) -> None:
        self._living.pop(key, None)
        self._tell()

    def _tell(self) -> None:
        living, others = [*self._living.values()], self._others_may_live
        self._registry.held = held_back(self._registry, living, others_may_live=others)
