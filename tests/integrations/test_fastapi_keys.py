"""Several commands of one keyed request to FastAPI: each has a key, and nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI

from engine import (
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    KeyReused,
    OutcomeUnknown,
    Query,
    Receipt,
    Rejected,
    To,
    WrongVersion,
    applies,
    decides,
    handles,
)
from engine.integrations.asgi import EngineMiddleware
from engine.integrations.fastapi import Ask, Execute, RunningEngine, engine_lifespan


class Reserve(Command):
    show_id: Id


class Free(Command):
    show_id: Id


class Wait(Command):
    show_id: Id
    who: str = "ann"


class Note(Command):
    show_id: Id
    parts: list[Any] = []


class Reserved(Event, name="reserved"):
    pass


class Freed(Event, name="freed"):
    pass


class Waits(Event, name="waits"):
    who: str


class Show(Aggregate, kind="show"):
    is_full: bool = True

    @handles
    def reserve(self, command: Reserve) -> Reserved:
        if self.is_full:
            raise Rejected("full", "there is no seat")
        return Reserved()

    @handles
    def free(self, command: Free) -> Freed:
        return Freed()

    @handles
    def wait(self, command: Wait) -> Waits:
        return Waits(command.who)

    @handles
    def note(self, command: Note) -> Freed:
        return Freed()

    @applies
    def reserved(self, event: Reserved) -> None:
        self.is_full = True

    @applies
    def freed(self, event: Freed) -> None:
        self.is_full = False

    @applies
    def waits(self, event: Waits) -> None:
        pass


class Applaud(Command):
    fan_id: Id


class Applauded(Event, name="applauded"):
    pass


class Fan(Aggregate, kind="fan"):
    @handles
    def applaud(self, command: Applaud) -> Applauded:
        return Applauded()

    @applies
    def applauded(self, event: Applauded) -> None:
        pass


class Waiting(Query[int]):
    pass


class CloseAll(Command):
    first: Id | None
    shows: list[Id]


@decides
def close_all(command: CloseAll, first: Show | None, shows: list[Show]) -> list[To[Reserved]]:
    return [To(show, Reserved()) for show in (first, *shows) if show is not None]


def make_engine() -> Engine:
    return Engine([Show, Fan], decisions=[close_all])


app = FastAPI(lifespan=engine_lifespan(make_engine))
app.add_middleware(EngineMiddleware)
SHOW = "s-1"


@app.post("/seat")
async def seat(execute: Execute) -> Receipt:
    try:
        return await execute(Reserve(SHOW))
    except Rejected:
        return await execute(Wait(SHOW))


@app.post("/seat-again")
async def seat_that_knows_repetitions(execute: Execute) -> Receipt:
    try:
        return await execute(Reserve(SHOW))
    except (Rejected, KeyReused):
        await execute(Wait(SHOW))
        return await execute(Wait(SHOW))


@app.post("/seat-anyhow")
async def seat_whatever_is_said(execute: Execute) -> Receipt:
    try:
        return await execute(Reserve(SHOW))
    except (Rejected, WrongVersion):
        return await execute(Wait(SHOW))


@app.post("/lines")
async def do_what_can_be_done(execute: Execute) -> list[Receipt | None]:
    done: list[Receipt | None] = []
    for number, command in enumerate((Reserve(SHOW), Wait(SHOW), Wait(SHOW))):
        try:
            done.append(await execute(command, name=f"line-{number}"))
        except Rejected:
            done.append(None)
    return [*done, await execute(Note(SHOW))]


@app.post("/seat-by-name")
async def seat_or_wait_by_one_name(execute: Execute) -> Receipt:
    await execute(Wait(SHOW, "bob"), name="x" * 255)
    try:
        return await execute(Reserve(SHOW), name="seat")
    except (Rejected, KeyReused):
        return await execute(Wait(SHOW), name="seat")


@app.post("/seat-beside")
async def seat_beside_another_command(execute: Execute) -> Receipt:
    tried, _ = await asyncio.gather(
        execute(Reserve(SHOW)), execute(Wait(SHOW)), return_exceptions=True
    )
    if isinstance(tried, Receipt):
        return tried
    if isinstance(tried, KeyReused):
        raise tried
    return await execute(Wait(SHOW, "bob"))


@app.post("/fan")
async def close_and_applaud(execute: Execute) -> Receipt:
    await execute(Free(SHOW))
    return await execute(Applaud(SHOW))


@app.post("/all")
async def close_many(execute: Execute, beside: str, first: str | None = None) -> Receipt:
    await execute(Wait(beside))
    await execute(CloseAll(first, ["s-2"]))
    return await execute(Wait(beside))


@app.post("/in-a-thread")
def executes_in_a_thread(execute: Execute) -> str:
    execute(Wait(SHOW))  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    return "done"


@app.post("/asked-in-a-thread")
def asks_in_a_thread(ask: Ask) -> str:
    ask(Waiting())  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    return "asked"


@app.post("/through-a-portal")
def executes_through_a_portal(engine: RunningEngine) -> Receipt:
    return engine.portal().execute(Wait(SHOW))


@app.post("/behind-the-answer")
async def executes_behind_the_answer(execute: Execute, tasks: BackgroundTasks) -> dict[str, str]:
    tasks.add_task(execute, Wait(SHOW))
    tasks.add_task(partial(execute, deadline=5), Wait(SHOW))
    return {"state": "taken"}


@app.post("/notes")
async def note(execute: Execute) -> Receipt:
    parts: list[Any] = []
    for _ in range(100_000):
        parts = [parts]
    return await execute(Note(SHOW, parts))


@app.post("/lost")
async def told_that_nobody_knows(execute: Execute, engine: RunningEngine) -> Receipt:
    run = engine.execute

    async def loses(*given: Any, **options: Any) -> Any:
        await run(*given, **options)
        raise OutcomeUnknown("the connection to the owner is gone")

    engine.execute = loses  # type: ignore[method-assign]
    try:
        return await execute(Wait(SHOW))
    except OutcomeUnknown:
        engine.execute = run  # type: ignore[method-assign]
        return await execute(Wait(SHOW))


@pytest.fixture
async def client() -> AsyncGenerator[httpx.AsyncClient]:
    made = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
    async with app.router.lifespan_context(app), made:
        yield made


async def post(client: httpx.AsyncClient, path: str, **headers: str) -> httpx.Response:
    return await client.post(path, headers={"Idempotency-Key": "k", **headers})


async def stored(kind: type[Aggregate] = Show, aggregate_id: str = SHOW) -> list[tuple[str, Any]]:
    engine: Engine = app.state.foldline_engine
    page = await engine.history(kind, aggregate_id)
    return [(logged.name, logged.meta.key) for logged in page.events]


async def free_a_seat() -> None:
    await app.state.foldline_engine.execute(Free(SHOW))


async def test_of_a_command_and_its_fallback_a_repeated_request_does_one(
    client: httpx.AsyncClient,
) -> None:
    first = await post(client, "/seat")
    await free_a_seat()
    again = await post(client, "/seat")

    assert (first.status_code, again.status_code) == (200, 422)
    assert again.json()["code"] == "key-reused"
    assert await stored() == [("waits", "k"), ("freed", None)]


async def test_a_fallback_that_knows_repetitions_gives_the_first_answers(
    client: httpx.AsyncClient,
) -> None:
    first = await post(client, "/seat-again")
    await free_a_seat()
    again = await post(client, "/seat-again")

    assert first.json() == again.json()
    assert await stored() == [("waits", "k"), ("waits", "k 2"), ("freed", None)]


async def test_a_loop_by_name_goes_on_behind_a_rejection_and_is_repeated(
    client: httpx.AsyncClient,
) -> None:
    first = await post(client, "/lines")
    await free_a_seat()
    again = await post(client, "/lines")

    assert first.json()[0] is None
    assert again.json()[1:] == first.json()[1:]
    lines = [("waits", "k :line-1"), ("waits", "k :line-2"), ("freed", "k")]
    assert await stored() == [*lines, ("freed", None), ("reserved", "k :line-0")]


async def test_of_a_command_and_its_fallback_of_one_name_a_repeated_request_does_one(
    client: httpx.AsyncClient,
) -> None:
    first = await post(client, "/seat-by-name")
    await free_a_seat()
    again = await post(client, "/seat-by-name")

    assert first.json() == again.json()
    (_, long), *others = await stored()
    assert (len(long), others) == (36, [("waits", "k :seat"), ("freed", None)])


async def test_the_version_that_a_client_read_is_asked_of_the_first_command_with_a_name_too(
    client: httpx.AsyncClient,
) -> None:
    await free_a_seat()
    done = await post(client, "/seat-by-name", **{"If-Match": '"1"'})
    late = await post(client, "/seat-by-name", **{"If-Match": '"1"', "Idempotency-Key": "k-2"})

    assert (done.status_code, late.status_code) == (200, 412)


async def test_a_key_goes_to_the_fallback_though_a_later_one_is_used(
    client: httpx.AsyncClient,
) -> None:
    first = await post(client, "/seat-beside")
    await free_a_seat()
    again = await post(client, "/seat-beside")

    assert (first.status_code, again.status_code) == (200, 422)
    assert await stored() == [("waits", "k 2"), ("waits", "k"), ("freed", None)]


async def test_what_nobody_knows_of_is_sent_again_with_its_key(client: httpx.AsyncClient) -> None:
    assert (await post(client, "/lost")).status_code == 200
    assert await stored() == [("waits", "k")]


async def test_a_fallback_is_refused_too_where_a_newer_version_is(
    client: httpx.AsyncClient,
) -> None:
    late = await post(client, "/seat-anyhow", **{"If-Match": '"3"'})
    fine = await post(client, "/seat-anyhow", **{"If-None-Match": "*"})

    assert (late.status_code, fine.status_code) == (412, 200)
    assert await stored() == [("waits", "k")]


async def test_the_version_that_a_client_read_is_asked_of_no_other_aggregate(
    client: httpx.AsyncClient,
) -> None:
    await free_a_seat()
    done = await post(client, "/fan", **{"If-Match": '"1"'})
    late = await post(client, "/fan", **{"If-Match": '"1"', "Idempotency-Key": "k-2"})

    assert (done.status_code, late.status_code) == (200, 412)
    assert [*await stored(), *await stored(Fan)] == [
        ("freed", None),
        ("freed", "k"),
        ("applauded", "k"),
    ]


@pytest.mark.parametrize("path", ["/in-a-thread", "/asked-in-a-thread"])
async def test_an_endpoint_that_cannot_await_is_told_so_and_does_nothing(
    client: httpx.AsyncClient, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await post(client, path)).status_code == 500
    assert "an endpoint that executes or asks is an `async def`" in caplog.text
    assert (await post(client, "/through-a-portal")).status_code == 200
    assert await stored() == [("waits", None)]


async def test_background_tasks_execute_commands_behind_the_answer(
    client: httpx.AsyncClient,
) -> None:
    assert (await post(client, "/behind-the-answer")).json() == {"state": "taken"}
    assert await stored() == [("waits", "k"), ("waits", "k 2")]


async def test_aggregates_of_two_kinds_with_one_id_have_the_request_s_own_key(
    client: httpx.AsyncClient,
) -> None:
    assert (await post(client, "/fan")).status_code == 200
    assert [*await stored(), *await stored(Fan)] == [("freed", "k"), ("applauded", "k")]


@pytest.mark.parametrize("query", ["beside=s-2", "beside=s-2&first=s-1", "beside=s-1&first=s-1"])
async def test_a_joint_command_has_a_key_of_its_own_beside_others_of_its_aggregates(
    client: httpx.AsyncClient, query: str
) -> None:
    answers = [await post(client, "/all?" + query) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    names = [name for each in ("s-1", "s-2") for name, _ in await stored(Show, each)]
    assert sorted(names) == ["reserved"] * (2 if "first" in query else 1) + ["waits"] * 2


async def test_a_command_that_is_too_deep_is_told_by_the_engine(
    client: httpx.AsyncClient,
) -> None:
    assert (await post(client, "/notes")).status_code == 422
