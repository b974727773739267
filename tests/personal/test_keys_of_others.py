"""A process reads what another one has written a moment ago, for people whose keys are that new."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine import Archive, Ports
from engine.personal.vault import Vault
from engine.stores.postgres import keys as keys_of_postgres
from engine.stores.postgres.address import read_address
from engine.stores.postgres.keys import PostgresKeys, keys_address
from engine.testing.conformance.keys import LOG_ID
from tests.members.joining import part
from tests.support.postgres import Server, asked
from tests.support.waiting import until

from .hotel import Guest, Register, Registered, Room, hotel


@pytest.fixture(autouse=True)
def nobody_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each copy of the keys be as old as its process, if nothing asks for more."""
    monkeypatch.setattr(keys_of_postgres, "POLL_SECONDS", 3_600.0)
    monkeypatch.setattr(keys_of_postgres, "STALE_SECONDS", 7_200.0)


@pytest.fixture
def places(postgres: Server) -> tuple[str, str]:
    """Give a log and its keys."""
    return postgres.url(postgres.new_schema(), "lease=5"), postgres.url(postgres.new_schema())


async def test_a_member_reads_what_the_owner_has_just_written(places: tuple[str, str]) -> None:
    log, keys = places
    async with (
        hotel(log, keys=keys, join=True) as owner,
        hotel(log, keys=keys, join=True) as member,
        asyncio.timeout(60),
    ):
        feed = member.feed(follow=True)
        for number in range(3):
            receipt = await owner.execute(Register(f"g-{number}", f"Guest {number}"))
            assert (await member.state(Guest, f"g-{number}")).name == f"Guest {number}"
            logged = await anext(feed)
            assert isinstance(logged.event, Registered)
            assert (logged.meta.position, logged.event.name) == (
                receipt.position,
                f"Guest {number}",
            )
        await feed.aclose()


async def test_an_archive_reads_what_an_engine_has_just_written(places: tuple[str, str]) -> None:
    log, keys = places
    async with hotel(log, keys=keys) as engine:
        await engine.execute(Register("g-0", "Guest 0"))
        async with Archive([Guest, Room], store=log, keys=keys) as archive:
            await engine.execute(Register("g-1", "Guest 1"))
            assert (await archive.state(Guest, "g-1")).name == "Guest 1"


async def test_who_takes_a_log_over_reads_what_its_former_owner_has_just_written(
    places: tuple[str, str],
) -> None:
    log, keys = places
    async with (
        hotel(log, keys=keys, join=True) as owner,
        hotel(log, keys=keys, join=True) as member,
        asyncio.timeout(60),
    ):
        await owner.execute(Register("g-1", "Guest 1"))
        await owner.__aexit__(None, None, None)
        receipt = await member.execute(Register("g-2", "Guest 2"), deadline=None)
        assert (await member.state(Guest, "g-1")).name == "Guest 1"
        while (status := await member.projections.status("guests")).position < receipt.position:
            assert status.state != "stopped"
            await asyncio.sleep(0.01)


async def test_an_owner_that_loses_the_log_reads_on_before_it_has_met_the_next_one(
    places: tuple[str, str], postgres: Server
) -> None:
    log, keys = places
    held = asyncio.Event()

    async def hold(_: object) -> None:
        await held.wait()

    async with hotel(log, keys=keys, join=True) as owner, asyncio.timeout(60):
        feed = owner.feed(follow=True)
        await owner.execute(Register("g-1", "Guest 1"))
        membership: Any = owner._joined._membership  # type: ignore[union-attr] # pyright: ignore
        go_on, membership._join_often = membership._join_often, hold
        schema = read_address(log).schema
        # As if another one had taken the log over.
        await asked(postgres, f"SELECT {schema}.end_session_1(1)")
        await until(lambda: part(owner).role == "waiting")
        assert (await owner.state(Guest, "g-1")).name == "Guest 1"
        assert await owner.personal.erasures() == []
        found = (await anext(feed)).event
        assert isinstance(found, Registered)
        assert found.name == "Guest 1"
        await feed.aclose()
        membership._join_often = go_on
        held.set()


async def test_who_begins_to_write_has_all_keys_that_were_made_before(
    places: tuple[str, str],
) -> None:
    former, vault = (Vault(PostgresKeys(keys_address(places[1]))) for _ in range(2))
    for each in (former, vault):
        await each.open(Ports(), LOG_ID)
    sealed = former.seal("guest:ann", b"Ann", b"here")
    await former.flush()
    assert vault.made("guest:ann") is None

    await vault.begin()

    assert vault.unseal(sealed, b"here", 1) == b"Ann"
    assert vault.made("guest:ann") == former.made("guest:ann")
    for each in (former, vault):
        await each.close()
