"""The bytes of a backup: segments of events, what goes along with them, and a manifest over all.

Rules: a file is frames, each with its length, a CRC-32 and compressed MessagePack. The first says
whose file it is, where it begins, and the checksum of the file before it, so that no two can change
places. The manifest names each file with its SHA-256. It is exactly the JSON that is made of what
it says, with a SHA-256 over that: each bit of it counts. What does not fit is Damaged, by the name
of the file. Nothing here opens a file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final, TypeAlias, cast

import msgspec

from ..errors import Damaged, StoreRefused
from ..model.codec import UNDECODABLE
from ..model.stored import EventType, StoredEvent
from ..stores.contract.copying import Mark

__all__ = [
    "FORM",
    "MANIFEST",
    "File",
    "Manifest",
    "Segment",
    "SegmentWriter",
    "frames_of",
    "manifest_bytes",
    "manifest_of",
    "named",
    "rows_of",
]

FORM: Final = 1
"""Of manifest and files; another one gets another number."""
MANIFEST: Final = "manifest.json"

_MAGIC: Final = b"foldline backup 1\n"
_FRAME: Final = struct.Struct("<III")
"""Bytes, bytes when unpacked, CRC-32 of the packed ones."""
_FRAME_BYTES_MAX: Final = 1024**3
_LEVEL: Final = 1
"""Of zlib: higher ones take far more time than they save room."""

Row: TypeAlias = tuple[int, str, int, str, int, int, bytes, bytes, int, int, int]
"""The fields of a StoredEvent, in their order."""

_rows: Final = msgspec.msgpack.Decoder(list[Row])
_pack: Final = msgspec.msgpack.Encoder().encode


class File(msgspec.Struct, frozen=True):
    """A file of a backup, as its manifest knows it."""

    name: str
    size: int
    """In bytes."""
    sha256: str
    """Of all of them, in hexadecimal digits."""


class Segment(msgspec.Struct, frozen=True):
    """A file of events."""

    file: File
    first: int
    """The position of its first event."""
    after: Mark
    """Behind its last event."""
    recorded: int
    """Of its last event, in µs since 1970-01-01 UTC."""


class Manifest(msgspec.Struct, frozen=True):
    """What a backup is, up to one position of its log."""

    form: int
    log_id: str
    source: str
    """What people call the log that it is of."""
    made: int
    """When it was written last, in µs since 1970-01-01 UTC."""
    position: int
    checksum: int
    """Of the event there."""
    recorded: int
    """Of the event there."""
    whole: bool
    """Whether it has what goes along with the events: one that was interrupted does not."""
    versions: dict[str, str]
    """Of what made it: this library's form of a log, Python, and the like."""
    types: Sequence[EventType]
    """All that the log has, in their order."""
    segments: Sequence[Segment]
    beside: Sequence[File]
    """Timers, snapshots, decisions, requests and the checkpoints of sinks."""
    sha256: str = ""
    """Of this manifest without it."""

    def files(self) -> set[str]:
        """Give the names of all files that it is made of."""
        return {segment.file.name for segment in self.segments} | {
            file.name for file in self.beside
        }


class _Head(msgspec.Struct, frozen=True):
    log_id: str
    what: str
    """"events" or "beside"."""
    first: int
    before: str
    """The SHA-256 of the segment before; nothing for the first one."""


class SegmentWriter:
    """The bytes of one file, as it grows in memory."""

    def __init__(self, log_id: str, what: str, first: int, before: str) -> None:
        self.first = first
        self.raw = 0
        """Bytes before they were packed."""
        self._parts = [_MAGIC]
        self._add(_pack(_Head(log_id, what, first, before)))

    def add_events(self, events: Sequence[StoredEvent]) -> None:
        """Add events in a frame of their own."""
        self.add(_pack([_row(event) for event in events]))

    def add(self, data: bytes) -> None:
        """Add a frame."""
        self.raw += len(data)
        self._add(data)

    def _add(self, data: bytes) -> None:
        packed = zlib.compress(data, _LEVEL)
        self._parts += [_FRAME.pack(len(packed), len(data), zlib.crc32(packed)), packed]

    def whole(self) -> bytes:
        """Give the file."""
        return b"".join(self._parts)


def named(name: str, data: bytes) -> File:
    """Give a file as a manifest knows it."""
    return File(name, len(data), sha256(data).hexdigest())


def _row(event: StoredEvent) -> Row:
    return cast("Row", msgspec.structs.astuple(event))


def rows_of(frame: bytes) -> Iterable[StoredEvent]:
    """Give the events of a frame; raises what is UNDECODABLE."""
    return (StoredEvent(*row) for row in _rows.decode(frame))


def frames_of(
    data: bytes, file: File, position: int, head: tuple[str, str, int, str]
) -> Iterator[bytes]:
    """Give the frames of a file behind its head, which says log, what, first, and the one before.

    The whole file is proved first. Raises Damaged, for the event at `position`.
    """
    if named(file.name, data) != file:
        raise Damaged(position, f"{file.name} of the backup is not what its manifest says")
    if not data.startswith(_MAGIC):
        raise Damaged(position, f"{file.name} is no file of a backup of this form")
    frames = _frames(data, file.name, position)
    try:
        found = msgspec.msgpack.decode(next(frames, b""), type=_Head)
    except UNDECODABLE as error:
        raise Damaged(position, f"{file.name} begins with no head") from error
    if found != _Head(*head):
        raise Damaged(position, f"{file.name} belongs to another place or another backup")
    yield from frames


def _frames(data: bytes, name: str, position: int) -> Iterator[bytes]:
    place, view = len(_MAGIC), memoryview(data)
    while place < len(data):
        if place + _FRAME.size > len(data):
            raise Damaged(position, f"{name} of the backup was cut at byte {place}")
        size, unpacked, crc = _FRAME.unpack_from(data, place)
        begin, place = place + _FRAME.size, place + _FRAME.size + size
        packed = view[begin:place]
        if len(packed) != size or zlib.crc32(packed) != crc or unpacked > _FRAME_BYTES_MAX:
            raise Damaged(position, f"{name} of the backup is damaged from byte {begin} on")
        yield _unpacked(packed, unpacked, name, position)


def _unpacked(packed: memoryview, size: int, name: str, position: int) -> bytes:
    try:
        # Never more than was said: what somebody made to grow without end does not.
        opened = zlib.decompressobj()
        data = opened.decompress(packed, size + 1)
    except zlib.error as error:
        raise Damaged(position, f"{name} of the backup cannot be unpacked: {error}") from error
    if len(data) != size or not opened.eof:
        raise Damaged(position, f"{name} of the backup unpacks to another size than it says")
    return data


# -- the manifest ---------------------------------------------------------------------------------


def manifest_bytes(manifest: Manifest) -> bytes:
    """Give a manifest as a file, with its checksum."""
    bare = msgspec.structs.replace(manifest, sha256="")
    return _json(msgspec.structs.replace(bare, sha256=sha256(_json(bare)).hexdigest()))


def _json(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def manifest_of(data: bytes, name: str) -> Manifest:
    """Read a manifest; raise StoreRefused where it is not exactly what was written."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except UNDECODABLE as error:
        raise StoreRefused(
            f"the manifest of the backup {name} is damaged: {type(error).__name__}. {_REMEDY}"
        ) from error
    if manifest.form > FORM:
        raise StoreRefused(
            f"the backup {name} has form {manifest.form}, and this release reads up to {FORM}: "
            f"use the release that made it, or a later one"
        )
    if manifest_bytes(manifest) != data:
        raise StoreRefused(
            f"the manifest of the backup {name} is damaged: it does not match its own checksum. "
            f"{_REMEDY}"
        )
    return manifest


_REMEDY: Final = "Use another backup. Nothing was changed"
