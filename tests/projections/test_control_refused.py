"""What other processes ask and is refused: strange requests, damaged views, unknown names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Engine, InvalidInput, StoreRefused, Table, UsageError
from engine.projections.control import _ACTS
from engine.stores.contract.requests import KINDS, TIMER_KINDS, Arguments
from engine.stores.sqlite.outside.operations import SqliteOperations
from tests.projections.asking import answered, ask, asked, filled, request, status, tables
from tests.support.counters import Counter
from tests.support.sums import AILING, FOLDED, Stopping, Sum, add, summing, sums
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    AILING.clear()
    FOLDED.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


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
    kinds = [kind for kind in KINDS if kind not in TIMER_KINDS]
    questions: list[tuple[str | None, str, object]] = []

    def authorize(principal: str | None, action: str, message: object) -> bool:
        if action == "control":
            questions.append((principal, action, message))
        return action != "control" or len(questions) > len(kinds)

    async with filled("parking", path, "a", authorize=authorize) as engine:
        for kind in kinds:
            state, text = await asked(path, kind, position=1, reason="r")
            assert (state, text.partition(":")[0]) == (
                "refused",
                "authorize does not let this principal control sums. Nothing was run or read.",
            )
        assert (await asked(path, "pause"))[0] == "done"

        assert len(questions) == len(kinds) + 1
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
        with SqliteOperations(str(path)) as outside:
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
        await until(lambda: engine.statistics().projectors["sums"].state == "stopped")
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
