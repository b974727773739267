"""Projections at run time: paused, reset, asked for by the gate, of a former schema."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import (
    Forbidden,
    ProjectionLag,
    UsageError,
)
from tests.projections.summing import (
    SEEN,
    Kind,
    Sliced,
    Stopping,
    add,
    filled,
    status,
    summing,
    sums,
)
from tests.support.waiting import until

# -- pause and reset ------------------------------------------------------------------------------


async def test_a_paused_projection_rests_over_a_restart_until_it_is_resumed(
    kind: Kind, file: str
) -> None:
    async with filled(kind.stopping, file, "a") as engine:
        await engine.projections.pause("sums", reason="a migration", principal="ann")
        position = await add(engine, "a")
        with pytest.raises(ProjectionLag, match="paused"):
            await sums(engine, at=position)
    async with summing(kind.stopping, file) as engine:
        with pytest.raises(ProjectionLag, match="paused"):
            await sums(engine, at=position)
        await engine.projections.resume("sums")

        assert await sums(engine, at=position) == {"a": 2}
    async with summing(kind.stopping, file) as engine:
        assert await sums(engine, at=position) == {"a": 2}
        await until(lambda: engine.statistics().projectors["sums"].state == "live")


async def test_pausing_twice_and_resuming_twice_does_no_harm(kind: Kind, url: str) -> None:
    async with filled(kind.stopping, url, "a") as engine:
        for _ in range(2):
            await engine.projections.pause("sums")
        assert (await status(engine)).state == "paused"
        for _ in range(2):
            await engine.projections.resume("sums")

        assert await sums(engine, at=await add(engine, "a")) == {"a": 2}


async def test_reset_folds_everything_again_once(kind: Kind, url: str) -> None:
    async with filled(kind.stopping, url, "a", "b", "a") as engine:
        SEEN.clear()
        await engine.projections.reset("sums", reason="to be sure")

        assert await sums(engine, at=3) == {"a": 2, "b": 1}
        assert len(SEEN) == 3
        assert [d.kind for d in await engine.projections.decisions("sums")] == ["reset"]


async def test_reset_while_events_come_in_counts_each_once(url: str) -> None:
    async with filled(Sliced, url, "a", "b") as engine:
        adding = asyncio.ensure_future(add(engine, *[f"c{n % 7}" for n in range(200)]))
        for _ in range(5):
            await engine.projections.reset("sums")
        position = await adding

        assert sum((await sums(engine, at=position)).values()) == 202


# -- files, gate ----------------------------------------------------------------------------------


async def test_views_of_the_first_schema_are_brought_to_todays(tmp_path: Path) -> None:
    url, path = f"sqlite:{tmp_path / 'log.db'}", tmp_path / "log.views.db"
    async with filled(Stopping, url, "a", "b"):
        pass
    _to_the_first_schema(path)
    SEEN.clear()
    async with summing(Stopping, url) as engine:
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2, "b": 1}
        assert list(SEEN) == [("a", 3)], "nothing is folded again"


def _to_the_first_schema(path: Path) -> None:
    connection = apsw.Connection(str(path))
    (row,) = connection.execute(
        "SELECT projection, version, definition, position, checksum, log_id, tables "
        "FROM builds JOIN checkpoints USING (projection)"
    ).fetchall()
    for statement in (
        "DROP VIEW sums_rows",
        'ALTER TABLE "sums_rows:1" RENAME TO sums_rows',
        "DROP TABLE builds",
        "DROP TABLE parked",
        "DROP TABLE decisions",
        "DROP TABLE requests",
        "DROP TABLE failures",
        "DROP TABLE checkpoints",
        (
            "CREATE TABLE checkpoints (projection TEXT PRIMARY KEY, version INTEGER NOT NULL, "
            "definition TEXT NOT NULL, position INTEGER NOT NULL, checksum INTEGER NOT NULL, "
            "log_id TEXT NOT NULL, tables TEXT NOT NULL) STRICT, WITHOUT ROWID"
        ),
        "UPDATE views_meta SET schema_version = 1",
    ):
        connection.execute(statement).fetchall()
    connection.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?)", row).fetchall()
    connection.close()


async def test_control_asks_the_gate(url: str) -> None:
    asked: list[tuple[str | None, str, object]] = []

    def authorize(principal: str | None, action: str, message: object) -> bool:
        asked.append((principal, action, message))
        return action != "control" or principal == "ann"

    async with summing(Stopping, url, authorize=authorize) as engine:
        control = engine.projections
        calls: Sequence[Any] = [
            lambda p: control.list(principal=p),
            lambda p: control.pause("sums", principal=p),
            lambda p: control.resume("sums", principal=p),
            lambda p: control.reset("sums", principal=p),
            lambda p: control.rebuild("sums", principal=p),
            lambda p: control.drop("sums", principal=p),
            lambda p: control.parked("sums", principal=p),
            lambda p: control.retry("sums", principal=p),
            lambda p: control.decisions("sums", principal=p),
        ]
        for call in calls:
            with pytest.raises(Forbidden):
                await call("bob")
            await call("ann")
        with pytest.raises(Forbidden):
            await control.skip("sums", 1, reason="no", principal="bob")
        with pytest.raises(Forbidden):
            await control.cancel("sums", principal="bob")
        with pytest.raises(UsageError, match=r"no projection 'sum' here; there are \['sums'\]"):
            await control.pause("sum", principal="ann")

    assert ("bob", "control", "sums") in asked
