"""Where the files of a backup go: a folder, or one stream, which is a tar of the same files.

Rules: a file has its name when it is whole and on the disk. Names are ours alone: whatever else is
in a folder, or in a stream that is read, refuses it. One process at a time writes into a folder.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import IO, Final, Protocol

from ..errors import StoreFailed, StoreRefused
from ..runtime.folder import PARTIAL, Folder
from .format import MANIFEST, Manifest, manifest_of

__all__ = ["FolderPlace", "Place", "StreamPlace", "read_manifest", "unpack"]

_OURS: Final = re.compile(r"(events|beside)-[0-9-]{1,60}\.seg|manifest\.json")
_LOCK: Final = "backup.lock"
_FILE_BYTES_MAX: Final = 4 * 1024**3


class Place(Protocol):
    """Where the files of one backup are."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def keeps(self) -> bool:
        """Whether what was written can be read again."""
        ...

    def begin(self) -> None:
        """Keep others from writing here; raise StoreRefused where something else is here."""
        ...

    def end(self) -> None:
        """Let others write here; a second call does nothing."""
        ...

    def names(self) -> Sequence[str]:
        """Give the names of the files that are here."""
        ...

    def read(self, name: str) -> bytes | None:
        """Give a file; None where there is none."""
        ...

    def size(self, name: str) -> int | None:
        """Give the bytes that a file has; None where there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole; raise StoreFailed."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        ...


class FolderPlace:
    """A folder."""

    keeps = True

    def __init__(self, path: str) -> None:
        self._folder = Folder(path)

    @property
    def name(self) -> str:
        """Its path."""
        return self._folder.path

    def begin(self) -> None:
        """Make the folder if it is not there, and lock it."""
        with self._telling("made"):
            strangers = [name for name in self.names() if not _is_ours(name)]
            if strangers:
                raise StoreRefused(
                    f"{self.name} has {strangers[0]!a} in it and is no folder of a backup: name "
                    f"one that is new, or empty, or has a backup of this log. Nothing was changed"
                )
            self._folder.make()
            if not self._folder.lock(_LOCK):
                raise StoreRefused(
                    f"another process writes a backup into {self.name}: wait until it has ended. "
                    f"Nothing was changed"
                )

    def end(self) -> None:
        """Let the lock go."""
        self._folder.unlock()

    def names(self) -> Sequence[str]:
        """Give what is in it."""
        with self._telling("read"):
            return self._folder.names()

    def read(self, name: str) -> bytes | None:
        """Give a file."""
        with self._telling("read"):
            return self._folder.read(name)

    def size(self, name: str) -> int | None:
        """Give the bytes that a file has."""
        with self._telling("read"):
            return self._folder.size(name)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, synced."""
        with self._telling("written"):
            self._folder.write(name, data)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with self._telling("written"):
            self._folder.remove(name)

    @contextmanager
    def _telling(self, what: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise StoreFailed(
                f"the backup {self.name} cannot be {what}: {error.strerror}. What it had is there "
                f"still: mend that, and run this again",
                written=False,
            ) from error


def _is_ours(name: str) -> bool:
    return name == _LOCK or _OURS.fullmatch(name.removesuffix(PARTIAL)) is not None


class StreamPlace:
    """A stream that is only written to: a tar of the files of a folder, the manifest last."""

    keeps = False
    name = "the output"

    def __init__(self, stream: IO[bytes]) -> None:
        self._tar = tarfile.open(mode="w|", fileobj=stream, format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def begin(self) -> None:
        """Take files."""

    def end(self) -> None:
        """Write the end of the tar."""
        self._tar.close()

    def names(self) -> Sequence[str]:
        """Give nothing: what was written is gone."""
        return ()

    def read(self, name: str) -> bytes | None:  # noqa: ARG002 - of the protocol
        """Give nothing: what was written is gone."""
        return None

    def size(self, name: str) -> int | None:  # noqa: ARG002 - of the protocol
        """Give nothing: what was written is gone."""
        return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        about = tarfile.TarInfo(name)
        about.size, about.mode = len(data), 0o600
        self._tar.addfile(about, io.BytesIO(data))

    def remove(self, name: str) -> None:
        """Do nothing."""


def unpack(stream: IO[bytes], folder: Folder) -> None:
    """Write the files of a stream into a folder; raise StoreRefused for what is no backup."""
    try:
        with tarfile.open(mode="r|", fileobj=stream) as tar:
            for member in tar:
                opened = tar.extractfile(member) if member.isreg() else None
                if opened is None or not _OURS.fullmatch(member.name):
                    raise StoreRefused(
                        f"the input has {member.name[:60]!a} in it, which is no file of a backup"
                    )
                if member.size > _FILE_BYTES_MAX:
                    raise StoreRefused(f"{member.name} of the input is larger than any of ours")
                folder.write(member.name, opened.read())
    except (tarfile.TarError, EOFError) as error:
        raise StoreRefused(
            f"the input is no backup, or was cut: {error}. Nothing was restored"
        ) from error


def read_manifest(place: Place) -> Manifest | None:
    """Give the manifest of a place; None where there is none. Raises StoreRefused."""
    data = place.read(MANIFEST)
    return None if data is None else manifest_of(data, place.name)
