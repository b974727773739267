"""What is recorded of a decision, and where recordings are kept.

Rules: a record has all that a handler was given beside states (its command, the clock, the ids that
it drew) and says on which versions it decided. Of what the handler gave it has names and digests:
the events themselves are in the log. Two values have one digest if their JSON is the same. This
file knows no actor, log or file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from os import PathLike
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec

from ..errors import DefinitionError, Rejected
from ..model.decisions import Decision, Given
from ..model.given import shown
from ..model.messages import Event

__all__ = [
    "UNKNOWN",
    "Decided",
    "Gave",
    "Outcome",
    "Recording",
    "Said",
    "Told",
    "digest",
    "gave",
    "raised",
    "recording_of",
]

Outcome: TypeAlias = Literal["events", "nothing", "rejected", "failed"]
UNKNOWN: Final = "unknown"
"""Stands for the digest of what cannot be encoded."""
CANCELLED: Final = "CancelledError"
"""Code of an async handler that was ended, or that nobody waited for any more."""
_DIGEST_BYTES: Final = 8
_HOURS_MAX: Final = 24 * 36_500
_BYTES_MIN: Final = 1 << 16


class Recording(msgspec.Struct, frozen=True):
    """Where the commands of an engine are recorded: `Engine(..., record=Recording("recorded"))`.

    Files hold commands as they came, in plain text. Raises DefinitionError for what is unfit.
    """

    folder: str | PathLike[str]
    """Where the files are made, for their owner alone. The folder above it must exist."""
    keep_hours: float = 168.0
    """How old a file gets before the recording engine removes it; a week unless given."""
    file_bytes: int = 64 << 20
    """How large a file gets before the next one is begun."""
    personal: bool = False
    """Whether commands are recorded although events have personal fields. An erased person then
    stays in the files until these are removed by their age."""

    def __post_init__(self) -> None:
        """Check it."""
        given: Any = self.folder
        if not isinstance(given, str | PathLike) or not str(cast("object", given)):
            raise DefinitionError(
                f"Recording takes the path of a folder, not {shown(cast('object', given))}"
            )
        hours: Any = self.keep_hours
        if not isinstance(hours, int | float) or not 0 < hours <= _HOURS_MAX:
            raise DefinitionError(
                f"keep_hours of a Recording is a number of hours above 0 and at most "
                f"{_HOURS_MAX:,}, not {shown(hours)}"
            )
        size: object = self.file_bytes
        if type(size) is not int or size < _BYTES_MIN:
            raise DefinitionError(
                f"file_bytes of a Recording is a number of bytes from {_BYTES_MIN:,} on, not "
                f"{shown(size)}"
            )


def recording_of(given: Recording | str | PathLike[str] | None) -> Recording | None:
    """Give what `record=` says; raise DefinitionError for what is neither."""
    if given is None or isinstance(given, Recording):
        return given
    return Recording(given)


class Told(msgspec.Struct, frozen=True, array_like=True):
    """An event that a handler gave."""

    place: int
    """Of the aggregate that gets it, among those that were decided on; -1 where the engine says."""
    name: str
    """The event's stored name."""
    version: int
    """Of its class, as it is stored."""
    digest: str
    """Of its JSON."""


class Gave(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a handler gave."""

    outcome: Outcome
    """Events, nothing, a rejection, or any other exception."""
    events: tuple[Told, ...] = ()
    """In order."""
    code: str = ""
    """Of the rejection; of another exception the name of its class."""
    beside: str = ""
    """Digest of reply, claims, timers and commands, where there are any."""


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """What travelled with a command."""

    key: str | None = None
    """As in Context, and so are the others."""
    correlation: str | None = None
    causation: str | None = None
    principal: str | None = None
    headers: Mapping[str, str] | None = None


class Decided(msgspec.Struct, frozen=True, omit_defaults=True):
    """One decision: a line of a recording."""

    now: int
    """What the clock said, in µs since 1970-01-01 UTC."""
    command: str
    """The stored name of the command."""
    payload: msgspec.Raw
    """The command as JSON."""
    streams: tuple[tuple[str, int], ...]
    """Stream and version of each state that was decided on, in the order of the handler's."""
    gave: Gave
    """What came of it."""
    ids: tuple[str, ...] = ()
    """New ids that the handler drew, in order."""
    said: Said = Said()
    """What travelled with the command."""


def digest(data: bytes) -> str:
    """Give the digest of JSON, as 16 hexadecimal digits (BLAKE2b)."""
    return blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def gave(
    returned: object, states: Sequence[object], told: Any, plain: msgspec.json.Encoder
) -> Gave | None:
    """Give what a handler returned, as it is recorded; None for what no handler may return.

    `told(place, event)` makes an event's entry. Raises what it raises, and what encoding does.
    """
    given: Any = returned
    beside = list[Any]()
    if isinstance(returned, Decision):
        decision = cast("Any", returned)
        given = decision.events
        beside.append([-1, decision.reply, *_beside(decision)])
    listed = cast("Sequence[object]", given) if isinstance(given, list | tuple) else (given,)
    events: list[Told] = []
    for each in () if given is None else listed:
        if isinstance(each, Given):
            to: Any = each
            place = next((n for n, s in enumerate(states) if s is to.aggregate), -1)
            events += [told(place, event) for event in to.events]
            beside.append([place, *_beside(to)])
        elif isinstance(each, Event):
            events.append(told(0 if len(states) == 1 else -1, each))
        else:
            return None
    outcome: Outcome = "events" if events else "nothing"
    return Gave(outcome, tuple(events), beside=_beside_digest(beside, plain))


def _beside_digest(parts: Sequence[Sequence[Any]], plain: msgspec.json.Encoder) -> str:
    if not any(part not in (None, []) for _, *rest in parts for part in rest):
        return ""
    try:
        return digest(plain.encode(parts))
    except Exception:  # a reply of the host's own class: the engine refuses it
        return UNKNOWN


def _beside(given: Any) -> list[Any]:
    """Give what stands beside events, each value with its class, as they look alike in JSON."""
    return [
        [(type(each).__name__, each) for each in given.claims],
        [(type(each).__name__, each, _command_of(each)) for each in given.timers],
        [(type(each).__name__, each) for each in given.commands],
    ]


def _command_of(timer: object) -> str:
    return type(getattr(timer, "command", None)).__name__


def raised(error: BaseException, *, is_rejection: bool) -> Gave:
    """Give an exception of a handler, as it is recorded."""
    if is_rejection and isinstance(error, Rejected):
        return Gave("rejected", code=str(error.code))
    return Gave("failed", code=type(error).__name__)
