"""A log in a file, and what stands about it in the file of its views, to be copied elsewhere.

Rules: both are only read, while their engine runs or not; what is read of the views is of one
moment. Nothing in either file is run. Calls block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Final

import apsw

from ....model.stored import Snapshot
from ...contract.builds import sinks_of
from ...contract.claims import HeldClaim
from ...contract.copying import Carried, Repaired, foreign_views
from ...contract.log import Head
from ...contract.timers import WaitingTimer
from ..connection import check_order, failures, run, set_reading, snapshot, unreadable
from ..files import Files
from ..log.claims import read_claims
from ..log.heads import read_head
from ..log.repairs import read_repairs
from ..log.timers import read_timers
from ..shape import harden
from ..views.builds import check_file, read_builds
from ..views.parked import read_decisions, read_parked
from ..views.requests import all_requests
from .log import SqliteLogReader

__all__ = ["SqliteCopySource"]

_ALL: Final = 2**63 - 1
_PAGE: Final = 2_000
_THERE: Final = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"
_SNAPSHOTS: Final = (
    "SELECT stream, version, position, checksum, snapshot_version, state FROM snapshots "
    "WHERE stream > ? ORDER BY stream LIMIT ?"
)


class SqliteCopySource:
    """The log in the file `path`, and its views in the file `views`."""

    def __init__(self, path: str, views: str, files: Files, *, damaged: bool) -> None:
        self._path = path
        self._views = views
        self._files = files
        self._connection: Any = None
        self.log = SqliteLogReader(path, files, damaged=damaged)
        """The log, open inside of `with`."""

    def __enter__(self) -> SqliteCopySource:
        """Open the log."""
        self.log.open()
        try:
            with unreadable(self._path):
                self._connection = self._files.connect(self._path, readonly=True)
                set_reading(self._connection)
                harden(self._connection)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        self.log.close()
        if connection is not None:
            connection.close()

    def is_in_use(self) -> bool:
        """Tell whether an engine has the log open."""
        return self._files.is_locked(self._path + ".lock") or self._files.is_held(self._path)

    def moment(
        self,
        keep_claims: Callable[[Sequence[HeldClaim]], None],
        keep_timers: Callable[[Sequence[WaitingTimer]], None],
    ) -> Head:
        """Give the end of the log, and all claims and timers."""
        connection = self._connection
        with unreadable(self._path), snapshot(connection):
            head = read_head(connection)
            after = ("", "") if run(connection, _THERE, ("claims",)) else None
            while after is not None and (page := read_claims(connection, after, _PAGE)):
                keep_claims(page)
                after = (page[-1].name, page[-1].value)
            behind = ("", "") if run(connection, _THERE, ("timers",)) else None
            while behind is not None and (timers := read_timers(connection, behind, _PAGE)):
                keep_timers(timers)
                behind = timers[-1].key
            return head

    def snapshots(self, after: str, limit: int) -> Sequence[Snapshot]:
        """Give snapshots in the order of their streams."""
        with unreadable(self._path):
            page = [Snapshot(*row) for row in run(self._connection, _SNAPSHOTS, (after, limit))]
            check_order([found.stream for found in page], after, "snapshots")
            return page

    def repairs(self) -> Sequence[Repaired]:
        """Give what was repaired in this log."""
        with unreadable(self._path):
            return read_repairs(self._connection)

    def carried(self) -> Carried | None:
        """Give what goes along; None where there are no views."""
        if self._files.size(self._views) == 0:
            return None
        with (
            failures(self._views, "read", refused=True),
            closing(self._files.connect(self._views, readonly=True)) as connection,
        ):
            set_reading(connection)
            harden(connection)
            return self._carried(connection)

    def _carried(self, connection: apsw.Connection) -> Carried:
        log_id = check_file(connection, self._views)
        if log_id != self.log.log_id:
            raise foreign_views(self._path, log_id, self.log.log_id)
        with snapshot(connection):
            sinks, folded = sinks_of(read_builds(connection))
            return Carried(
                read_decisions(connection, None),
                all_requests(connection),
                sinks,
                {
                    sink.projection: read_parked(
                        connection, sink.projection, sink.number, None, 0, _ALL
                    )
                    for sink in sinks
                },
                folded,
            )
