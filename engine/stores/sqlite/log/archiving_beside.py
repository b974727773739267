"""Moves the contents of closed streams out of a log that an engine of this process has open.

Rules: it reads, copies and compares on a thread and connections of its own. Only to remove a small
page it takes the writer's turn, by a transaction of the store: the cold file is attached for that
long, since a batch would lock it, and the connection has its own triggers again afterwards. The
file of the log stays as large as it is, and new events take the room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from ....errors import StoreRefused
from ....runtime.ports import Ports, Worker
from ...contract.archiving import ArchiveRule
from ..connection import run, set_reading, unreadable
from ..files import files_of
from ..shape import harden
from .archiving import Page, SqliteArchiver
from .cold import attach, detach
from .schema import guard
from .store import SqliteStore

__all__ = ["ArchiverBeside"]

T = TypeVar("T")

_BESIDE_EVENTS: Final = 200
_BESIDE_BYTES: Final = 1024 * 1024
"""What is removed in one turn, for which commands wait."""


class ArchiverBeside(SqliteArchiver):
    """Moves closed streams of a log that the store of an engine has open."""

    has_log = False

    def __init__(self, store: SqliteStore, ports: Ports) -> None:
        super().__init__(store.path, ports)
        self._store = store
        self._worker: Worker | None = None
        self._beside: Any = None

    async def __aenter__(self) -> ArchiverBeside:
        """Open the log to be read, beside the store."""
        self._ports, self._log_id = self._given, self._store.log_id
        self._worker = self._ports.workers.start("foldline-archive")
        try:
            await self._worker.run(self._open_beside)
        except BaseException:
            await self._end()
            raise
        return self

    def _open_beside(self) -> None:
        with unreadable(self.path):
            self._beside = files_of(self._ports).connect(self.path, readonly=True)
            set_reading(self._beside)
            harden(self._beside)
            self._known.read_types(self._beside)

    async def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            try:
                await worker.run(self._close_beside)
            finally:
                await worker.close()

    def _close_beside(self) -> None:
        connection, self._beside = self._beside, None
        if connection is not None:
            try:
                self._close_cold(connection)
            finally:
                connection.close()

    @property
    def _is_entered(self) -> bool:
        return True

    @property
    def _page_max(self) -> tuple[int, int]:
        return _BESIDE_EVENTS, _BESIDE_BYTES

    async def _own(self, call: Callable[..., T], *args: Any) -> T:
        assert self._worker is not None, "it is used inside `async with`"
        return await self._worker.run(lambda: call(self._beside, *args))

    async def _on_writer(self, call: Callable[..., T], *args: Any) -> T:
        return await self._store._on_writer(call, *args)

    def _keep(self, connection: Any, change: Callable[[Any], T]) -> T:
        return self._store._keep(connection, change)

    def _merge_if_large(self) -> None:
        merger = self._store._merger
        if merger is not None:
            merger.merge_if_large()

    def _let_move(self, connection: Any) -> None:
        """Do that for each page: between two, batches of the engine have the connection."""

    def _leave(self, connection: Any, page: Page, rule: ArchiveRule) -> None:
        """Remove a page in the writer's turn; the cold file is let go, which a batch would lock."""
        try:
            if (why := attach(connection)) is not None:
                raise StoreRefused(f"{why}. Nothing more was moved")
            super()._let_move(connection)
            super()._leave(connection, page, rule)
        finally:
            run(connection, "DROP TRIGGER IF EXISTS temp.events_only_move")
            guard(connection)
            detach(connection)

    def _shrink(self, connection: Any) -> bool:
        """Leave the file as large as it is: new events take the room."""
        return not run(connection, "SELECT 1 FROM archives WHERE shrunk = 0 LIMIT 1")
