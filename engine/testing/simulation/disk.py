"""A disk that forgets what was not synced, and fails when it is told to, under the real SQLite.

Rules: SQLite reads and writes real files on a RAM disk, so that WAL and several connections work as
they do outside; beside them this disk keeps what would survive a loss of power: what was synced,
and of each write since then a part, cut at sectors. A call that fails does so as a kernel's does: a
write leaves nothing or its first half, and what a failed sync should have written is clean from
then on and never written. When the power is gone every call fails. The next life starts on a
folder that is made of what survived.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, TypeAlias

import apsw
import msgspec

__all__ = ["IMAGES", "Disk", "Fault", "Image"]

SECTOR: Final = 512
PAGE: Final = 4_096

Image: TypeAlias = Literal["nothing", "everything", "first half", "last half", "some", "torn"]
"""What of the writes that were not synced had reached the disk."""
IMAGES: Final[tuple[Image, ...]] = (
    *("nothing", "everything", "first half", "last half", "some", "some", "torn", "torn"),
)
"""The eight that are tried of each crash point; two of "some" and "torn" differ by chance."""


class Fault(msgspec.Struct, frozen=True):
    """One call that fails: the how-manieth, counted over all calls of a life, and how."""

    call: int
    how: Literal["EIO", "ENOSPC", "short"]


class Disk:
    """One machine's disk, over all its lives."""

    def __init__(self, folder: Path, random: Random) -> None:
        self.root = folder
        self.random = random
        self.life = 0
        self.durable: dict[str, bytearray] = {}
        self.pending: dict[str, list[tuple[int, bytes | None]]] = {}
        """Per file what was written since its last sync: (offset, data), or (size, None)."""
        self.removals: dict[str, bytearray] = {}
        """Files that were removed while nobody synced their folder."""
        self.operations = 0
        """Calls of this life that change something: before each of them the power may go."""
        self.calls: list[str] = []
        """All calls of this life, as "sync log.db-wal"; filled where `notes_calls`."""
        self.notes_calls = False
        self.made = 0
        """How many calls this life has made."""
        self.crash_at: int | None = None
        self.crash_after_failure: int | None = None
        """So many changing calls after one has failed the power goes."""
        self.only_killed = False
        """Whether a crash ends the process and leaves the machine: its kernel keeps the files."""
        self.on_crash: Callable[[], None] = lambda: None
        self.fault: Fault | None = None
        self.write_failures = self.sync_failures = 0.0
        """The chance of each write and each sync to fail."""
        self.failing = ""
        """A part of the names of the files that they fail of; empty for all."""
        self.failed: list[str] = []
        """The calls that failed, of all lives."""
        self.failed_sync = ""
        """The sync of the log that failed first in this life."""
        self.dead = False
        self.connections: list[apsw.Connection] = []
        self.locks: set[str] = set()
        self.name = f"simulated-{id(self)}"
        self.vfs = _Vfs(self)
        self.folder.mkdir(parents=True)

    @property
    def folder(self) -> Path:
        """Where this life's files are."""
        return self.root / str(self.life)

    # -- what a call goes through ---------------------------------------------------------------

    def reach(self, call: str, name: str, *, changes: bool = True) -> str | None:
        """Begin a call; the power may go here. Give how it is to fail, if it is."""
        if self.dead:
            raise apsw.IOError("the power is gone")
        self.made += 1
        if self.notes_calls:
            self.calls.append(f"{call} {name}")
        if changes:
            self.operations += 1
            if self.crash_at is not None and self.operations >= self.crash_at:
                self.power_off()
                return "power"
        how = self._fault_of(call, name)
        if how is not None:
            self.failed.append(f"{call} {name}: {how}")
            if self.crash_after_failure is not None:
                self.crash_at = self.operations + self.crash_after_failure
            elif self.crash_at is not None and self.random.random() < 0.4:
                # Trouble comes in company: what was left half done is met by the next life.
                self.crash_at = self.operations + self.random.randrange(1, 8)
            if call == "sync" and ".views." not in name:
                self.failed_sync = self.failed_sync or self.failed[-1]
        return how

    def _fault_of(self, call: str, name: str) -> str | None:
        if self.fault is not None and self.fault.call == self.made:
            return self.fault.how
        if self.failing not in name:
            return None
        if call == "write" and self.write_failures and self.random.random() < self.write_failures:
            return self.random.choice(("EIO", "ENOSPC", "short"))
        if call == "sync" and self.sync_failures and self.random.random() < self.sync_failures:
            return "EIO"
        return None

    def power_off(self) -> None:
        """Let every further call fail."""
        self.dead = True
        self.on_crash()

    def written(self, name: str, offset: int, data: bytes) -> None:
        """Take note of a write."""
        self.pending.setdefault(name, []).append((offset, data))

    def truncated(self, name: str, size: int) -> None:
        """Take note of a new size."""
        self.pending.setdefault(name, []).append((size, None))

    def synced(self, name: str) -> None:
        """Make what was written to a file durable."""
        if name not in self.durable:
            # SQLite syncs the folder with the first sync of a journal or a log that it made.
            self.removals.clear()
        image = self.durable.setdefault(name, bytearray())
        for offset, data in self.pending.pop(name, ()):
            _apply(image, offset, data)

    def blank(self, path: Path, place: int, size: int) -> None:
        """Write zeros at a place of a file."""
        how = self.reach("write", path.name)
        if how is None:
            with path.open("r+b") as file:
                file.seek(place)
                file.write(bytes(size))
        if how is None or (how == "power" and not self.only_killed):
            self.written(path.name, place, bytes(size))
        if how is not None:
            raise OSError(how)

    def rewrite(self, path: Path) -> None:
        """Write a file's bytes over themselves, page by page, and sync it."""
        content = path.read_bytes()
        for offset in range(0, len(content), PAGE):
            if self.reach("write", path.name) not in (None, "power"):
                raise OSError("it fails once")
            if self.dead and self.only_killed:
                break
            self.written(path.name, offset, content[offset : offset + PAGE])
            if self.dead:
                break
        if self.dead:
            raise OSError("power")
        self.sync(path)

    def sync(self, path: Path) -> None:
        """Make what was written to a file durable."""
        how = self.reach("sync", path.name)
        if how is not None:
            if not self.dead:
                self.forgotten(path.name)
            raise OSError(how)
        self.synced(path.name)

    def forgotten(self, name: str) -> None:
        """Mark what was written to a file clean without writing it: a sync failed."""
        self.pending.pop(name, None)

    def removed(self, name: str, *, durably: bool = False) -> None:
        """Take note of a file's end; without a sync of its folder it may come back."""
        content = self.durable.pop(name, None)
        self.pending.pop(name, None)
        self.removals.pop(name, None)
        if content is not None and not durably:
            self.removals[name] = content

    def renamed(self, name: str, to: str) -> None:
        """Take note of a new name, whose folder was synced."""
        self.durable[to] = self.durable.pop(name, bytearray())
        if name in self.pending:
            self.pending[to] = self.pending.pop(name)

    # -- the loss of power ----------------------------------------------------------------------

    def survivors(self, image: Image | None, random: Random) -> dict[str, bytes]:
        """Give the files as they may be after a loss of power; None draws another image for each.

        A file whose folder entry was never made durable may be gone.
        """
        survived: dict[str, bytes] = {}
        for name, content in self.removals.items():
            if name in self.pending:
                continue  # it was made again, and is judged with the others
            if image == "nothing" or (image != "everything" and random.random() < 0.5):
                survived[name] = bytes(content)
        for name in sorted({*self.durable, *self.pending}):
            chosen = random.choice(IMAGES) if image is None else image
            if name not in self.durable and (
                chosen == "nothing" or (chosen != "everything" and random.random() < 0.5)
            ):
                continue
            survived[name] = self._survivor(name, chosen, random)
        return survived

    def _survivor(self, name: str, image: Image, random: Random) -> bytes:
        content = bytearray(self.durable.get(name, b""))
        pending = self.pending.get(name, [])
        chance = random.choice((0.3, 0.5, 0.9))
        for place, (offset, data) in enumerate(pending):
            first = place < len(pending) / 2
            if (
                image == "nothing"
                or (image == "first half" and not first)
                or (image == "last half" and first)
                or (image in ("some", "torn") and random.random() >= chance)
            ):
                continue
            if image == "torn" and data is not None and random.random() < 0.4:
                data = data[: random.randrange(len(data) + 1) // SECTOR * SECTOR]
            _apply(content, offset, data)
        return bytes(content)

    def restart(self, survived: Mapping[str, bytes] | None = None) -> None:
        """Begin the next life on what survived the loss of power, or the end of the process."""
        if self.only_killed:
            survived = self._in_the_kernel()
        elif survived is None:
            survived = self.survivors(None, self.random)
        self.close_connections()
        self.locks.clear()
        self.life += 1
        self.folder.mkdir()
        for name, content in survived.items():
            (self.folder / name).write_bytes(content)
        if not self.only_killed:
            self.pending = {}
            self.removals = {}
            self.durable = {name: bytearray(content) for name, content in survived.items()}
        self.only_killed = False
        self.dead = False
        self.operations = self.made = 0
        self.calls.clear()
        self.crash_at = self.crash_after_failure = self.fault = None
        self.failed_sync = ""
        self.write_failures = self.sync_failures = 0.0

    def _in_the_kernel(self) -> dict[str, bytes]:
        """Give the files as other processes see them; what is shared memory goes with its users."""
        paths = [path for path in self.folder.iterdir() if not path.name.endswith("-shm")]
        return {path.name: path.read_bytes() for path in paths}

    def flip(self, name: str, marker: bytes, random: Random) -> None:
        """Flip one bit of a file, most times behind a marker, and often so that a digit changes."""
        path = self.folder / name
        content = bytearray(path.read_bytes()) if path.exists() else bytearray()
        places = [n for n in range(len(content)) if content.startswith(marker, n)]
        bit = random.randrange(8)
        if places and random.random() < 0.8:
            begin = random.choice(places)
            near = range(begin, min(begin + len(marker) + 60, len(content)))
            digits = [n for n in near if content[n : n + 1].isdigit()]
            place = random.choice(near)
            if digits and random.random() < 0.6:
                place, bit = random.choice(digits), 0
        else:
            place = random.randrange(max(1, len(content)))
        if place < len(content):
            content[place] ^= 1 << bit
            path.write_bytes(content)
            self.durable[name] = content

    def close_connections(self) -> None:
        """Free what a dead process had open."""
        for connection in self.connections:
            with contextlib.suppress(apsw.Error):
                connection.close(True)
        self.connections.clear()

    def dispose(self) -> None:
        """End the disk; its files are the caller's to remove."""
        self.dead = True
        self.close_connections()
        self.vfs.unregister()

    def connect(self, path: str, *, readonly: bool) -> apsw.Connection:
        """Open SQLite on this disk."""
        how = self.reach("open", Path(path).name)
        if how is not None:
            raise apsw.CantOpenError(how)
        if not readonly and not Path(path).exists():
            # Only then: the close would let go of the locks that SQLite has on it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE
        connection = apsw.Connection(path, flags=flags, vfs=self.name)
        self.connections.append(connection)
        return connection


def _apply(image: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del image[offset:]
        image.extend(bytes(offset - len(image)))
        return
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


def _failure(how: str, code: int) -> Exception:
    """Give SQLite's error for a call that fails: a full disk, or this kind of I/O error."""
    if how == "power":
        return apsw.IOError("the power is gone")
    return apsw.exception_for(apsw.SQLITE_FULL if how == "ENOSPC" else code)


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__(disk.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - SQLite's name
        return _File(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        name = Path(filename).name
        how = self._disk.reach("delete", name)
        if how is not None:
            raise _failure(how, apsw.SQLITE_IOERR_DELETE)
        super().xDelete(filename, syncdir)
        self._disk.removed(name, durably=syncdir)

    def xRandomness(self, numbytes: int) -> bytes:  # noqa: N802
        return bytes(numbytes)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._name = Path(path).name
        self._only_reads = bool(flags[0] & apsw.SQLITE_OPEN_READONLY)
        how = disk.reach("open", self._name, changes=False)
        if how is not None:
            raise apsw.CantOpenError(how)
        super().__init__("", name, flags)

    def xLock(self, level: int) -> None:  # noqa: N802
        if self._only_reads and level > apsw.SQLITE_LOCK_SHARED:
            raise apsw.BusyError  # which SQLite takes for no; what a system says is raised here
        super().xLock(level)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        how = self._disk.reach("read", self._name, changes=False)
        if how is not None:
            raise _failure("EIO", apsw.SQLITE_IOERR_READ)
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        how = self._disk.reach("write", self._name)
        if how is None:
            super().xWrite(data, offset)  # pyright: ignore[reportUnknownMemberType]
            self._disk.written(self._name, offset, bytes(data))
            return
        if how == "power":
            # The write in hand may have reached the disk as any other.
            if not self._disk.only_killed:
                self._disk.written(self._name, offset, bytes(data))
        elif how == "short":
            half = bytes(data)[: len(data) // 2]
            # A system stops in a write where it must make room, or between sectors: what lies in
            # one sector that the file has is written over whole, or not at all.
            whole = offset // SECTOR == (offset + len(data) - 1) // SECTOR
            if not whole or offset + len(data) > super().xFileSize():
                super().xWrite(half, offset)  # pyright: ignore[reportUnknownMemberType]
                self._disk.written(self._name, offset, half)
        raise _failure(how, apsw.SQLITE_IOERR_WRITE)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        how = self._disk.reach("truncate", self._name)
        if how is None or (how == "power" and not self._disk.only_killed):
            self._disk.truncated(self._name, newsize)
        if how is not None:
            raise _failure(how, apsw.SQLITE_IOERR_TRUNCATE)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        how = self._disk.reach("sync", self._name)
        if how is None:
            self._disk.synced(self._name)
            return
        if how != "power":
            self._disk.forgotten(self._name)
            how = "EIO"  # SQLite says of no failed sync that the disk is full
        raise _failure(how, apsw.SQLITE_IOERR_FSYNC)
