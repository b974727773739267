"""What other processes ask of an engine: noticed, done once, in order, and answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import Limits, Overloaded, Ports
from engine.errors import Closed, StoreFailed
from engine.projections.control import _ACTS
from engine.runtime.ports import CONTROL_FAILPOINTS
from engine.stores.contract.requests import ANSWER_CHARACTERS_MAX, REQUESTS_KEPT, REQUESTS_OPEN_MAX
from tests.projections.asking import answered, ask, asked, filled, request, status, tables
from tests.support.faults import FaultyVfs, VfsFiles
from tests.support.sums import AILING, FOLDED, add, summing, sums
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    AILING.clear()
    FOLDED.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


# -- each kind --------------------------------------------------------------------------------


async def test_pausing_and_resuming_from_outside(path: Path) -> None:
    async with filled("stopping", path, "a") as engine:
        assert await asked(path, "pause", reason="a move") == (
            "done",
            "it rests until it is resumed",
        )
        assert (await status(engine)).state == "paused"
        assert await asked(path, "resume", reason="moved") == ("done", "it goes on")
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2}

        decisions = await engine.projections.decisions("sums")
        assert [(d.kind, d.reason) for d in decisions] == [("pause", "a move"), ("resume", "moved")]
        assert {(d.principal or "").partition(":")[0] for d in decisions} == {"cli"}


async def test_resetting_from_outside(path: Path) -> None:
    async with filled("stopping", path, "a", "b", "a") as engine:
        FOLDED.clear()
        assert (await asked(path, "reset"))[0] == "done"

        assert await sums(engine, at=3) == {"a": 2, "b": 1}
        assert sorted(set(FOLDED)) == [1, 2, 3]


async def test_rebuilding_and_dropping_from_outside(path: Path) -> None:
    async with filled("stopping", path, "a", "b") as engine:
        assert (await asked(path, "rebuild", reason="for luck"))[0] == "done"
        await until(lambda: engine.statistics().projectors["sums"].building is None)
        assert await asked(path, "drop") == ("done", "former builds that are dropped: 1")
        assert await asked(path, "drop") == ("done", "there is no former build to drop")

        kinds = [(d.kind, d.reason) for d in await engine.projections.decisions("sums")]
        assert kinds == [("rebuild", "for luck"), ("swap", ""), ("drop", "")]


async def test_cancelling_from_outside(path: Path) -> None:
    async with filled("stopping", path, "a") as engine:
        await asked(path, "pause")
        await asked(path, "rebuild")
        assert await asked(path, "cancel") == (
            "done",
            "build 2, version 1, is given up and dropped",
        )
        assert (await asked(path, "cancel"))[0] == "refused"

        assert [b.number for b in (await status(engine)).builds] == [1]


async def test_retrying_from_outside(path: Path) -> None:
    AILING.update("bc")
    async with filled("parking", path, "a", "b", "b", "c") as engine:
        AILING.remove("b")
        text = "events that are in the tables now: {}"
        failed = "; keys whose first event failed again: 1, at 4"
        assert await asked(path, "retry", key="counter:b") == ("done", text.format(2))
        assert await asked(path, "retry") == ("done", text.format(0) + failed)

        assert await sums(engine) == {"a": 1, "b": 2}


async def test_skipping_from_outside(path: Path) -> None:
    AILING.add("b")
    async with filled("parking", path, "a", "b", "b") as engine:
        assert (await asked(path, "skip", position=2, reason="a test"))[0] == "done"
        AILING.clear()
        await asked(path, "retry")

        assert await sums(engine) == {"a": 1, "b": 1}
        decisions = await engine.projections.decisions("sums")
        found = [(one.kind, one.position, one.reason) for one in decisions]
        assert sorted(found) == [("retry", None, ""), ("skip", 2, "a test")]


# -- once, in order ---------------------------------------------------------------------------


async def test_requests_are_done_in_the_order_asked(path: Path) -> None:
    async with filled("stopping", path, "a", limits=Limits(control_poll_ms=0)):
        numbers = [ask(path, kind) for kind in ("pause", "reset", "resume", "pause", "resume")]
    async with filled("stopping", path) as engine:
        assert [(await answered(path, number)).state for number in numbers] == ["done"] * 5

        decisions = await engine.projections.decisions("sums")
        assert [d.kind for d in decisions] == ["pause", "reset", "resume", "pause", "resume"]


async def test_with_a_poll_of_0_nothing_is_done(path: Path) -> None:
    async with filled("stopping", path, "a", limits=Limits(control_poll_ms=0)) as engine:
        number = ask(path, "pause")
        for _ in range(20):
            await sums(engine, at=await add(engine, "a"))

        assert request(path, number).state == "waiting"
        assert (await status(engine)).state == "live"


@pytest.mark.parametrize("kind", ["reset", "retry", "pause"])
async def test_what_a_former_engine_has_begun_is_not_done_again(path: Path, kind: str) -> None:
    async with filled("parking", path, "a", limits=Limits(control_poll_ms=0)):
        number = ask(path, kind)
        tables(path, "UPDATE requests SET state = 'begun'")
    async with filled("parking", path) as engine:
        found = await answered(path, number)

        assert (found.state, "ask again" in found.answer) == ("unknown", True)
        assert await engine.projections.decisions("sums") == []


async def test_a_request_is_marked_before_it_is_done_and_answered_after(path: Path) -> None:
    seen: list[tuple[str, str, int]] = []

    def failpoint(name: str) -> None:
        if name in CONTROL_FAILPOINTS:
            decided = tables(path, "SELECT count(*) FROM decisions")[0][0]
            seen.append((name, request(path, 1).state, decided))

    async with filled("stopping", path, "a", ports=Ports(failpoint=failpoint)):
        await asked(path, "pause")

    assert seen == [("control.begun", "begun", 0), ("control.done", "begun", 1)]


async def test_what_an_engine_that_stops_has_not_decided_waits_for_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Event()

    async def act(*_: object) -> str:
        tried.set()
        raise Closed("the engine is not running: nothing was decided")

    with monkeypatch.context() as patch:
        patch.setitem(_ACTS, "pause", act)
        async with filled("stopping", path, "a"):
            number = ask(path, "pause")
            await asyncio.wait_for(tried.wait(), 10)
    assert request(path, number).state == "waiting"
    async with filled("stopping", path) as engine:
        assert (await answered(path, number)).state == "done"
        assert (await status(engine)).state == "paused"


async def test_an_answer_that_cannot_be_written_is_written_later_and_nothing_done_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with filled("stopping", path, "a") as engine:
        failures = [StoreFailed("not just now", written=False)] * 3
        write = engine._views.answer_request

        async def answer_request(*args: Any) -> None:
            if failures:
                raise failures.pop()
            await write(*args)

        monkeypatch.setattr(engine._views, "answer_request", answer_request)
        assert (await asked(path, "pause"))[0] == "done"
        assert failures == []
        assert [d.kind for d in await engine.projections.decisions("sums")] == ["pause"]


async def test_views_that_cannot_be_written_keep_requests_waiting_and_the_engine_alive(
    path: Path,
) -> None:
    vfs = FaultyVfs()
    async with filled("stopping", path, "a", ports=Ports(files=VfsFiles(vfs.name))) as engine:
        vfs.faults["write log.views.db-wal"] = apsw.SQLITE_IOERR
        vfs.calls.clear()
        number = ask(path, "pause")
        await until(lambda: vfs.calls.count("write log.views.db-wal") > 1)
        assert request(path, number).state == "waiting"
        vfs.faults.clear()

        assert (await answered(path, number)).state == "done"
        assert engine.failed is None


# -- bounds -----------------------------------------------------------------------------------


async def test_the_last_requests_are_kept_and_no_number_comes_twice(path: Path) -> None:
    async with filled("stopping", path, "a"):
        pass
    many = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1500) "
    tables(
        path,
        many + "INSERT INTO requests SELECT n, 'pause', 'sums', '{}', 1, NULL, "
        "iif(n = 3, 'waiting', 'done'), '', iif(n = 3, NULL, 1) FROM n",
    )
    number = ask(path, "pause")

    kept = [n for (n,) in tables(path, "SELECT number FROM requests ORDER BY number")]
    assert number == 1_501
    assert kept == [3, *range(number - REQUESTS_KEPT + 1, number + 1)]


async def test_only_so_many_requests_wait(path: Path) -> None:
    async with filled("stopping", path, "a", limits=Limits(control_poll_ms=0)):
        for _ in range(REQUESTS_OPEN_MAX):
            ask(path, "pause")
        with pytest.raises(Overloaded, match="nothing more was asked for"):
            ask(path, "pause")


async def test_a_long_answer_is_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(*_: object) -> str:
        return "x" * 5_000

    monkeypatch.setitem(_ACTS, "reset", act)
    async with filled("stopping", path, "a"):
        assert (await asked(path, "reset"))[1] == "x" * ANSWER_CHARACTERS_MAX


async def test_an_engine_in_memory_has_no_requests_and_looks_for_none() -> None:
    async with summing("stopping") as engine:
        assert await engine._views.change_count() is None
        assert await sums(engine, at=await add(engine, "a")) == {"a": 1}
