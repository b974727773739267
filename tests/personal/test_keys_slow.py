"""Keys in a server that is slow or away, callers who give up, processes that stand still."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from engine import ERASED, Erasure, Ports, StoreFailed
from engine.model.personal import SNAPSHOTS
from engine.personal.vault import Vault
from engine.runtime.ports import Clock
from engine.stores.postgres import keys as keys_of_postgres
from engine.stores.postgres.address import read_address
from engine.stores.postgres.keys import STALE_SECONDS, PostgresKeys, keys_address
from engine.stores.postgres.keys_sql import CHANGE
from engine.stores.postgres.line import Line
from engine.testing.conformance.keys import LOG_ID, key
from tests.support.breaking_lines import line_to
from tests.support.postgres import Server, asked, connected
from tests.support.waiting import until

from .hotel import NAME, AllGuests, Guest, Register, hotel, two_guests


class Ahead(msgspec.Struct):
    """A clock that a test moves on."""

    by: float = 0.0
    real: Clock = msgspec.field(default_factory=lambda: Ports().clock)

    def now(self) -> int:
        return self.real.now()

    def monotonic(self) -> float:
        return self.real.monotonic() + self.by


@pytest.fixture
def url(postgres: Server) -> str:
    return postgres.url(postgres.new_schema())


async def test_nothing_is_decrypted_with_what_was_read_before_the_keys_were_cut_off(
    postgres: Server, url: str
) -> None:
    async with line_to(postgres.port) as line:
        clock = Ahead()
        cut = f"{url.replace(str(postgres.port), str(line.port))}&patience=0.1"
        vault = Vault(PostgresKeys(keys_address(cut)))
        await vault.open(Ports(clock=clock), LOG_ID)
        sealed = vault.seal("guest:ann", NAME.encode(), b"here")
        await vault.flush()
        assert vault.unseal(sealed, b"here", 1) == NAME.encode()
        payload = f'{{"$personal":"{sealed}"}}'.encode()
        line.server_port = 1
        line.cut()
        clock.by = STALE_SECONDS + 1
        for _ in range(3):  # not only the first of them
            with pytest.raises(StoreFailed, match="nothing is decrypted until"):
                vault.unseal(sealed, b"here", 1)
            with pytest.raises(StoreFailed, match="nothing is decrypted until"):
                vault.seal("guest:ann", b"more", b"there")
            # What is read beside it needs no key, and is not refused.
            await vault.know([cast("Any", SimpleNamespace(payload=payload))])
        await vault.close()


class Given(PostgresKeys):
    """Keys whose next answer to an erasure never comes; it is done all the same."""

    has_erased = False

    async def erase(self, erasure: Erasure) -> Erasure:
        erased = await super().erase(erasure)
        if erasure.subject == SNAPSHOTS or self.has_erased:
            return erased
        self.has_erased = True
        await asyncio.Event().wait()
        return erased


async def test_an_erasure_whose_caller_gives_up_is_finished(url: str, tmp_path: Path) -> None:
    keys = Given(keys_address(url))
    async with hotel(f"sqlite:{tmp_path}/hotel.db", keys=keys) as engine, asyncio.timeout(30):
        await two_guests(engine)
        call = asyncio.ensure_future(engine.personal.erase("guest:g-1"))
        await until(lambda: keys.has_erased)
        call.cancel()
        await asyncio.wait([call])

        receipt = await engine.execute(Register("g-1", "Ann Lee"))
        while None in [erasure.finished for erasure in await engine.personal.erasures()]:
            await asyncio.sleep(0.01)

        assert NAME not in str(await engine.query(AllGuests(), at=receipt))
        assert (await engine.state(Guest, "g-1")).name in {"Ann Lee", ERASED}
        async for logged in engine.feed(after=receipt.position - 1):
            assert NAME not in str(logged.event)
            break


async def test_a_server_that_cannot_clean_up_keeps_no_erasure_waiting(
    postgres: Server, url: str, tmp_path: Path
) -> None:
    """It cleans up as soon as it can."""
    schema = read_address(url).schema
    other = await connected(postgres)
    async with hotel(f"sqlite:{tmp_path}/hotel.db", keys=url) as engine, asyncio.timeout(60):
        await two_guests(engine)
        async with other.transaction():
            await other.execute(f"LOCK TABLE {schema}.keys IN SHARE UPDATE EXCLUSIVE MODE")
            assert (await engine.personal.erase("guest:g-1")).finished is not None
        while (True,) not in await asked(
            postgres,
            "SELECT vacuum_count > 0 FROM pg_stat_user_tables "
            f"WHERE schemaname = '{schema}' AND relname = 'keys'",
        ):
            await asyncio.sleep(0.05)
    await other.close()


async def test_a_process_that_stands_still_in_a_change_keeps_the_others_for_a_moment(
    postgres: Server, url: str
) -> None:
    keys = PostgresKeys(keys_address(f"{url}&patience=20"))
    await keys.open(Ports(), LOG_ID)
    (made,) = (await asked(postgres, f"SELECT made FROM {read_address(url).schema}.about"))[0]
    other = await connected(postgres)
    await other.execute("BEGIN")
    await other.fetchrow(read_address(url).sql(CHANGE), made)
    await keys.add([key(5, "guest:ann")])
    assert keys.find(5) == key(5, "guest:ann")
    other.terminate()
    await keys.close()


async def test_keys_are_read_by_a_question_for_each_page_and_are_fresh_then(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: each question has its own time, and what took long is old."""
    first = PostgresKeys(keys_address(url))
    await first.open(Ports(), LOG_ID)
    await first.add([key(n, f"guest:{n}") for n in range(1, 61)])
    await first.close()
    clock, fetched, most = Ahead(), 0, 0
    fetch, call = Line.fetch, PostgresKeys._call  # pyright: ignore[reportPrivateUsage]

    async def fetch_slowly(line: Line, query: str, *values: Any) -> Sequence[Any]:
        nonlocal fetched
        fetched += 1
        clock.by += 2
        return await fetch(line, query, *values)

    async def call_once(keys: PostgresKeys, what: str, asks: Any, *lines: Any) -> Any:
        nonlocal fetched, most
        before = fetched
        try:
            return await call(keys, what, asks, *lines)
        finally:
            most = max(most, fetched - before)

    monkeypatch.setattr(keys_of_postgres, "_PAGE", 7)
    monkeypatch.setattr(Line, "fetch", fetch_slowly)
    monkeypatch.setattr(PostgresKeys, "_call", call_once)
    keys = PostgresKeys(keys_address(url))
    await keys.open(Ports(clock=clock), LOG_ID)
    assert (fetched, most) == (9, 1)
    assert keys.find(60) == key(60, "guest:60")
    await keys.close()
