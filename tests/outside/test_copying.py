"""A log that is copied into another store: what comes along, what is refused, what goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from engine import Damaged, StoreRefused
from engine.model.stored import EventData
from engine.outside.copying import CopyProgress, transfer
from engine.runtime.ports import Ports
from engine.stores.contract.claims import HeldClaim, ReleaseClaim, TakeClaim
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.contract.requests import Arguments
from engine.stores.sqlite.connection import run
from engine.stores.sqlite.system_files import SystemFiles
from engine.stores.urls import open_backend
from engine.testing.conformance import ADDED
from tests.outside.copied import (
    BOTH,
    WAYS,
    Board,
    GetCounts,
    Letters,
    NewStore,
    Pin,
    boards,
    copy,
    filled,
    log_of,
    raw,
)
from tests.support.postgres import Server


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Letters.delivered.clear()


# -- what comes along -----------------------------------------------------------------------------


@pytest.mark.parametrize(("here", "there"), WAYS)
async def test_an_engine_goes_on_with_the_copy_as_it_would_have_with_the_log(
    new: NewStore, here: str, there: str
) -> None:
    source, target = new(here), new(there)
    async with boards(source) as engine:
        await filled(engine)
        await engine.projections.pause("counts", reason="ä\0\1", principal="ann")
        await engine.projections.resume("counts", reason="on")
        counts = await engine.query(GetCounts())
        receipt = await engine.execute(Pin("b0", "note 3"), key="key-3")
        parked = await engine.projections.parked("letters")
    delivered = list(Letters.delivered)
    with open_backend(source).outside(Ports()).operations() as operations:
        number = operations.ask("rebuild", "counts", Arguments(reason="for a test"))

    done = copy(source, target)

    assert log_of(target) == log_of(source)
    assert (done.position, done.resumed_at, done.in_use) == (24, 0, False)
    assert done.snapshots == 3
    assert done.carried is not None
    assert done.carried.folded == ["counts"]
    assert [parked_event.position for parked_event in parked] == [8, 11, 14, 17, 20, 23]
    with open_backend(target).outside(Ports()).operations() as there_now:
        with open_backend(source).outside(Ports()).operations() as before:
            assert there_now.request(number) == before.request(number)
            assert there_now.decisions(None) == before.decisions(None)
            assert there_now.parked("letters") == before.parked("letters") == parked
        (letters,) = [build for build in there_now.look().builds if build.projection == "letters"]
        assert (letters.slices, letters.log_id) == (2, log_of(source)[0])
    async with boards(target) as engine:
        assert await engine.execute(Pin("b0", "note 3"), key="key-3") == receipt
        assert (await engine.execute(Pin("b0", "new"), key="key-new")).position == 25
        assert (await engine.state(Board, "b0")).notes[-1] == "new"
        await engine.projections.retry("letters")
        found = await engine.query(GetCounts(), at=25)
    assert [(count.board, count.notes) for count in found] == [
        (count.board, count.notes + (count.board == "b0")) for count in counts
    ]
    assert Letters.delivered[: len(delivered)] == delivered
    assert len(Letters.delivered) == len(set(Letters.delivered)), "nothing is delivered twice"
    with open_backend(target).outside(Ports()).operations() as there_now:
        assert there_now.request(number).state == "done"
        assert there_now.ask("rebuild", "counts", Arguments(reason="for a test")) > number


@pytest.mark.parametrize("there", BOTH)
async def test_events_whose_writer_was_behind_keep_their_time_and_their_checksum(
    new: NewStore, postgres: Server, there: str
) -> None:
    source, target = new("postgresql"), new(there)
    await raw(source, 20, recorded=(5_000, 900))
    _, events, *_ = log_of(source)
    assert {event.behind for event in events} == {0, 4_100}

    copy(source, target)

    assert log_of(target) == log_of(source)
    again = new("postgresql")
    copy(target, again)
    assert log_of(again)[1] == events
    log = open_backend(target).log()
    await log.open(Ports())
    request = AppendRequest([Write("stream:1", 1, [EventData(ADDED, b"{}")])])
    committed = await log.append(Batch([request], 10))
    assert [(e.position, e.recorded) for e in committed.events] == [(21, 5_000)]
    await log.close()


async def test_what_a_clock_was_behind_is_believed_only_with_its_checksum(new: NewStore) -> None:
    source, target = new("postgresql"), new("sqlite")
    await raw(source, 3, recorded=(5_000, 900))
    copy(source, target)
    with closing(apsw.Connection(target.removeprefix("sqlite:"))) as connection:
        run(connection, "UPDATE behind SET behind = behind + 1")

    with pytest.raises(Damaged, match="position 2"):
        open_backend(target).outside(Ports()).log_reader().__enter__().read_feed(
            1, events_max=9, bytes_max=99_999
        )


async def test_views_kept_in_a_file_go_on_beside_a_log_that_moved(
    new: NewStore, tmp_path: Path
) -> None:
    source, target = new("sqlite"), new("postgresql")
    async with boards(source) as engine:
        await filled(engine)
        counts = await engine.query(GetCounts())
    delivered = list(Letters.delivered)
    copy(source, target)

    views = source.replace(".db", ".views.db")
    async with boards(target, views=views) as engine:
        assert await engine.query(GetCounts()) == counts
        status = await engine.projections.status("counts")
    assert [build.position for build in status.builds] == [24]
    assert Letters.delivered == delivered


# -- while an engine writes -----------------------------------------------------------------------


@pytest.mark.parametrize("here", BOTH)
async def test_a_log_in_use_is_copied_up_to_one_position(new: NewStore, here: str) -> None:
    source, target = new(here), new("postgresql")
    async with boards(source) as engine:
        await filled(engine)
        loop = asyncio.get_running_loop()

        def show(progress: CopyProgress) -> None:
            if progress.position == 14 and progress.what == "copied":
                sent = engine.execute(Pin("b9", "meanwhile"))
                asyncio.run_coroutine_threadsafe(sent, loop).result(60)

        done = await asyncio.to_thread(copy, source, target, show)
        assert done.in_use
        await engine.execute(Pin("b9", "later"))

    assert done.position == 25
    assert log_of(target)[1] == log_of(source)[1][:25]


@pytest.mark.parametrize("here", BOTH)
async def test_claims_are_copied_as_they_were_at_that_position(
    new: NewStore, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    source, target = new(here), new("postgresql")
    log = open_backend(source).log()
    await log.open(Ports())
    loop = asyncio.get_running_loop()

    async def append(version: int, *extras: TakeClaim | ReleaseClaim) -> None:
        write = Write("a:1", version, [EventData(ADDED, b"{}")])
        await log.append(Batch([AppendRequest([write], extras)], 9))

    await append(0, TakeClaim("name", "x", "a:1"))
    into = open_backend(target).outside(Ports()).copy_target()
    kept = into.keep_claims

    def keep(claims: Sequence[HeldClaim]) -> None:
        later = append(1, ReleaseClaim("name", "x", "a:1"), TakeClaim("name", "y", "a:1"))
        asyncio.run_coroutine_threadsafe(later, loop).result(60)
        kept(claims)

    monkeypatch.setattr(into, "keep_claims", keep)
    out = open_backend(source).outside(Ports()).copy_source()
    assert (await asyncio.to_thread(transfer, out, into)).position == 1
    await log.close()

    assert log_of(target)[3] == [HeldClaim("name", "x", "a:1", 1)]
    assert log_of(source)[3] == [HeldClaim("name", "y", "a:1", 2)]


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("there", BOTH)
async def test_nothing_is_written_over(new: NewStore, there: str) -> None:
    source, target = new("sqlite"), new(there)
    await raw(source, 3)
    await raw(target, 2)
    before = log_of(target)

    with pytest.raises(StoreRefused, match="writes over nothing"):
        copy(source, target)
    assert log_of(target) == before


async def test_a_schema_with_something_else_in_it_is_left_alone(
    new: NewStore, postgres: Server
) -> None:
    source = new("sqlite")
    await raw(source, 3)
    for suffix in ("", "_views"):
        schema = postgres.new_schema()
        postgres.sql(f"CREATE SCHEMA {schema}{suffix} CREATE TABLE mine(x int)")
        with pytest.raises(StoreRefused, match=f"{schema}{suffix} in .* is not empty"):
            copy(source, postgres.url(schema))
        assert postgres.sql(f"SELECT count(*) FROM {schema}{suffix}.mine") == "0"


class Stop(Exception):
    pass


def stop_at(position: int) -> Callable[[CopyProgress], None]:
    def show(progress: CopyProgress) -> None:
        if progress.what == "copied" and progress.position >= position:
            raise Stop

    return show


@pytest.mark.parametrize("there", BOTH)
async def test_half_a_copy_is_no_log_until_it_was_finished(new: NewStore, there: str) -> None:
    source, other, target = new("sqlite"), new("sqlite"), new(there)
    await raw(source, 60)
    await raw(other, 60)
    with pytest.raises(Stop):
        copy(source, target, stop_at(20))

    if there == "postgresql":
        with pytest.raises(StoreRefused, match="was interrupted"):
            await open_backend(target).log().open(Ports())
    with pytest.raises(StoreRefused, match="interrupted|no such file"):
        log_of(target)
    with pytest.raises(StoreRefused, match="a copy of the log"):
        copy(other, target)
    pages: list[CopyProgress] = []
    done = copy(source, target, pages.append)

    assert done.resumed_at == 21
    assert pages[0] == CopyProgress("copied", 28, 60)
    assert log_of(target) == log_of(source)


@pytest.mark.parametrize("there", BOTH)
async def test_a_copy_that_ended_while_it_was_verified_is_finished(
    new: NewStore, there: str
) -> None:
    source, target = new("sqlite"), new(there)
    async with boards(source) as engine:
        await filled(engine)
        await engine.projections.pause("counts", reason="once")

    def show(progress: CopyProgress) -> None:
        if progress.what == "verified":
            raise Stop

    for _ in range(2):
        with pytest.raises(Stop):
            copy(source, target, show)
    done = copy(source, target)

    assert (done.position, done.resumed_at, done.snapshots) == (24, 24, 3)
    assert log_of(target) == log_of(source)
    with open_backend(target).outside(Ports()).operations() as found:
        assert [decision.reason for decision in found.decisions(None)] == ["once"]


async def test_a_copy_that_ended_as_its_files_got_their_names_is_finished(new: NewStore) -> None:
    source, target = new("postgresql"), new("sqlite")
    async with boards(source) as engine:
        await filled(engine)
    for step in range(2):
        left = step

        class Ending(SystemFiles):
            def place(self, path: str, to: str) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Stop
                super().place(path, to)

        with pytest.raises(Stop):
            copy(source, target, ports=Ports(files=Ending()))
        assert not Path(target.removeprefix("sqlite:")).exists(), "the log gets its name last"
    copy(source, target)

    assert log_of(target) == log_of(source)
    with open_backend(target).outside(Ports()).operations() as found:
        assert len(found.parked("letters")) == 6


@pytest.mark.parametrize("there", BOTH)
async def test_a_copy_does_not_go_on_from_another_history(
    new: NewStore, postgres: Server, there: str
) -> None:
    source, target = new("postgresql"), new(there)
    await raw(source, 60)
    with pytest.raises(Stop):
        copy(source, target, stop_at(20))
    await _in_its_place(postgres, source)

    with pytest.raises(StoreRefused, match="another event"):
        copy(source, target)


async def _in_its_place(postgres: Server, source: str) -> None:
    """Put a log in the place of another, with its id."""
    schema = source.rpartition("schema=")[2].partition("&")[0]
    log_id = postgres.sql(f"SELECT log_id FROM {schema}.about")
    postgres.sql(f"DROP SCHEMA {schema} CASCADE")
    await raw(source, 60, recorded=(2_000,))
    postgres.sql(f"UPDATE {schema}.about SET log_id = '{log_id}'")


@pytest.mark.parametrize("there", BOTH)
async def test_two_copies_do_not_write_into_one_place(new: NewStore, there: str) -> None:
    source, target = new("sqlite"), new(there)
    await raw(source, 60)
    refused: list[str] = []

    def show(progress: CopyProgress) -> None:
        if not refused:
            refused.append("not yet")
            refused[0] = _refusal(source, target, stop_at(30))

    refused.append(_refusal(source, target, show))
    assert min(refused) == ""
    assert "another process copies" in max(refused)
    if there == "postgresql":
        copy(source, target)
    assert log_of(target) == log_of(source)


def _refusal(source: str, target: str, show: Callable[[CopyProgress], None]) -> str:
    try:
        copy(source, target, show)
    except Stop:
        return ""
    except StoreRefused as error:
        return str(error)
    return ""


@pytest.mark.parametrize("there", BOTH)
async def test_no_second_copy_takes_the_claims_of_one_that_becomes_a_log(
    new: NewStore, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = new("sqlite"), new(there)
    await raw(source, 60)
    reading = open_backend(source).outside(Ports())
    first, second = (open_backend(target).outside(Ports()).copy_target() for _ in range(2))
    place = first.place

    def die(claims: Sequence[HeldClaim]) -> None:
        raise Stop

    def place_late() -> None:
        monkeypatch.setattr(second, "keep_claims", die)
        with pytest.raises((Stop, StoreRefused)):
            transfer(reading.copy_source(), second)
        place()

    monkeypatch.setattr(first, "place", place_late)
    with contextlib.suppress(StoreRefused):
        transfer(reading.copy_source(), first)
        assert there == "sqlite", "who goes on with it is the only one who ends it"
    if there == "postgresql":
        copy(source, target)
    assert log_of(target) == log_of(source)


async def test_a_stream_that_postgresql_cannot_name_is_told_by_its_position(
    new: NewStore,
) -> None:
    source = new("sqlite")
    log = open_backend(source).log()
    await log.open(Ports())
    for stream in ("a:1", "a:\0"):
        request = AppendRequest([Write(stream, 0, [EventData(ADDED, b"{}")])])
        await log.append(Batch([request], 9))
    await log.close()

    with pytest.raises(StoreRefused, match="position 2 is of a stream whose name has a NUL"):
        copy(source, new("postgresql"))


async def test_who_may_not_make_a_schema_is_told_to_be_its_owner(
    new: NewStore, postgres: Server
) -> None:
    source = new("sqlite")
    await raw(source, 3)
    role = postgres.new_schema()
    postgres.sql(f"CREATE ROLE {role} LOGIN")

    with pytest.raises(StoreRefused, match="the owner of its schemas"):
        copy(source, postgres.url(postgres.new_schema()).replace("postgres@", f"{role}@"))
