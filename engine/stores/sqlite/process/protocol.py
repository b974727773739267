"""What an engine and the process that writes its log say to each other: messages in frames.

Rules: each call has one answer, in the order of the calls. A frame is its length in four bytes,
little end first, and one message in MessagePack; both ends are of the same release, so messages
have no versions. An answer to an append holds no payload: who asked has them, and `committed_of`
puts together what the store that wrote them would have given. This file knows no file, process or
lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, cast

import msgspec

from ....errors import Damaged, EngineError, StoreFailed, StoreLocked, StoreRefused
from ....model.stored import EventType, Snapshot, StoredEvent
from ...contract.claims import ClaimTaken
from ...contract.log import Appended, Batch, Committed, Head, Outcome, StreamConflict
from ...contract.tags import TagForm, TagsChanged
from ...contract.timers import SettledTimer, TimerGone

__all__ = [
    "Added",
    "Answer",
    "Append",
    "Call",
    "Close",
    "Done",
    "Failed",
    "IndexTags",
    "Line",
    "Look",
    "Open",
    "Opened",
    "SettleTimers",
    "Settled",
    "WriteSnapshots",
    "added_of",
    "committed_of",
    "decode_answer",
    "decode_call",
    "encode",
    "error_of",
    "failed_of",
]


class Open(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Open the log; answered by Opened."""


class Look(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Tell of the log as it is now; answered by Opened."""


class Append(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Append a batch; answered by Added."""

    batch: Batch


class WriteSnapshots(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Keep snapshots; answered by Done."""

    snapshots: Sequence[Snapshot]


class SettleTimers(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Take timers away, or let them wait; answered by Settled."""

    settled: Sequence[SettledTimer]


class IndexTags(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Let the index be of these forms; answered by Settled."""

    forms: Sequence[TagForm]


class Close(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Close the log, and end; answered by Done."""


Call: TypeAlias = Open | Look | Append | WriteSnapshots | SettleTimers | IndexTags | Close


class Opened(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The log is open: what is in it."""

    log_id: str
    head: Head
    types: Sequence[EventType]


class Added(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What an append did."""

    first: int
    """Position of the first event that was added; 0 where none was."""
    recorded: int
    """The time that all of them have."""
    checksums: Sequence[int]
    """One for each event that was added, in order."""
    conflicts: Sequence[tuple[int, str, int, int]]
    """Index of a request, and the fields of its StreamConflict."""
    wal_merges: int = 0
    wal_merges_put_off: int = 0
    taken: Sequence[tuple[int, int]] = ()
    """Index of a request, and the field of its ClaimTaken."""
    gone: Sequence[tuple[int, int]] = ()
    """The same of its TimerGone."""
    timers: int = 0
    """As in Committed."""
    changed: Sequence[tuple[int, int]] = ()
    """As `taken`, of its TagsChanged."""


class Settled(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Timers are settled: how many were taken away. Or tags are: how many events were indexed."""

    gone: int


class Done(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """It is done."""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """It failed with an error of the class `error`."""

    error: str
    message: str
    written: bool | None = None
    briefly: bool = False
    position: int = 0
    stopped: bool = False


Answer: TypeAlias = Opened | Added | Settled | Done | Failed

encode: Final = msgspec.msgpack.Encoder().encode
decode_call: Final = msgspec.msgpack.Decoder[Call](Call).decode
decode_answer: Final = msgspec.msgpack.Decoder[Answer](Answer).decode


def added_of(committed: Committed, wal_merges: int, wal_merges_put_off: int) -> Added:
    """Tell what an append did, without what whoever asked for it knows."""
    events = committed.events
    return Added(
        events[0].position if events else 0,
        events[0].recorded if events else 0,
        [event.checksum for event in events],
        [
            (index, outcome.stream, outcome.expected, outcome.actual)
            for index, outcome in enumerate(committed.outcomes)
            if isinstance(outcome, StreamConflict)
        ],
        wal_merges,
        wal_merges_put_off,
        [
            (index, outcome.extra)
            for index, outcome in enumerate(committed.outcomes)
            if isinstance(outcome, ClaimTaken)
        ],
        [
            (index, outcome.extra)
            for index, outcome in enumerate(committed.outcomes)
            if isinstance(outcome, TimerGone)
        ],
        committed.timers,
        [
            (index, outcome.extra)
            for index, outcome in enumerate(committed.outcomes)
            if isinstance(outcome, TagsChanged)
        ],
    )


def committed_of(batch: Batch, added: Added) -> Committed:
    """Give what the append of a batch did: the inverse of `added_of`."""
    refused: dict[int, Outcome] = {told[0]: StreamConflict(*told[1:]) for told in added.conflicts}
    refused |= {index: ClaimTaken(extra) for index, extra in added.taken}
    refused |= {index: TimerGone(extra) for index, extra in added.gone}
    refused |= {index: TagsChanged(extra) for index, extra in added.changed}
    outcomes: list[Outcome] = []
    events: list[StoredEvent] = []
    position, recorded = added.first - 1, added.recorded
    checksums = iter(added.checksums)
    for index, request in enumerate(batch.requests):
        if refused and index in refused:
            outcomes.append(refused[index])
            continue
        versions: list[int] = []
        for write in request.writes:
            version = write.expected
            for data in write.events:
                version += 1
                position += 1
                kind = data.type
                events.append(
                    StoredEvent(
                        position,
                        write.stream,
                        version,
                        kind.name,
                        kind.version,
                        recorded,
                        data.payload,
                        data.metadata,
                        data.encoding,
                        next(checksums),
                    )
                )
            versions.append(version)
        outcomes.append(Appended(position, tuple(versions)))
    assert len(events) == len(added.checksums), "each event that was added has a checksum"
    return Committed(outcomes, events, added.timers)


def failed_of(error: BaseException) -> Failed:
    """Tell an error; what is none of the engine's leaves the outcome of an append unknown."""
    name = type(error).__name__
    if isinstance(error, StoreFailed):
        return Failed(name, str(error), written=error.written, stopped=error.stopped)
    if isinstance(error, StoreLocked):
        return Failed(name, str(error), briefly=error.briefly)
    if isinstance(error, Damaged):
        return Failed(name, error.what, position=error.position)
    if isinstance(error, StoreRefused):
        return Failed(name, str(error))
    return Failed(StoreFailed.__name__, f"the log's writer failed with {name}: {error}")


def error_of(failed: Failed) -> EngineError:
    """Give the error that was told."""
    if failed.error == StoreLocked.__name__:
        return StoreLocked(failed.message, briefly=failed.briefly)
    if failed.error == Damaged.__name__:
        return Damaged(failed.position, failed.message)
    if failed.error == StoreRefused.__name__:
        return StoreRefused(failed.message)
    return StoreFailed(failed.message, written=failed.written, stopped=failed.stopped)


_LENGTH_BYTES: Final = 4


class Line(asyncio.Protocol):
    """One end of a socket: gives `received` each message, and calls `lost` when the other is gone.

    What is sent waits in memory while the other end does not read: at most a batch and the
    snapshots that wait, since nobody sends more before the answer.
    """

    def __init__(self, received: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        # uvloop's transports are none by their class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Give the messages that are whole now."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(buffer[:_LENGTH_BYTES], "little")
            if len(buffer) < end:
                return
            message = bytes(memoryview(buffer)[_LENGTH_BYTES:end])
            del buffer[:end]
            self._received(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """Say so."""
        self._lost()

    def send(self, message: bytes) -> None:
        """Send a message."""
        assert self._transport is not None, "a line is used when it is made"
        self._transport.write(len(message).to_bytes(_LENGTH_BYTES, "little") + message)

    def close(self) -> None:
        """Close it after what was sent."""
        if self._transport is not None:
            self._transport.close()
