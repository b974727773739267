"""Rules of retention that an engine runs while it goes on: `engine.operations.retention`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import apsw
import msgspec
import pytest

from engine import (
    ERASED,
    DefinitionError,
    Engine,
    Forbidden,
    Ports,
    Receipt,
    Retention,
    StoreFailed,
    StoreRefused,
    UsageError,
)
from engine.__main__ import main
from engine.runtime.ports import ARCHIVE_FAILPOINTS
from engine.stores.sqlite.connection import run
from engine.stores.sqlite.log import archiving_beside
from engine.stores.sqlite.log.cold import MOVED, cold_path, is_attached
from engine.stores.sqlite.log.store import SqliteStore
from tests.crashes.archive import read
from tests.personal.stays import RULES as STAYS
from tests.personal.stays import Case, Complain, Stay, opened, stays
from tests.support.postgres import Server
from tests.whole.orders import Close, Closed, Note, Open, Order, Orders, get_all

RULES = [Retention(Order, [Closed], archive_after=timedelta(0))]
STEPS = [step for step in ARCHIVE_FAILPOINTS if step != "archive.shrunk"]


def engine(url: str, failpoint: Callable[[str], None] | None = None) -> Engine:
    return Engine(
        [Order],
        projections=[Orders],
        answers=[get_all],
        store=url,
        ports=Ports(failpoint=failpoint),
    )


async def filled(running: Engine) -> None:
    """Store six orders, of which the first three are closed."""
    for n in range(6):
        await running.execute(Open(f"o-{n}", f"s-{n}"), key=f"open-{n}")
        await running.execute(Note(f"o-{n}", f"note {n}"), key=f"note-{n}")
        if n < 3:
            await running.execute(Close(f"o-{n}"), key=f"close-{n}")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "shop.db")


def only_ann(who: str | None, _action: object, _message: object) -> bool:
    return who == "ann"


def moved(path: str) -> int:
    with closing(apsw.Connection(path)) as connection:
        return int(
            run(connection, "SELECT count(*) FROM events WHERE encoding = ?", (MOVED,))[0][0]
        )


async def test_closed_streams_are_archived_while_commands_go_on(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving_beside, "_BESIDE_EVENTS", 2)
    async with engine(f"sqlite:{path}") as running:
        await filled(running)
        (looked,) = await running.operations.retention(RULES, dry_run=True)
        assert (looked.events, looked.streams, looked.done) == (9, 3, False)
        assert not Path(cold_path(path)).exists()

        archiving_ = asyncio.create_task(running.operations.retention(RULES))
        receipts: list[Receipt] = []
        while not archiving_.done():
            receipts.append(await running.execute(Note("o-5", f"n {len(receipts)}")))
        (done,) = archiving_.result()

        assert (done.events, done.streams, done.done) == (9, 3, True)
        assert done.rule == "order closed by order-closed, 0 days"
        receipts.append(await running.execute(Note("o-0", "again"), key="again"))
        again = await running.execute(Close("o-0"), key="close-0")
        assert (again.version, again.position) == (3, 3)
        assert (await running.state(Order, "o-1")).notes == ["s-1", "note 1", "closed"]
        store = running._wiring.store
        assert isinstance(store, SqliteStore)
        assert not is_attached(store._connection), "a batch would lock the cold file"
        with pytest.raises(apsw.ConstraintError, match="never change"):
            run(store._connection, "UPDATE events SET payload = x''")
    assert moved(path) == 9
    events = {event.position: event for event in read(path)}
    assert [events[receipt.position].stream for receipt in receipts[:-1]] == ["order:o-5"] * (
        len(receipts) - 1
    )
    assert main(["verify", path]) == 0


@pytest.mark.parametrize("step", STEPS)
async def test_where_a_move_fails_the_engine_goes_on_and_the_next_one_too(
    path: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving_beside, "_BESIDE_EVENTS", 4)
    failing = [step]

    def fail(name: str) -> None:
        if name in failing:
            failing.clear()
            raise OSError("no more")

    async with engine(f"sqlite:{path}", fail) as running:
        await filled(running)
        with pytest.raises((OSError, StoreFailed, StoreRefused)):
            await running.operations.retention(RULES)
        await running.execute(Note("o-5", "goes on"))
        assert [event.position for event in read(path)] == [*range(1, 17)]

        await running.operations.retention(RULES)

        assert (await running.state(Order, "o-1")).notes == ["s-1", "note 1", "closed"]
    assert moved(path) == 9
    assert main(["verify", path]) == 0


async def test_a_run_that_is_refused_leaves_no_note(path: str) -> None:
    async with engine(f"sqlite:{path}") as running:
        await filled(running)
        Path(cold_path(path)).write_bytes(b"somebody's file")
        with pytest.raises(StoreRefused, match="cannot be used"):
            await running.operations.retention(RULES)
        await running.execute(Note("o-5", "goes on"))
    with closing(apsw.Connection(path)) as connection:
        assert run(connection, "SELECT count(*) FROM archives") == [(0,)]
    assert moved(path) == 0


async def test_a_log_in_postgresql_is_archived_by_its_engine(postgres: Server) -> None:
    async with engine(postgres.url(postgres.new_schema())) as running:
        await filled(running)
        (done,) = await running.operations.retention(RULES)
        assert (done.events, done.streams) == (9, 3)
        assert (await running.state(Order, "o-1")).notes == ["s-1", "note 1", "closed"]
        again = await running.execute(Close("o-0"), key="close-0")
        assert (again.version, again.position) == (3, 3)


@pytest.mark.parametrize("store", ["memory:", "sqlite:{path}?writer=process"])
async def test_what_cannot_be_archived_beside_its_engine_says_so(store: str, path: str) -> None:
    async with engine(store.replace("{path}", path)) as running:
        await filled(running)
        with pytest.raises((UsageError, DefinitionError), match=r"archived|has no file"):
            await running.operations.retention(RULES)
        with pytest.raises(UsageError, match="one at least"):
            await running.operations.retention([])
        await running.execute(Note("o-5", "goes on"))


async def test_only_who_may_is_served(path: str) -> None:
    async with Engine([Order], store=f"sqlite:{path}", authorize=only_ann) as e:
        with pytest.raises(Forbidden):
            await e.operations.retention(RULES, principal="bob")
        assert (await e.operations.retention(RULES, principal="ann"))[0].events == 0


async def test_a_person_is_erased_unless_an_open_stream_comes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hotel.db"
    await stays(path)
    async with opened(path, -400) as running:
        with pytest.raises(StoreRefused, match="Look at the clock"):
            await running.operations.retention(STAYS)
        looked = await running.operations.retention(STAYS, dry_run=True, at_rest=True)
        assert [(one.subject, one.done) for one in looked[:2]] == [("ann", False), ("bob", False)]
        erase = running.personal.erase

        async def meanwhile(subject: str, **given: object) -> object:
            await running.execute(Complain("c-2", "bob", "warm beer"))
            return await erase(subject, **given)  # type: ignore[arg-type]

        monkeypatch.setattr(running.personal, "erase", meanwhile)
        done = await running.operations.retention(STAYS, at_rest=True)

        told = [(one.action, one.subject, one.done) for one in done]
        assert told == [("erase", "ann", True), ("erase", "bob", False), ("archive", None, True)]
        (kept,) = await running.personal.erasures()
        assert (kept.subject, kept.principal) == ("ann", "retention")
        assert kept.reason == "retention: stay closed by left, 365 days"
        assert (await running.state(Case, "c-2")).text == "warm beer"
        assert (await running.state(Stay, "1")).name == ERASED
        assert (await running.state(Stay, "5")).name == "bob Canary"


def is_short(order: Order) -> bool:
    return len(order.notes) < 4


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_function_of_the_state_says_which_streams_are_not_closed(
    kind: str, path: str, postgres: Server
) -> None:
    url = f"sqlite:{path}" if kind == "sqlite" else postgres.url(postgres.new_schema())
    short = Retention(Order, [Closed], archive_after=timedelta(0), closed_if=is_short)

    def broken(_order: Order) -> bool:
        raise ValueError("what is in it is nobody's business")

    failing = Retention(Order, [Closed], archive_after=timedelta(0), closed_if=broken)
    never = Retention(Order, [Closed], archive_after=timedelta(0), closed_if=lambda _: 1)  # type: ignore[arg-type, return-value]
    async with engine(url) as running:
        await filled(running)
        await running.execute(Note("o-1", "more"))
        await running.execute(Close("o-1"))
        with pytest.raises(UsageError, match=r"if broken: it failed for order:o-0 with ValueError"):
            await running.operations.retention([failing])
        assert (await running.operations.retention([never]))[0].events == 0
        assert not Path(cold_path(path)).exists()
        (looked,) = await running.operations.retention([short], dry_run=True)
        (done,) = await running.operations.retention([short])
        assert (looked.events, done.events, done.streams) == (6, 6, 2)
        assert done.rule == "order closed by order-closed, if is_short, 0 days"
        (entry,) = [one for one in (await running.operations.audit()).entries if one.position]
        assert (entry.target, entry.position) == ("order closed by order-closed, if is_short", 9)
        assert (await running.state(Order, "o-0")).notes == ["s-0", "note 0", "closed"]


async def test_a_person_stays_whose_stream_is_not_closed_by_its_state(tmp_path: Path) -> None:
    path = tmp_path / "hotel.db"
    await stays(path)

    async with opened(path, -400) as running:
        looked = await running.operations.retention(STAYS, dry_run=True, at_rest=True)
        kept = await running.operations.retention(PAID, dry_run=True, at_rest=True)
    assert [one.subject for one in looked if one.action == "erase"] == ["ann", "bob"]
    assert [one.subject for one in kept if one.action == "erase"] == ["bob"]


def make_engine() -> Engine:
    return engine("sqlite:none.db")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_command_asks_a_function_of_the_state_by_the_code_of_the_application(
    kind: str, path: str, postgres: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:{path}" if kind == "sqlite" else postgres.url(postgres.new_schema())
    rules, app = "tests.whole.test_retained:BY_STATE", "tests.whole.test_retained:make_engine"

    async def fill() -> None:
        async with engine(url) as running:
            await filled(running)
            await running.execute(Note("o-1", "more"))
            await running.execute(Close("o-1"))
            # The log's last event stays whatever a rule says.
            await running.execute(Note("o-5", "behind"))

    async def look() -> None:
        async with engine(url) as running:
            (entry,) = [one for one in (await running.operations.audit()).entries if one.position]
            expected = ("order closed by order-closed, if is_short", 9)
            assert (entry.target, entry.position) == expected
            assert (await running.state(Order, "o-1")).notes[-2:] == ["more", "closed"]

    asyncio.run(fill())
    assert main(["retention", url, rules]) == 1
    assert "name it with --app" in capsys.readouterr().err
    for more in (["--dry-run"], []):
        assert main(["retention", url, rules, "--app", app, *more]) == 0
        said = capsys.readouterr().out
        assert said.startswith("6 events of 2 streams"), said
        assert "order closed by order-closed, if is_short, 0 days" in said
    asyncio.run(look())


hotel: Callable[[], Engine] = make_engine
"""Another one where a test says so."""


def test_the_command_keeps_a_person_whose_stream_is_not_closed_by_its_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, here = tmp_path / "hotel.db", "tests.whole.test_retained"
    asyncio.run(stays(path))
    monkeypatch.setattr(f"{here}.hotel", lambda: opened(path, -400))

    def due(rules: str) -> list[str]:
        common = ["--app", f"{here}:hotel", "--dry-run", "--at-rest", "--json"]
        assert main(["retention", str(path), f"{here}:{rules}", *common]) == 0
        lines = [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines()]
        return [line["subject"] for line in lines if line["action"] == "erase"]

    assert due("STAYS") == ["ann"]
    assert due("PAID") == []


def is_paid(stay: Stay) -> bool:
    return stay.id != "1"


PAID = [
    msgspec.structs.replace(rule, closed_if=is_paid) if rule.aggregate is Stay else rule
    for rule in STAYS
]
BY_STATE = [Retention(Order, [Closed], archive_after=timedelta(0), closed_if=is_short)]
