"""A file system that fails on request, under the real SQLite: real I/O errors."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, Final

import apsw

from engine.stores.sqlite.files import SystemFiles

WAIT_SECONDS: Final = 20


class Hold:
    """Where a call stops until it is let go."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._released = threading.Event()

    def wait(self) -> None:
        self._reached.set()
        assert self._released.wait(WAIT_SECONDS), "nobody let go of a call that was held"

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, WAIT_SECONDS), "the call never came"

    def release(self) -> None:
        self._released.set()


class FaultyVfs(apsw.VFS):
    """The system's VFS, with files whose calls are noted, and fail when told to."""

    count = 0

    def __init__(self) -> None:
        FaultyVfs.count += 1
        self.name = f"faulty-{FaultyVfs.count}"
        self.faults: dict[str, int] = {}
        """SQLite's result code by call and file, as "sync log.db-wal"."""
        self.holds: dict[str, Hold] = {}
        self.calls: list[str] = []
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - SQLite's name
        return FaultyFile(self, name, flags)


class FaultyFile(apsw.VFSFile):
    def __init__(self, vfs: FaultyVfs, name: Any, flags: list[int]) -> None:
        self._vfs = vfs
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._name = Path(path).name
        super().__init__("", name, flags)

    def _reach(self, call: str) -> None:
        self._vfs.calls.append(f"{call} {self._name}")
        hold = self._vfs.holds.get(f"{call} {self._name}")
        if hold is not None:
            hold.wait()
        code = self._vfs.faults.get(f"{call} {self._name}")
        if code is not None:
            raise apsw.exception_for(code)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._reach("write")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._reach("sync")
        super().xSync(flags)


class VfsFiles(SystemFiles):
    """Opens SQLite through a named VFS."""

    def __init__(self, vfs: str) -> None:
        self._vfs = vfs

    def connect(self, path: str, *, readonly: bool = False) -> Any:
        super().connect(path).close()
        flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE
        return apsw.Connection(path, flags=flags, vfs=self._vfs)
