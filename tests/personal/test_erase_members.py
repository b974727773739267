"""Erasures where several processes share a log: what each of them is told, and who takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import ERASED, Delivery, Erasure, Ports, Sink
from engine.personal.vault import Vault
from engine.stores.sqlite.keys import SqliteKeys
from engine.testing.conformance.keys import LOG_ID
from tests.personal.badges import Badges, badged, folded
from tests.personal.hotel import NAME, OTHER, AllGuests, Register, Registered, hotel, two_guests
from tests.support.postgres import Server
from tests.support.waiting import until


class Letters(Sink, name="letters", version=1):
    async def deliver(self, batch: Sequence[Delivery[Registered]]) -> None: ...


async def test_every_process_is_told_what_an_erasure_waits_for_and_who_was_not_asked(
    postgres: Server,
) -> None:
    """Whichever of them finishes it."""
    log, keys = (postgres.url(postgres.new_schema()) for _ in range(2))
    async with badged(log, Badges, Letters, keys=keys) as engine:
        await engine.execute(Register("a", NAME))
        await folded(engine)
    async with (
        badged(log, keys=keys, join=True) as owner,
        badged(log, keys=keys, join=True) as member,
        asyncio.timeout(60),
    ):
        for each in (member, owner):
            erasure = await each.personal.erase("guest:a", timeout=0)
            while not erasure.waits_for:
                erasure = await each.personal.erase("guest:a", timeout=0.1)
            assert (erasure.finished, erasure.waits_for) == (None, ("badges",))
        await member.projections.drop("badges")
        for each in (member, owner):
            assert (await each.personal.erase("guest:a")).not_asked == ("letters",)


async def test_who_takes_a_log_over_knows_what_was_begun_since_it_has_read_the_keys(
    tmp_path: Path,
) -> None:
    """Its own keys are those that it makes from then on."""
    path = str(tmp_path / "log.keys.db")
    former, vault = Vault(SqliteKeys(path)), Vault(SqliteKeys(path))
    await former.open(Ports(), LOG_ID)
    await former.store.erase(Erasure(0, "guest:b", 1, 0))
    await vault.open(Ports(), LOG_ID)
    await former.store.erase(Erasure(0, "guest:a", 1, 0))
    former.seal("guest:a", b"written meanwhile", b"")
    await former.flush()
    made = former.made("guest:a")

    await vault.begin()

    assert vault.begun_before == {1: 0, 2: made}
    await former.close()
    await vault.close()


async def test_who_owns_a_log_at_its_second_try_erases_people_too(tmp_path: Path) -> None:
    """As a new release that begins while the former one ends: it has never been a member."""
    log = f"sqlite:{tmp_path}/hotel.db"
    former, engine = hotel(log), hotel(log, join=True)
    await former.__aenter__()
    await two_guests(former)
    starting = asyncio.create_task(engine.__aenter__())
    joined: Any = engine._joined  # pyright: ignore[reportPrivateUsage]
    await until(lambda: joined._membership._unreached)  # its first try was refused
    await former.__aexit__(None, None, None)
    await starting

    assert (await engine.personal.erase("guest:g-1")).finished
    assert [each.subject for each in await engine.personal.erasures()] == ["guest:g-1"]
    rows = {row.guest: row.name for row in await engine.query(AllGuests())}
    assert rows == {"guest:g-1": ERASED, "guest:g-2": OTHER}
    await engine.__aexit__(None, None, None)
