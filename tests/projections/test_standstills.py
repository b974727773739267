"""Failures that are noted for others while a projector stands still."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.stores.sqlite.outside.operations import SqliteOperations
from tests.projections.asking import asked, filled, tables
from tests.support.sums import AILING, FOLDED, add, sums
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    AILING.clear()
    FOLDED.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def standstills(path: Path) -> list[tuple[int, str]]:
    with SqliteOperations(str(path), readonly=True) as outside:
        found = outside.look().standstills
    return [(s.failure.position, s.failure.cause.splitlines()[-1].strip()) for s in found]


async def until_noted(path: Path, expected: list[tuple[int, str]]) -> None:
    await until(lambda: standstills(path) == expected)


async def test_a_failure_is_noted_while_its_projector_stands_still(path: Path) -> None:
    AILING.add("b")
    async with filled("stopping", path, "a") as engine:
        await add(engine, "b", "b")
        await until_noted(path, [(2, "ValueError")])
        AILING.clear()
        await engine.projections.resume("sums")
        await until_noted(path, [])
        assert await sums(engine, at=3) == {"a": 1, "b": 2}


async def test_a_failure_stays_noted_at_rest_and_goes_with_the_next_start(path: Path) -> None:
    AILING.add("b")
    async with filled("stopping", path, "a") as engine:
        await add(engine, "b")
        await until_noted(path, [(2, "ValueError")])
    assert standstills(path) == [(2, "ValueError")]
    AILING.clear()
    async with filled("stopping", path) as engine:
        assert await sums(engine, at=2) == {"a": 1, "b": 1}
        assert standstills(path) == []


async def test_a_failure_goes_with_its_build(path: Path) -> None:
    AILING.add("b")
    async with filled("stopping", path, "a") as engine:
        await add(engine, "b")
        await until_noted(path, [(2, "ValueError")])
        await engine.projections.rebuild("sums")
        await until_noted(path, [(2, "ValueError")] * 2)
        await engine.projections.cancel("sums")

        assert standstills(path) == [(2, "ValueError")]


async def test_a_file_from_before_there_were_requests_is_brought_along(path: Path) -> None:
    async with filled("stopping", path, "a", "b"):
        pass
    tables(
        path,
        "DROP TABLE requests",
        "DROP TABLE failures",
        "ALTER TABLE builds DROP COLUMN builder",
        "ALTER TABLE builds DROP COLUMN own",
    )
    FOLDED.clear()
    async with filled("stopping", path) as engine:
        assert (await asked(path, "pause"))[0] == "done"
        assert await sums(engine) == {"a": 1, "b": 1}
        assert FOLDED == []
