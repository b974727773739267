"""Files to flip bits in: a log at rest, one as a killed process leaves it, one that is archived.

Rules: they have events, keys, claims, snapshots, rows, decisions and parked events. A backup is
among them, and a cold file with most of the events of its log.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import apsw

from engine.runtime.ports import Ports
from engine.stores.contract.archiving import ArchiveRule
from engine.stores.sqlite.connection import run
from engine.stores.sqlite.log.archiving import SqliteArchiver
from tests.backups.made import append, backed_up
from tests.outside.copied import boards, filled

__all__ = ["Files", "given"]

Files = dict[str, list[Path]]
"""By what they are; the log's file first."""
CLOSED = ArchiveRule("board", ("pinned",), 1 << 60)


async def given(folder: Path) -> Files:
    """Make them."""
    rest, left = folder / "rest.db", folder / "left.db"
    store = f"sqlite:{rest}"
    async with boards(store) as engine:
        await filled(engine)
        await engine.projections.pause("counts", reason="for a test", principal="ann")
        await engine.projections.resume("counts", reason="for a test")
        for source, target in (("rest", "left"), ("rest.views", "left.views")):
            for ending in ("", "-wal"):
                shutil.copy(folder / f"{source}.db{ending}", folder / f"{target}.db{ending}")
    await append(store, 3, metadata=b'{"claims":[["name","x"]]}', stream="late:1")
    with closing(apsw.Connection(str(rest))) as connection:
        run(connection, "INSERT INTO claims SELECT 'name', 'x', max(number), 25 FROM streams")
    backed_up(store, folder / "backup", segment_events=14)
    cold = folder / "cold.db"
    shutil.copy(rest, cold)
    async with SqliteArchiver(str(cold), Ports()) as archiver:
        await archiver.archive(CLOSED, lambda _moved, _events: None)
    return {
        "rest": [rest, folder / "rest.views.db"],
        "left": [left, Path(f"{left}-wal"), folder / "left.views.db"],
        "cold": [cold, folder / "cold.archive.db"],
        "backup": sorted((folder / "backup").glob("*[!k]")),
    }
