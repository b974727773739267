"""Keys of personal data in a PostgreSQL server: what others do there, and what the server does."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import ERASED, Erasure, Ports, StoreFailed, StoreRefused, SubjectKey, Voided
from engine.runtime.ports import Clock
from engine.stores.postgres.address import read_address
from engine.stores.postgres.keys import STALE_SECONDS, PostgresKeys, keys_address
from engine.stores.urls import open_keys
from engine.testing.conformance.keys import LOG_ID, key
from tests.support.breaking_lines import line_to
from tests.support.postgres import Server, asked
from tests.support.waiting import until

from .hotel import NAME, OTHER, AllGuests, Guest, Note, Register, hotel, two_guests


@pytest.fixture
def url(postgres: Server) -> str:
    return postgres.url(postgres.new_schema())


def schema_of(url: str) -> str:
    return read_address(url).schema


async def opened(url: str, ports: Ports | None = None) -> PostgresKeys:
    keys = open_keys("memory:", url)
    assert isinstance(keys, PostgresKeys)
    await keys.open(ports or Ports(), LOG_ID)
    return keys


def test_keys_have_a_schema_of_their_own_where_the_url_names_none() -> None:
    assert keys_address("postgresql://me@localhost/keys").schema == "foldline_keys"
    assert keys_address("postgresql://me@localhost/keys?patience=5").schema == "foldline_keys"
    assert keys_address("postgresql://me@localhost/keys?schema=mine").schema == "mine"


@pytest.mark.parametrize("of_log", ["sqlite", "postgresql"])
async def test_a_person_is_erased_for_all_processes_that_share_the_keys(
    postgres: Server, url: str, tmp_path: Path, of_log: str
) -> None:
    store = f"sqlite:{tmp_path}/hotel.db"
    if of_log == "postgresql":
        store = postgres.url(postgres.new_schema(), "lease=5")
    async with hotel(store, keys=url) as engine:
        await two_guests(engine)
        erasure = await engine.personal.erase("guest:g-1", reason="asked by mail")
        assert (erasure.keys, erasure.finished is not None) == (1, True)
        assert NAME not in str(await engine.query(AllGuests()))
    async with hotel(store, keys=url) as engine:
        assert (await engine.state(Guest, "g-1")).name == ERASED
        assert (await engine.state(Guest, "g-2")).name == OTHER
        await engine.execute(Register("g-3", "Cid Fox"))
    secrets = await asked(postgres, f"SELECT subject, secret IS NULL FROM {schema_of(url)}.keys")
    assert sorted(s for s in secrets if s[0] != "$snapshots" and not s[0].startswith("$")) == [
        ("guest:g-1", True),
        ("guest:g-2", False),
        ("guest:g-3", False),
    ]


async def test_members_on_other_machines_read_and_take_over(postgres: Server, url: str) -> None:
    log = postgres.url(postgres.new_schema(), "lease=2")
    async with hotel(log, keys=url, join=True) as owner:
        await two_guests(owner)
        async with hotel(log, keys=url, join=True) as member:
            assert (await member.state(Guest, "g-1")).name == NAME
            await owner.personal.erase("guest:g-1")
            async with asyncio.timeout(20):
                while (await member.state(Guest, "g-1")).name == NAME:
                    await asyncio.sleep(0.01)
            await owner.__aexit__(None, None, None)
            await member.execute(Register("g-4", "Dan Poe"), deadline=None)
            assert (await member.state(Guest, "g-4")).name == "Dan Poe"
            assert (await member.state(Guest, "g-2")).name == OTHER


class _Ahead(msgspec.Struct):
    """A clock that a test moves on."""

    by: float = 0.0
    real: Clock = msgspec.field(default_factory=lambda: Ports().clock)

    def now(self) -> int:
        return self.real.now()

    def monotonic(self) -> float:
        return self.real.monotonic() + self.by


async def test_who_is_cut_off_from_the_keys_reads_none_of_them(postgres: Server, url: str) -> None:
    async with line_to(postgres.port) as line:
        clock = _Ahead()
        cut = f"{url.replace(str(postgres.port), str(line.port))}&patience=0.1"
        keys = await opened(cut, Ports(clock=clock))
        await keys.add([key(5, "guest:ann")])
        there, line.server_port = line.server_port, 1
        line.cut()
        assert keys.find(5) == key(5, "guest:ann")
        clock.by = STALE_SECONDS + 1
        for ask in (keys.find, keys.current):
            with pytest.raises(StoreFailed, match="nothing is decrypted until") as failure:
                ask(5)  # type: ignore[arg-type]
            assert failure.value.passes
        other = await opened(url)
        await other.erase(Erasure(0, "guest:ann", 1, 0))
        line.server_port = there
        await until(lambda: _is_fresh(keys))
        assert keys.find(5) == SubjectKey(5, "guest:ann", None)
        await other.close()
        await keys.close()


def _is_fresh(keys: PostgresKeys) -> bool:
    try:
        keys.change_count()
    except StoreFailed:
        return False
    return True


async def test_own_changes_are_no_news(url: str) -> None:
    keys = await opened(url)
    count = keys.change_count()
    await keys.add([key(5, "guest:ann")])
    erasure = await keys.erase(Erasure(0, "guest:ann", 10, 0))
    await keys.finish(erasure.number, 20)
    compared: Any = keys._compared  # pyright: ignore[reportPrivateUsage]
    await until(lambda: keys._compared != compared)  # pyright: ignore[reportPrivateUsage]
    assert keys.change_count() == count
    await keys.close()


async def test_many_keys_are_copied_page_by_page(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = await opened(url)
    for begin in range(1, 60, 20):
        await keys.add([key(n, f"guest:{n % 7}") for n in range(begin, begin + 20)])
    await keys.erase(Erasure(0, "guest:3", 1, 0))
    monkeypatch.setattr("engine.stores.postgres.keys._PAGE", 7)
    again = await opened(url)
    for n in range(1, 61):
        assert again.find(n) == keys.find(n) != None  # noqa: E711
    assert again.current("guest:3") is None
    assert again.current("guest:1") == key(57, "guest:1")
    await keys.close()
    await again.close()


async def test_two_processes_make_the_keys_at_once(url: str) -> None:
    several = [open_keys("memory:", url) for _ in range(4)]
    await asyncio.gather(*(keys.open(Ports(), LOG_ID) for keys in several))
    await several[0].add([key(5, "guest:ann")])
    for keys in several:
        await keys.close()


async def test_the_schema_of_a_log_takes_no_keys(postgres: Server) -> None:
    url = postgres.url(postgres.new_schema())
    with pytest.raises(StoreRefused, match="has a log or something else, and no keys"):
        async with hotel(url, keys=url):
            pass
    async with hotel(url, keys=postgres.url(postgres.new_schema())) as engine:
        await engine.execute(Register("g-1", NAME))


@pytest.mark.parametrize(
    "slip",
    [
        "DELETE FROM {s}.keys",
        "DELETE FROM {s}.erasures",
        "TRUNCATE {s}.keys",
        "TRUNCATE {s}.erasures",
        "UPDATE {s}.keys SET subject = 'guest:bob'",
        "UPDATE {s}.keys SET number = 6",
        "UPDATE {s}.keys SET secret = decode(repeat('00', 32), 'hex')",
        "UPDATE {s}.keys SET secret = NULL",
    ],
)
async def test_no_slip_in_a_shell_takes_a_key_away(postgres: Server, url: str, slip: str) -> None:
    keys = await opened(url)
    await keys.add([key(5, "guest:ann")])
    await keys.erase(Erasure(0, "guest:cid", 1, 0))
    with pytest.raises(Exception, match="never deleted or changed"):
        await asked(postgres, slip.replace("{s}", schema_of(url)))
    await keys.close()
    again = await opened(url)
    assert again.find(5) == key(5, "guest:ann")
    assert len(await again.erasures()) == 1
    await again.close()


async def test_a_role_without_rights_is_told_so(postgres: Server, url: str) -> None:
    await asked(postgres, "CREATE ROLE nobody_of_keys LOGIN")
    with pytest.raises(StoreRefused, match="Grant it"):
        await opened(url.replace("postgres@", "nobody_of_keys@"))


async def test_a_role_may_use_a_schema_that_somebody_has_made_for_it(
    postgres: Server, url: str
) -> None:
    schema = schema_of(url)
    await asked(postgres, "CREATE ROLE tenant LOGIN")
    await asked(postgres, f"CREATE SCHEMA {schema} AUTHORIZATION tenant")
    keys = await opened(url.replace("postgres@", "tenant@"))
    await keys.add([key(5, "guest:ann")])
    await keys.close()


async def test_a_server_that_may_lose_commits_is_refused(postgres: Server, url: str) -> None:
    await asked(postgres, "CREATE ROLE careless SUPERUSER LOGIN")
    await asked(postgres, "ALTER ROLE careless SET synchronous_commit = off")
    with pytest.raises(StoreRefused, match="synchronous_commit=off"):
        await opened(url.replace("postgres@", "careless@"))


async def test_commands_are_told_that_keys_cannot_be_kept(postgres: Server, url: str) -> None:
    async with line_to(postgres.port) as line:
        cut = f"{url.replace(str(postgres.port), str(line.port))}&patience=0.1"
        async with hotel("memory:", keys=cut) as engine:
            await engine.execute(Register("g-1", NAME))
            there, line.server_port = line.server_port, 1
            line.cut()
            with pytest.raises(Voided, match="keys of personal data cannot be written"):
                await engine.execute(Register("g-2", OTHER))
            line.server_port = there
            await engine.execute(Register("g-2", OTHER))
            assert (await engine.state(Guest, "g-2")).name == OTHER


async def test_no_new_keys_begin_where_those_of_the_log_are_not_there(
    postgres: Server, url: str, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store, keys=url) as engine:
        await engine.execute(Register("g-1", NAME))
    await asked(postgres, f"DROP SCHEMA {schema_of(url)} CASCADE")
    with pytest.raises(StoreRefused, match="there are no keys at .*first of them at position 1"):
        async with hotel(store, keys=url):
            pass
    await asked(postgres, f"CREATE SCHEMA {schema_of(url)}")  # they are lost, and somebody says so
    async with hotel(store, keys=url) as engine:
        await engine.execute(Register("g-2", OTHER))
        assert (await engine.state(Guest, "g-2")).name == OTHER


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("DROP SCHEMA {s} CASCADE", "not there any more"),
        ("UPDATE {s}.about SET changes = 0", "set back"),
        ("UPDATE {s}.about SET made = 'anew', changes = 100", "others were made"),
    ],
    ids=["dropped", "set-back", "others"],
)
async def test_nothing_is_acknowledged_once_the_keys_are_others(
    postgres: Server, url: str, what: str, why: str
) -> None:
    async with hotel("memory:", keys=url) as engine:
        await engine.execute(Register("g-1", NAME))
        await asked(postgres, what.replace("{s}", schema_of(url)))
        vault: Any = engine.personal._vault  # pyright: ignore[reportPrivateUsage]
        await until(lambda: vault.store._gone is not None)
        with pytest.raises(Voided, match=why):
            await engine.execute(Note("g-1", "hello"))


async def lose_the_last_key(server: Server, url: str) -> None:
    """As a failover that loses the last change."""
    schema = schema_of(url)
    await asked(
        server,
        f"DO $$ BEGIN SET LOCAL session_replication_role = replica; "
        f"DELETE FROM {schema}.keys WHERE change = (SELECT changes FROM {schema}.about); "
        f"UPDATE {schema}.about SET changes = changes - 1; END $$",
    )


@pytest.mark.parametrize("more", [1, 3], ids=["as-many-again", "more"])
@pytest.mark.parametrize("writes", [True, False], ids=["owner", "member"])
async def test_keys_that_were_set_back_are_known_when_there_are_as_many_again(
    postgres: Server, url: str, more: int, writes: bool
) -> None:
    """What was made with a lost one would be read by nobody after a restart."""
    keys = await opened(url)
    await keys.add([key(1, "guest:ann")])
    await keys.add([key(2, "guest:bob")])
    await keys.catch_up(anew=writes)
    before = keys.change_count()
    await lose_the_last_key(postgres, url)
    next_owner = await opened(url)
    for number in range(3, 3 + more):
        await next_owner.add([key(number, f"guest:{number}")])
    await next_owner.close()

    await keys.catch_up()
    with (
        pytest.raises(StoreFailed, match="were set back.*start the engine again")
        if writes
        else nullcontext()
    ):
        keys.check()
    assert keys.change_count() != before  # so that whoever has taken some out looks again
    assert (keys.find(2), keys.current("guest:bob")) == (None, None)
    assert keys.find(1) == key(1, "guest:ann")
    assert keys.current("guest:3") == key(3, "guest:3")
    await keys.catch_up(anew=True)  # as who takes the log over
    keys.check()
    await keys.close()


async def test_no_key_is_added_by_who_has_keys_that_were_lost(postgres: Server, url: str) -> None:
    keys = await opened(url)
    await keys.add([key(1, "guest:ann")])
    await keys.catch_up()
    await lose_the_last_key(postgres, url)

    with pytest.raises(StoreFailed, match="were set back"):
        await keys.add([key(2, "guest:bob")])
    assert await asked(postgres, f"SELECT count(*) FROM {schema_of(url)}.keys") == [(0,)]
    await keys.close()


async def test_no_key_is_added_to_others_that_were_made_meanwhile(
    postgres: Server, url: str
) -> None:
    keys = await opened(url)
    await asked(postgres, f"UPDATE {schema_of(url)}.about SET made = 'anew'")
    for write in (keys.add([key(5, "guest:ann")]), keys.erase(Erasure(0, "guest:ann", 1, 0))):
        with pytest.raises(StoreFailed, match="others were made there"):
            await write
    assert await asked(postgres, f"SELECT count(*) FROM {schema_of(url)}.keys") == [(0,)]
    await keys.close()
