"""Seeds over the modelled PostgreSQL server hold, and what they have found stays mended."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.errors import StoreFailed, StoreRefused
from engine.model.stored import EventType
from engine.stores.contract.log import Appended, AppendRequest, StreamConflict, StreamRead, Write
from engine.stores.postgres.views.link import SET_UP
from engine.stores.postgres.views.link import Place as ViewsPlace
from engine.testing.conformance import append, event, request
from engine.testing.simulation.loop import DeadLock
from tests.simulation.postgres.network import Fault
from tests.simulation.postgres.place import Place

ROOT = Path(__file__).parent.parent.parent
HAPPENINGS = (
    *("crash", "restart", "terminate", "part", "pause", "lose", "kill", "hold lock", "slow disk"),
    *("late faults", "reply faults", "request faults", "silent faults", "OutcomeUnknown"),
    *("ended by StoreLocked", "ended by StoreRefused", "gentle worlds", "takeover worlds"),
    *("engines whose log went back", "engines that said so", "transactions lost", "Voided"),
    *("standbys promoted", "waits for a standby that were ended", "transactions handed over"),
    *("views: answers", "views: changes of views lost", "views: engines that stood still"),
    *("views: servers killed", "views: swaps"),
)


def test_seeds_hold_and_are_full_of_what_breaks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--postgres", "--seeds", "200"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("200 seeds, 0 bad")
    for happening in HAPPENINGS:
        assert re.search(rf" [1-9]\d* {happening}[,\n]", done.stdout), (happening, done.stdout)


@pytest.fixture
def place() -> Place:
    return Place()


def test_a_statement_that_the_model_does_not_know_fails_the_world(place: Place) -> None:
    async def main() -> Any:
        store, ports = place.store()
        await store.open(ports)
        line, _ = store.writing()
        return await line.fetch("SELECT 1")

    with pytest.raises(AssertionError, match="SELECT 1"):
        place.run(main())


def test_a_server_of_an_old_release_is_refused_by_its_version(place: Place) -> None:
    place.server.settings.version = "14.0"

    async def main() -> str:
        store, ports = place.store()
        with pytest.raises(StoreRefused) as refused:
            await store.open(ports)
        return str(refused.value)

    assert "is PostgreSQL 14.0: use release 15 or newer" in place.run(main())
    assert place.server.records == [], "nothing was made there"


OPENING: Sequence[str] = (
    *("current_setting", "pg_class", "CREATE FUNCTION", "begin_session_2", "try_advisory_lock"),
    *("PREPARE", "event_types ORDER", "about"),
)


@pytest.mark.parametrize("words", OPENING)
def test_a_store_is_not_opened_for_ever_over_a_line_that_says_nothing(
    place: Place, words: str
) -> None:
    async def main() -> float:
        store, ports = place.store()
        place.faults((words, "silent"))
        with pytest.raises(StoreFailed) as failed:
            await store.open(ports)
        assert failed.value.passes
        return asyncio.get_running_loop().time()

    assert place.run(main()) < 25


def test_a_connection_of_views_that_says_nothing_as_it_is_made_is_given_up(place: Place) -> None:
    async def main() -> float:
        store, ports = place.store()
        await store.open(ports)
        views = ViewsPlace(store.address, ports)
        place.faults((SET_UP, "silent"))
        with pytest.raises(StoreFailed) as failed:
            await views.connect()
        assert (failed.value.written, failed.value.passes) == (False, True)
        return asyncio.get_running_loop().time()

    assert place.run(main()) < 25


FINDING_OUT: Sequence[str] = (
    *("current_setting", "try_advisory_lock", "xact_lock($1", "LEFT JOIN", "renew", "COMMIT"),
)


@pytest.mark.parametrize("words", FINDING_OUT)
def test_an_outcome_is_found_out_where_the_next_line_says_nothing(place: Place, words: str) -> None:
    async def main() -> list[Any]:
        store, ports = place.store()
        await store.open(ports)
        place.faults(("append_1", "reply"), (words, "silent"))
        outcomes = await append(store, request("a:1", 0, 1))
        await store.close()
        return [*outcomes, asyncio.get_running_loop().time()]

    outcome, seconds = place.run(main())
    assert outcome == Appended(1, (1,))
    assert 6 < seconds < 12, "the line was silent, and then given up"


def test_the_lock_of_a_machine_that_is_lost_is_given_back(place: Place) -> None:
    """It went while it looked for a batch, with the lock of the log in its hands."""

    async def main() -> list[Any]:
        store, ports = place.store()
        await store.open(ports)
        place.faults(("append_1", "reply"), ("LEFT JOIN", "silent"))
        task = place.processes[0].run(_alone(append(store, request("a:1", 0, 1))))
        await asyncio.sleep(1)
        place.processes[0].kill(lost=True)
        assert not task.done()
        other, ports = place.store()
        for _ in range(20):
            try:
                await other.open(ports)
            except StoreFailed:
                await asyncio.sleep(0.5)
            else:
                break
        return [*await append(other, request("a:1", 1, 2)), asyncio.get_running_loop().time()]

    outcome, seconds = place.run(main())
    assert outcome == Appended(2, (2,))
    assert seconds < 20, "the server would hear of it after two hours"


async def _alone(call: Awaitable[Any]) -> None:
    await call


def test_a_read_over_a_line_that_says_nothing_is_asked_again(place: Place) -> None:
    async def main() -> int:
        store, ports = place.store()
        await store.open(ports)
        await append(store, request("a:1", 0, 1))
        place.faults(("octet_length", "silent"))
        pages = await store.read_streams([StreamRead("a:1")], events_max=9, bytes_max=9_999)
        return len(pages[0].events)

    assert place.run(main()) == 1


def test_types_of_events_are_read_again_over_another_line_than_a_silent_one(place: Place) -> None:
    async def main() -> list[Any]:
        before, ports = place.store()
        await before.open(ports)
        await append(before, request("a:1", 0, 1))
        await before.close()
        store, ports = place.store()
        await store.open(ports)
        place.faults(("event_types ORDER", "silent"))
        return list(await append(store, request("a:1", 0, 2)))

    assert place.run(main()) == [StreamConflict("a:1", 0, 1)]


def test_lines_that_break_while_a_batch_is_planned_are_no_streams_that_moved(place: Place) -> None:
    """A batch over two streams is planned first, and each time the line breaks."""

    async def main() -> list[Any]:
        store, ports = place.store()
        await store.open(ports)
        writes = [Write("a:1", 0, [event(1)]), Write("b:1", 0, [event(2)])]
        breaks: tuple[str, Fault] = ("unnest($1::text[]) AS q(stream)", "reply")
        place.faults(*[breaks] * 8)
        return list(await append(store, AppendRequest(writes)))

    assert place.run(main()) == [Appended(2, (1, 1))]


GONE_BACK: dict[str, Callable[[], AppendRequest]] = {
    "planned": lambda: AppendRequest(
        [Write("a:1", 2, [event(1, EventType("new", 1, "h"))]), Write("b:1", 0, [event(2)])]
    ),
    "simple": lambda: request("a:1", 2, 3),
}


@pytest.mark.parametrize("what", GONE_BACK)
def test_a_batch_for_a_log_that_went_back_is_no_conflict(place: Place, what: str) -> None:
    """A standby has taken over that lacks the last events, and so has the streams elsewhere."""

    async def main() -> str:
        store, ports = place.store()
        await store.open(ports)
        await append(store, request("a:1", 0, 1))
        await append(store, request("a:1", 1, 2))
        kept = len(place.server.records) - 1
        lost = place.server.crash(kept)
        assert [change[0] for change in lost[0].changes] == ["event"]
        place.server.up = True
        with pytest.raises(StoreFailed) as failed:
            await append(store, GONE_BACK[what]())
        assert failed.value.stopped
        return str(failed.value)

    assert "the log went back. It ends at position 1, and events up to 2" in place.run(main())
    assert len(place.server.tables.events) == 1


def test_an_engine_whose_session_was_lost_with_its_events_says_so(place: Place) -> None:
    """It hears by its lease, at rest, and not of another engine, which there is none of."""

    async def main() -> str:
        store, ports = place.store()
        await store.open(ports)
        began = len(place.server.records) - 1
        await append(store, request("a:1", 0, 1))
        place.server.crash(began)
        place.server.up = True
        return str(await store.ended())

    assert "the log went back" in place.run(main())


def test_a_dead_lock_of_the_world_is_an_error(place: Place) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadLock):
        place.run(main())
