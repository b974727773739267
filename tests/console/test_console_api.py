"""What the console's API gives: numbers, projections, parked events, the log, states, the audit."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from engine import Engine, Rejected
from engine.integrations.console.endpoints import ENDPOINTS
from tests.console.consoling import (
    AILING,
    Fail,
    GetLine,
    Write,
    caught_up,
    console_of,
    notes,
)


@pytest.fixture(autouse=True)
def _well_again() -> Generator[None]:
    yield
    AILING.clear()


async def get(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(f"/api/v1/{path}", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    return answer.json()


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> Any:
    answer = await client.post(f"/api/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def parked(engine: Engine, count: int) -> None:
    """Write so many notes that are parked."""
    for n in range(count):
        AILING.add(f"bad-{n:05}")
    async for _ in engine.execute_many(Write(f"bad-{n:05}", f"text {n}") for n in range(count)):
        pass
    await caught_up(engine)


async def test_the_overview_has_what_was_done_and_what_waits(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        await engine.execute(Write("n-1", "one"))
        await engine.execute(Write("n-1", "two"))
        await engine.execute(Write("n-2", "three"))
        with pytest.raises(Rejected):
            await engine.execute(Fail("n-1"))
        await caught_up(engine)

        shown = await get(client, "overview")

    assert shown["state"] == "running"
    assert shown["position"] == 3
    answered = {name: count for name, count in shown["answers"].items() if count}
    assert answered == {"receipt": 3, "rejected": 1}
    assert shown["commands_open"] == 0
    assert shown["hot"] == [{"stream": "note:n-1", "count": 2}, {"stream": "note:n-2", "count": 1}]
    assert shown["hot_of"] == 3
    assert shown["timers_waiting"] == 2
    assert shown["lag_events"] == 0
    assert {each["name"] for each in shown["latencies"]} >= {"commit", "fold notes"}


async def test_an_overview_is_made_once_a_second_whoever_asks(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        first = await get(client, "overview")
        again = await get(client, "overview")

    assert first["now"] == again["now"]


async def test_a_projection_is_paused_and_resumed_with_who_and_why(tmp_path: Path) -> None:
    def principal_of(scope: Any) -> str:
        return "ops"

    async with notes(tmp_path) as engine, console_of(engine, principal_of=principal_of) as client:
        done = await post(client, "projections/pause", projection="notes", reason="a test")
        assert done["state"] == "done"
        [shown] = await get(client, "projections")
        assert shown["state"] == "paused"
        await post(client, "projections/resume", projection="notes", reason="go on")
        audit = await get(client, "audit")

    assert audit["total"] == 2
    assert [(e["action"], e["principal"], e["reason"]) for e in audit["entries"]] == [
        ("resume", "ops", "go on"),
        ("pause", "ops", "a test"),
    ]


async def test_a_rebuild_shows_its_progress_and_serves_in_the_end(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        await engine.execute(Write("n-1", "one"))
        await post(client, "projections/rebuild", projection="notes", reason="looks wrong")
        while (shown := (await get(client, "projections"))[0])["building"] is not None:
            assert shown["building"]["number"] == 2

        assert [(b["number"], b["state"]) for b in shown["builds"]] == [
            (1, "former"),
            (2, "serving"),
        ]
        done = await post(client, "projections/drop", projection="notes")
        assert "1" in done["text"]


async def test_parked_events_are_shown_retried_and_skipped(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        await parked(engine, 3)
        page = await get(client, "parked", projection="notes", limit=2)
        rest = await get(client, "parked", projection="notes", after=page[-1]["position"])
        assert [e["stream"] for e in (*page, *rest)] == [f"note:bad-{n:05}" for n in range(3)]
        assert "ValueError" in page[0]["cause"]

        AILING.discard("bad-00000")
        done = await post(client, "projections/retry", projection="notes", reason="mended")
        assert done["text"] == (
            "events that are in the tables now: 1; keys whose first event failed again: 2, at 2, 3"
        )
        await post(client, "projections/skip", projection="notes", position=2, reason="lost")
        [left] = await get(client, "parked", projection="notes")
        assert left["position"] == 3
        audit = await get(client, "audit")
        assert [(e["action"], e["reason"]) for e in audit["entries"]] == [
            ("skip", "lost"),
            ("retry", "mended"),
        ]
        assert await engine.query(GetLine("bad-00000")) is not None


@pytest.mark.parametrize("reason", ["", " "])
async def test_nothing_is_skipped_without_a_reason(tmp_path: Path, reason: str) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        await parked(engine, 1)
        body = {"projection": "notes", "position": 1, "reason": reason}
        answer = await client.post("/api/v1/projections/skip", json=body)

        assert answer.status_code == 422
        assert len(await engine.projections.parked("notes")) == 1


async def test_what_an_engine_refuses_is_told(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        for path, body in {
            "projections/cancel": {"projection": "notes"},
            "projections/pause": {"projection": "nobody"},
        }.items():
            answer = await client.post(f"/api/v1/{path}", json=body)
            assert answer.status_code == 409, answer.text
            assert answer.json()["code"] == "refused"
        assert "no projection 'nobody'" in answer.json()["detail"]


async def test_the_log_is_paged_from_its_end(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        for n in range(5):
            await engine.execute(Write(f"n-{n % 2}", f"text {n}"), correlation=f"c-{n % 2}")
        newest = await get(client, "log", limit=2)
        older = await get(client, "log", limit=3, before=newest["older"])

        assert [e["position"] for e in newest["events"]] == [5, 4]
        assert [e["position"] for e in older["events"]] == [3, 2, 1]
        assert older["older"] is None
        assert newest["end"] == 5
        assert newest["events"][0]["payload"] is None
        one = await get(client, "log", stream="note:n-1")
        assert [e["version"] for e in one["events"]] == [2, 1]
        found = await get(client, "log", correlation="c-1", kind="note", name="written")
        assert [e["position"] for e in found["events"]] == [4, 2]
        assert (await get(client, "log", kind="other"))["events"] == []
        shown = await get(client, "log", limit=1, payloads=True)
        assert shown["events"][0]["payload"] == {
            "author": "ann",
            "text": "text 4",
            "signature": "unsigned",
        }


async def test_a_wait_ends_with_the_next_event(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        waiting = asyncio.create_task(get(client, "log", after=0, wait=20))
        await asyncio.sleep(0)
        await engine.execute(Write("n-1", "one"))
        page = await waiting

        assert [e["position"] for e in page["events"]] == [1]
        assert (await get(client, "log", after=1, wait=0.01))["events"] == []


async def test_a_stream_of_events_is_seen_version_by_version(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        await engine.execute(Write("n-1", "one"))
        await engine.execute(Write("n-1", "two"))

        then = await get(client, "state", stream="note:n-1", version=1)
        now = await get(client, "state", stream="note:n-1")
        changes = await get(client, "difference", stream="note:n-1", before=1, after=2)

    assert then["state"]["text"] == "one"
    assert (now["version"], now["state"]["text"]) == (2, "two")
    assert changes == [
        {"path": "text", "before": '"one"', "after": '"two"'},
        {"path": "texts.two", "before": None, "after": "2"},
    ]


async def test_personal_data_of_who_was_erased_is_masked(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        await engine.execute(Write("n-1", "one", "ann", "Ann Smith"))
        before = await get(client, "log", payloads=True)
        await engine.personal.erase("ann", reason="asked to", principal="dpo")
        after = await get(client, "log", payloads=True)
        state = await get(client, "state", stream="note:n-1")
        audit = await get(client, "audit")

    assert before["events"][0]["payload"]["signature"] == "Ann Smith"
    assert after["events"][0]["payload"]["signature"] == "(erased)"
    assert state["state"]["signature"] == "(erased)"
    entry = next(e for e in audit["entries"] if e["action"] == "erase")
    assert (entry["target"], entry["principal"], entry["reason"]) == ("ann", "dpo", "asked to")


async def test_timers_and_claims_are_paged(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        for n in range(3):
            await engine.execute(Write(f"n-{n}", f"text {n}"))
        timers = await get(client, "timers", limit=2)
        stream, name = timers["after"]
        more = await get(client, "timers", limit=2, after_stream=stream, after_name=name)
        claims = await get(client, "claims", limit=2)
        name, value = claims["after"]
        others = await get(client, "claims", limit=2, after_name=name, after_value=value)
        none = await get(client, "timers", parked=True)
        retried = await post(client, "timers/retry")

    assert [t["stream"] for t in timers["timers"] + more["timers"]] == [
        f"note:n-{n}" for n in range(3)
    ]
    assert more["after"] is others["after"] is None
    assert [c["value"] for c in claims["claims"] + others["claims"]] == [
        f"text {n}" for n in range(3)
    ]
    assert none == {"timers": [], "after": None}
    assert retried["text"] == "timers that are tried again: 0"


async def test_a_timer_is_cancelled_and_fired(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        await engine.execute(Write("n-1", "text"))
        [timer] = (await get(client, "timers"))["timers"]
        which = {"stream": timer["stream"], "name": timer["name"]}
        cancelled = await post(client, "timers/cancel", **which, reason="a mistake")
        [stays] = (await get(client, "timers"))["timers"]
        fired = await post(client, "timers/fire", **which)
        audit = await get(client, "audit")

    assert (cancelled["text"], fired["text"]) == (
        "its command is not run",
        "its command is run now",
    )
    assert (stays["parked"], stays["attempts"]) == (True, 0)
    assert stays["cause"].endswith("a mistake")
    assert [e["action"] for e in audit["entries"][:2]] == ["fire-timer", "cancel-timer"]


async def test_many_parked_events_are_given_a_page_at_a_time(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        await parked(engine, 2_000)
        page = await get(client, "parked", projection="notes", limit=100)
        [shown] = await get(client, "projections")

    assert len(page) == 100
    assert shown["parked"] == 2_000


async def test_members_say_why_there_are_none(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        assert (await get(client, "members"))["members"] == []


async def test_what_a_caller_may_do_is_told(tmp_path: Path) -> None:
    def authorize(principal: str | None, action: str, target: str) -> bool:
        return action in ("look", "pause")

    async with notes(tmp_path) as engine, console_of(engine, authorize=authorize) as client:
        told = await get(client, "console")

    assert (told["version"], told["actions"]) == (1, ["look", "pause"])
    assert told["has_states"] is True


WRONG: Final[list[tuple[str, dict[str, str]]]] = [
    ("log", {"limit": "0"}),
    ("log", {"limit": "501"}),
    ("log", {"after": "-1"}),
    ("log", {"after": "99999999999999999999"}),
    ("log", {"wait": "1e9"}),
    ("log", {"stream": "nothing"}),
    ("log", {"stream": "note:\0"}),
    ("log", {"unknown": "1"}),
    ("state", {"stream": "note:" + "x" * 999}),
    ("state", {"stream": "note:n-1", "version": "7"}),
    ("parked", {}),
]


async def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        for path, query in WRONG:
            answer = await client.get(f"/api/v1/{path}", params=query)
            assert answer.status_code == 422, (path, query, answer.text)


def test_no_two_endpoints_are_one() -> None:
    assert len({(each.method, each.path) for each in ENDPOINTS}) == len(ENDPOINTS)
