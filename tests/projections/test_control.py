"""What other processes ask of an engine: noticed, done once, in order, and answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import (
    Engine,
    InvalidInput,
    Limits,
    Overloaded,
    Ports,
    StoreRefused,
    Table,
    UsageError,
)
from engine.errors import Closed, StoreFailed
from engine.projections.control import _ACTS
from engine.projections.operations import Status
from engine.runtime.ports import CONTROL_FAILPOINTS
from engine.stores.contract.requests import (
    ANSWER_CHARACTERS_MAX,
    KINDS,
    REQUESTS_KEPT,
    REQUESTS_OPEN_MAX,
    Arguments,
    Request,
)
from engine.stores.sqlite.outside.operations import SqliteOutside
from tests.support.counters import Counter
from tests.support.faults import FaultyVfs, VfsFiles
from tests.support.sums import AILING, FOLDED, Stopping, Sum, add, summing, sums


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    AILING.clear()
    FOLDED.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@asynccontextmanager
async def filled(
    release: str, path: Path, *counters: str, **options: Any
) -> AsyncGenerator[Engine]:
    async with summing(release, f"sqlite:{path}", **options) as engine:
        if counters:
            await sums(engine, at=await add(engine, *counters))
        yield engine


def ask(path: Path, kind: str, name: str = "sums", **arguments: Any) -> int:
    with SqliteOutside(str(path)) as outside:
        return outside.ask(kind, name, Arguments(**arguments))


def request(path: Path, number: int) -> Request:
    with SqliteOutside(str(path), readonly=True) as outside:
        return outside.request(number)


async def eventually(condition: Callable[[], bool]) -> None:
    """Return when a condition holds that other threads make true."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def answered(path: Path, number: int) -> Request:
    """Wait for an answer."""
    await eventually(lambda: request(path, number).answered is not None)
    return request(path, number)


async def asked(path: Path, kind: str, **arguments: Any) -> tuple[str, str]:
    """Ask from outside and wait for the answer."""
    found = await answered(path, ask(path, kind, **arguments))
    return found.state, found.answer


def tables(path: Path, *statements: str) -> list[Any]:
    """Do something to the views' file behind everybody's back."""
    with closing(apsw.Connection(str(path.with_suffix(".views.db")))) as connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


async def status(engine: Engine) -> Status:
    return await engine.projections.status("sums")


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
        await eventually(lambda: engine.statistics().projectors["sums"].building is None)
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
        (decision,) = await engine.projections.decisions("sums")
        assert (decision.kind, decision.position, decision.reason) == ("skip", 2, "a test")


# -- refusals and failures --------------------------------------------------------------------


async def test_a_refusal_is_an_answer_and_changes_nothing(path: Path) -> None:
    async with filled("parking", path, "a") as engine:
        for kind, arguments, why in (
            ("cancel", {}, "is not being rebuilt"),
            ("skip", {"position": 1, "reason": "why not"}, "nothing was skipped"),
            ("skip", {"position": 1}, "say it"),
        ):
            state, text = await asked(path, kind, **arguments)
            assert state == "refused"
            assert why in text

        assert await engine.projections.decisions("sums") == []


async def test_the_gate_is_asked_with_the_principal_of_the_request(path: Path) -> None:
    questions: list[tuple[str | None, str, object]] = []

    def authorize(principal: str | None, action: str, message: object) -> bool:
        if action == "control":
            questions.append((principal, action, message))
        return action != "control" or len(questions) > len(KINDS)

    async with filled("parking", path, "a", authorize=authorize) as engine:
        for kind in KINDS:
            state, text = await asked(path, kind, position=1, reason="r")
            assert (state, text.partition(":")[0]) == (
                "refused",
                "authorize does not let this principal control sums. Nothing was run or read.",
            )
        assert (await asked(path, "pause"))[0] == "done"

        assert len(questions) == len(KINDS) + 1
        assert {(p or "")[:4] for p, _, _ in questions} == {"cli:"}
        assert {question[1:] for question in questions} == {("control", "sums")}
        assert [d.kind for d in await engine.projections.decisions("sums")] == ["pause"]


async def test_a_request_whose_arguments_cannot_be_read_is_refused(path: Path) -> None:
    async with filled("parking", path, "a"):
        tables(
            path,
            "INSERT INTO requests VALUES (1, 'pause', 'sums', '{', 1, NULL, 'waiting', '', NULL)",
        )
        assert (await answered(path, 1)).state == "refused"


STRANGE = {
    "a kind of a later release": "'explode', 'sums', '{}', 1, NULL",
    "a kind that is no text": "CAST(x'ff' AS TEXT), 'sums', '{}', 1, NULL",
    "a name that is no text": "'pause', CAST(x'ff' AS TEXT), '{}', 1, NULL",
    "a name that is not there": "'pause', 'orders', '{}', 1, NULL",
    "arguments that are no text": "'pause', 'sums', CAST(x'ff' AS TEXT), 1, NULL",
    "arguments that are a list": "'pause', 'sums', '[]', 1, NULL",
    "a position that is a word": """'skip', 'sums', '{"reason":"r","position":"2"}', 1, NULL""",
    "a position beyond 64 bits": (
        f"""'skip', 'sums', '{{"reason":"r","position":{2**63}}}', 1, NULL"""
    ),
    "a position far beyond": f"""'skip', 'sums', '{{"reason":"r","position":{10**25}}}', 1, NULL""",
    "a position below 1": """'skip', 'sums', '{"reason":"r","position":0}', 1, NULL""",
    "no position": """'skip', 'sums', '{"reason":"r"}', 1, NULL""",
    "a position behind the log": """'skip', 'sums', '{"reason":"r","position":99}', 1, NULL""",
    "a reason with half a character": """'pause', 'sums', '{"reason":"\\udce9"}', 1, NULL""",
    "a principal that is no text": "'cancel', 'sums', '{}', -1, CAST(x'ff' AS TEXT)",
}


@pytest.mark.parametrize("at_rest", [False, True], ids=["running", "at rest"])
@pytest.mark.parametrize("row", STRANGE.values(), ids=STRANGE.keys())
async def test_a_request_that_nobody_understands_is_refused_and_blocks_none(
    path: Path, row: str, at_rest: bool
) -> None:
    columns = "kind, projection, arguments, asked, principal, state, answer"
    plant = f"INSERT INTO requests({columns}) VALUES ({row}, 'waiting', '')"
    async with filled("parking", path, "a") as engine:
        if not at_rest:
            tables(path, plant)
            assert (await asked(path, "pause"))[0] == "done"
            assert engine.failed is None
    if at_rest:
        tables(path, plant)
        with SqliteOutside(str(path)) as outside:
            number = outside.ask("pause", "sums", Arguments())
            assert outside.do_at_rest()
            assert outside.request(number).state == "done"
    found = request(path, 1)
    assert (found.state, found.answered is None) == ("refused", False)


@pytest.mark.parametrize("position", [0, -1, 2**63, 10**30, True])
async def test_a_position_that_is_none_is_refused_before_it_is_asked_for(
    path: Path, position: int
) -> None:
    async with filled("parking", path, "a") as engine:
        with pytest.raises(UsageError, match="is no position of an event"):
            ask(path, "skip", position=position, reason="r")
        with pytest.raises(InvalidInput, match="is no position of an event"):
            await engine.projections.skip("sums", position, reason="r")
        with pytest.raises(UsageError, match="half of a character"):
            ask(path, "pause", reason="\udce9")


async def test_what_is_wrong_with_a_call_is_typed_and_changes_nothing() -> None:
    async with summing("parking") as engine:
        projections = engine.projections
        await sums(engine, at=await add(engine, "a"))
        for call in (
            lambda: projections.pause("sums", reason="\ud800"),
            lambda: projections.resume("sums", principal="\ud800"),
            lambda: projections.reset("sums", reason=7),  # type: ignore[arg-type]
            lambda: projections.retry("sums", key="\ud800"),
            lambda: projections.parked("sums", after=-1),
            lambda: projections.parked("sums", limit=2**64),
            lambda: projections.skip("sums", "2", reason="r"),  # type: ignore[arg-type]
            lambda: projections.skip("sums", 1, reason="it is in the tables"),
            lambda: projections.drop(["sums"]),  # type: ignore[arg-type]
            lambda: projections.status("x" * 1_000),
            lambda: projections.cancel("sums"),
        ):
            with pytest.raises(UsageError):
                await call()
        for _ in range(2):
            await projections.pause("sums")
            assert await projections.drop("sums") == []
        for _ in range(2):
            await projections.resume("sums")
        assert {d.kind for d in await projections.decisions("sums")} == {"pause", "resume"}
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2}


async def test_an_answer_that_is_no_text_is_written_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(*_: object) -> str:
        raise UsageError("half: \udce9")

    monkeypatch.setitem(_ACTS, "reset", act)
    async with filled("stopping", path, "a") as engine:
        assert await asked(path, "reset") == ("refused", "half: \\udce9")
        assert engine.failed is None


# -- views that are damaged -----------------------------------------------------------------------


async def test_a_damaged_row_is_named_and_a_reset_mends_it(path: Path) -> None:
    async with filled("stopping", path, "a", "b"):
        pass
    tables(path, "UPDATE \"sums_rows:1\" SET counter = CAST(x'ff' AS TEXT) WHERE counter = 'b'")
    async with filled("stopping", path) as engine:
        with pytest.raises(StoreRefused, match=r"no UTF-8.*projections reset"):
            await sums(engine)
        assert (await asked(path, "reset"))[0] == "done"
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2, "b": 1}


async def test_a_damaged_list_of_tables_is_named_at_the_start(path: Path) -> None:
    async with filled("stopping", path, "a"):
        pass
    tables(path, "UPDATE builds SET tables = substr(tables, 2)")
    with pytest.raises(StoreRefused, match=r"the table builds of the views is damaged"):
        async with filled("stopping", path):
            pass
    path.with_suffix(".views.db").unlink()
    async with filled("stopping", path) as engine:
        assert await sums(engine, at=1) == {"a": 1}


async def test_what_is_parked_and_damaged_stops_its_projection_alone(path: Path) -> None:
    AILING.add("b")
    async with filled("parking", path, "a", "b"):
        pass
    tables(path, "UPDATE parked SET key = CAST(x'ff' AS TEXT)")
    AILING.clear()
    async with filled("parking", path) as engine:
        await eventually(lambda: engine.statistics().projectors["sums"].state == "stopped")
        failure = (await status(engine)).failure
        assert failure is not None
        assert "the table parked of the views is damaged" in failure.cause
        assert (await asked(path, "reset"))[0] == "done"
        assert await sums(engine, at=await add(engine, "b")) == {"a": 1, "b": 2}


# -- names --------------------------------------------------------------------------------------


async def test_a_projection_under_another_name_is_told_of_at_the_start(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Renamed(Stopping, name="totals"):
        rows: Table[Sum]

    async with filled("stopping", path, "a"):
        pass
    assert "declared by nobody" not in caplog.text
    async with Engine([Counter], projections=[Renamed], store=f"sqlite:{path}"):
        pass
    assert "projections totals have no tables in " in caplog.text
    assert "and those of sums are there and declared by nobody" in caplog.text


async def test_what_fails_in_a_way_that_nobody_foresaw_is_unknown_and_the_engine_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(*_: object) -> str:
        raise RuntimeError("a secret")

    monkeypatch.setitem(_ACTS, "reset", act)
    async with filled("stopping", path, "a") as engine:
        state, text = await asked(path, "reset")
        assert (state, "RuntimeError" in text, "secret" in text) == ("unknown", True, False)
        assert (await asked(path, "pause"))[0] == "done"
        assert engine.failed is None


async def test_a_name_that_is_not_there_is_refused_before_it_is_asked_for(path: Path) -> None:
    async with filled("stopping", path, "a"):
        with pytest.raises(UsageError, match=r"no projection 'orders' in .*; there are \['sums'\]"):
            ask(path, "pause", "orders")

    assert tables(path, "SELECT count(*) FROM requests") == [(0,)]


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
        await eventually(lambda: vfs.calls.count("write log.views.db-wal") > 1)
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


# -- what stands still ------------------------------------------------------------------------


def standstills(path: Path) -> list[tuple[int, str]]:
    with SqliteOutside(str(path), readonly=True) as outside:
        found = outside.look().standstills
    return [(s.failure.position, s.failure.cause.splitlines()[-1].strip()) for s in found]


async def until_noted(path: Path, expected: list[tuple[int, str]]) -> None:
    await eventually(lambda: standstills(path) == expected)


async def test_a_failure_is_noted_while_its_projector_stands_still(path: Path) -> None:
    AILING.add("b")
    async with filled("stopping", path, "a") as engine:
        await add(engine, "b", "b")
        await until_noted(path, [(2, "ValueError")])
        AILING.clear()
        engine.resume("sums")
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
