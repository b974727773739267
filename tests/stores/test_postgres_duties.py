"""The fence of a member that runs projections, on a real server: all ways in which it is lost."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine import Limits, Meta, Ports, Projection, StoreFailed, Table, projects
from engine.members.duties.whose import (
    declared_by,
    declares,
    duties_of,
    duty_owner,
    gathers,
    leads,
    owners_of_slices,
)
from engine.statistics import ProjectionFailure
from engine.stores.contract.membership import (
    NotGathered,
    Present,
    Right,
    View,
    ViewChanged,
    owner_of,
)
from engine.stores.contract.requests import Arguments
from engine.stores.contract.views import Changes, Checkpoint, Part, ProjectionDecision, ViewsStore
from engine.stores.postgres.address import read_address
from engine.stores.postgres.backend import PostgresBackend
from engine.stores.postgres.log.store import PostgresStore
from engine.stores.postgres.views.link import Place
from engine.stores.postgres.views.schema import views_lock
from tests.support.counters import Added
from tests.support.postgres import Server, asked, connected
from tests.support.tallies import Tallies, Tally

LOGGER = logging.getLogger("foldline")
PART = Part(Tallies.__definition__, 1)


class Somebody:
    """A member that acts by the view that a test says."""

    def __init__(self, member: int, number: int) -> None:
        self.member = member
        self.numbers = [number]
        self.looks = 0

    @property
    def view(self) -> View:
        return View(self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0])

    def look(self) -> None:
        self.looks += 1


@asynccontextmanager
async def somebody(postgres: Server) -> AsyncGenerator[tuple[PostgresBackend, Any]]:
    """Give a log and a member of it."""
    address = read_address(postgres.url(postgres.new_schema(), "lease=60"))
    backend = PostgresBackend(PostgresStore(address), None)
    first = backend.log()
    await first.open(Ports())
    heeded: list[View] = []
    attendance = backend.outside(Ports()).runner("somebody", "{}", heeded.append, LOGGER)
    await attendance.join()
    try:
        yield backend, Somebody(attendance.member, attendance.view.number)
    finally:
        await attendance.close()
        await first.close()


@asynccontextmanager
async def opened(
    backend: PostgresBackend, right: Right, projection: type[Projection]
) -> AsyncGenerator[ViewsStore]:
    """Give views that are written by a right."""
    folder = backend.folding(right, LOGGER)
    log, views = folder.log(), folder.views(LOGGER)
    await log.open(Ports())
    try:
        await views.open(Ports(), Limits(), log, [projection])
        yield views
    finally:
        await views.close()
        await log.close()


@asynccontextmanager
async def folding(
    postgres: Server,
) -> AsyncGenerator[tuple[ViewsStore, Any, Right, Callable[[], Any]]]:
    """Give views that a member writes, the member and its right, and who counts it up."""
    async with somebody(postgres) as (backend, who):
        right = Right(frozenset({"tallies"}), who)
        heeded: list[View] = []

        async def count_up() -> None:
            other = backend.outside(Ports()).runner("another", "{}", heeded.append, LOGGER)
            await other.join()
            await other.close()

        async with opened(backend, right, Tallies) as views:
            yield views, who, right, count_up


def moved(before: int) -> Changes:
    return Changes(PART, Checkpoint(before), Checkpoint(before + 1, 7), {})


async def test_a_batch_under_another_number_writes_nothing_and_is_no_failure(
    postgres: Server,
) -> None:
    async with folding(postgres) as (views, who, _, count_up):
        await views.write(moved(0))
        await count_up()
        with pytest.raises(ViewChanged) as raised:
            await views.write(moved(1))
        assert (raised.value.passes, raised.value.written) == (True, False)
        assert who.looks == 1
        assert (await views.checkpoint(PART)).position == 1
        who.numbers = [who.numbers[-1] + 2]
        await views.write(moved(1))


async def test_a_number_that_is_heeded_between_two_statements_is_no_other_worker(
    postgres: Server,
) -> None:
    async with folding(postgres) as (views, who, _, count_up):
        await count_up()
        who.numbers = [who.numbers[-1], who.numbers[-1] + 2]
        with pytest.raises(ViewChanged):
            await views.write(moved(0))
        await views.write(moved(0))


async def test_who_is_no_member_or_has_lost_its_right_writes_and_decides_nothing(
    postgres: Server,
) -> None:
    async with folding(postgres) as (views, who, right, _):
        decision = ProjectionDecision("tallies", "pause", 1, 1)
        right.is_lost = True
        with pytest.raises(ViewChanged):
            await views.write(moved(0))
        with pytest.raises(ViewChanged):
            await views.decide(decision)
        right.is_lost = False
        right.member = who.member + 1
        with pytest.raises(ViewChanged):
            await views.write(moved(0))
        right.member = who.member
        await views.decide(decision)
        assert [one.kind for one in await views.decisions("tallies")] == ["pause"]


async def test_a_decision_waits_for_one_that_is_on_its_way(postgres: Server) -> None:
    async with folding(postgres) as (views, _, right, _):
        known: Any = views
        other = await connected(postgres)
        await other.execute("BEGIN")
        await other.execute(views_lock(Place(known._address, Ports())))
        deciding = asyncio.ensure_future(views.decide(ProjectionDecision("tallies", "pause", 1, 1)))
        await until_waiting(postgres)
        right.is_lost = True
        await other.execute("COMMIT")
        await other.close()
        with pytest.raises(ViewChanged):
            await deciding


async def test_a_lock_that_is_waited_for_in_vain_costs_nothing_behind_it(postgres: Server) -> None:
    """Another member decides meanwhile. The connection is whole, and nobody asks without end."""
    async with folding(postgres) as (views, *_):
        known: Any = views
        other = await connected(postgres)
        await other.execute("BEGIN")
        await other.execute(views_lock(Place(known._address, Ports())))
        with pytest.raises(StoreFailed, match="lock timeout"):
            await views.swap(Tallies.__definition__, 1, ProjectionDecision("tallies", "swap", 1, 1))
        await other.close()
        assert await views.checkpoint(PART) == Checkpoint(0)
        seen, may_be_seen = views.transactions("tallies")
        assert seen == may_be_seen


async def until_waiting(postgres: Server) -> None:
    query = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with asyncio.timeout(30):
        while not await asked(postgres, query):
            await asyncio.sleep(0.02)


class Halves(Projection, name="halves", version=1, slices=2):
    rows: Table[Tally]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        self.rows.put(Tally(meta.id, 1, event.amount))


HALF = Part(Halves.__definition__, 1, 0)


async def test_who_runs_some_slices_makes_no_build_and_the_first_ones_member_gathers_them(
    postgres: Server,
) -> None:
    async with somebody(postgres) as (backend, who):
        asked_for: list[str] = []
        for number, gathered in ((1, []), (0, ["halves"])):
            right = Right(frozenset({f"halves/{number}"}), who, asked_for.append)
            with pytest.raises(NotGathered, match="several members"):
                await opened(backend, right, Halves).__aenter__()
            assert asked_for == gathered
        # All of them in one process make it; a request is taken by that one too.
        async with opened(backend, Right(frozenset({"halves"}), who), Halves):
            with backend.outside(Ports()).operations() as operations:
                operations.ask("pause", "halves", Arguments(reason=""), asked_by=None)
        right = Right(frozenset({"halves/0"}), who, asked_for.append)
        async with opened(backend, right, Halves) as views:
            asked_for.clear()
            assert await views.take_request() is None
            assert "halves" in asked_for


async def test_one_slice_is_opened_beside_another_members_and_leaves_what_is_noted_of_it(
    postgres: Server,
) -> None:
    async with somebody(postgres) as (backend, who):
        async with opened(backend, Right(frozenset({"halves"}), who), Halves) as views:
            await views.note_failure(HALF, ProjectionFailure(1, "added v1", "counter:a", "ill"))
            known: Any = views
            schema = known._place.schema
        other = await connected(postgres)
        await other.execute("BEGIN")
        await other.execute(f'SELECT 1 FROM "{schema}".checkpoints WHERE slice = 0 FOR UPDATE')
        async with asyncio.timeout(30):
            right = Right(frozenset({"halves/1"}), who)
            async with opened(backend, right, Halves) as views:
                mine = Part(HALF.definition, 1, 1)
                await views.write(Changes(mine, Checkpoint(), Checkpoint(), {}))
                assert [one.slice for one in await views.standstills("halves")] == [0]
        await other.execute("ROLLBACK")
        await other.close()
        async with opened(backend, Right(frozenset({"halves/0"}), who), Halves) as views:
            assert await views.standstills("halves") == []


def test_slices_have_owners_of_their_own_until_somebody_gathers_them() -> None:
    text = json.dumps(declares([Halves.__definition__]))
    plain = json.dumps({"halves": declares([Halves.__definition__])["halves"].replace("apart", "")})

    def view(*declared: str) -> View:
        return View(
            9, tuple(Present(n, f"p{n}", text, 9, 1.0) for n, text in enumerate(declared, 1))
        )

    apart = next(
        found
        for n in range(2, 9)
        if len(owners_of_slices(found := view(*[text] * n), "halves")) > 1
    )
    owners = owners_of_slices(apart, "halves")
    assert list(owners) == ["halves/0", "halves/1"]
    first = owners["halves/0"].member
    assert duties_of(apart, first, ["halves"]) == {"halves/0"}
    assert leads(apart, first, "halves")
    gathered = view(*[text] * len(apart.members), json.dumps(gathers("halves")))
    assert {n: one.member for n, one in owners_of_slices(gathered, "halves").items()} == {
        "halves": first
    }
    assert declared_by(gathered) == ["halves"]
    other = view(*[text] * len(apart.members), json.dumps(gathers("others")))
    assert owners_of_slices(other, "halves").keys() == owners.keys()
    # A release that runs all slices together takes none of them from the one before, nor gives it.
    assert list(owners_of_slices(view(plain, *[text] * 8), "halves")) == ["halves"]


def test_who_declares_as_the_first_member_runs_it_and_each_runs_a_part() -> None:
    old = '{"a": "1", "b": "1", "c": "1", "d": "1"}'
    new = '{"a": "2", "b": "1", "c": "1", "d": "1", "e": "1"}'

    def view(*declared: str) -> View:
        return View(
            9, tuple(Present(n, f"p{n}", text, 9, 1.0) for n, text in enumerate(declared, 1))
        )

    both = view(old, old, new)
    assert [one and one.member for one in (duty_owner(both, "a"), duty_owner(both, "e"))][1] == 3
    assert {duty_owner(view(old, *[new] * n), "a").member for n in range(9)} == {1}  # type: ignore[union-attr]
    assert duty_owner(view(new, old), "a").member == 1  # type: ignore[union-attr]
    assert duty_owner(view(old), "e") is None
    names = [f"n{n}" for n in range(40)]
    text = "{" + ", ".join(f'"{name}": "1"' for name in names) + "}"
    parts = [duties_of(view(text, text, text), member, names) for member in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert all(parts)
    fewer = duties_of(view(text, text), 1, names)
    assert parts[0] <= fewer, "what stays is not moved"
    assert declares([Tallies.__definition__])["tallies"].startswith("1.1.")


def test_each_member_gets_its_share_unless_one_lives_that_knows_no_shares() -> None:
    definitions = [Halves.__definition__, Tallies.__definition__]
    new = json.dumps(dict(declares(definitions)) | {f"more{n}": "1.1." for n in range(4)})
    old = json.dumps({n: how for n, how in json.loads(new).items() if n.strip()})

    def parts(first: int, *declared: str) -> tuple[View, list[frozenset[str]]]:
        found = [Present(n, f"p{n}", text, 9, 1.0) for n, text in enumerate(declared, first)]
        there, names = View(9, tuple(found)), declared_by(View(9, tuple(found)))
        return there, [duties_of(there, one.member, names) for one in found[: len(declared)]]

    for first in range(1, 40):
        _, three = parts(first, new, new, new)
        assert sorted(map(_halves, three)) == [2, 2, 3], "of seven, as halves are two"
        there, gathered = parts(first, new, new, new, json.dumps(gathers("halves")))
        moved = frozenset({"halves", "halves/0", "halves/1"})
        assert [part - moved for part in gathered[:3]] == [part - moved for part in three]
        assert duty_owner(there, "halves", 1) == duty_owner(there, "halves")
        among = tuple(range(first, first + 3))
        mixed, _ = parts(first, new, old, new)
        for name in declared_by(mixed):
            owner = duty_owner(mixed, name)
            assert owner is not None
            assert owner.member == owner_of(f"projection:{name}", among), "as the older one says"


def _halves(duties: frozenset[str]) -> int:
    return len(duties) + ("halves" in duties)
