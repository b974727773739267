"""Commands that were recorded, decided again: the same where the code is, told where it is not."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import (
    Aggregate,
    Command,
    DeadlinePassed,
    DefinitionError,
    Engine,
    Event,
    Id,
    Personal,
    Recording,
    Rejected,
    StoreRefused,
    applies,
    handles,
    upcasts,
)
from engine.recording.replaying import Replayed
from engine.testing import replay
from tests.recording.recorded_shop import (
    PRICES,
    STUBBORN,
    Buy,
    Dawdle,
    Open,
    Pay,
    Purse,
    Rate,
    sell,
    shop,
)


async def replayed(log: Any, folder: Path, **options: Any) -> list[Replayed]:
    engine = options.pop("engine", None) or shop()
    return [each async for each in replay(engine, log, folder / "recorded", **options)]


async def test_the_same_code_decides_the_same(tmp_path: Path) -> None:
    log = await sell(tmp_path)

    found = await replayed(log, tmp_path, resources={Rate: Rate(50)})

    assert [(each.decided.command, each.verdict, each.why) for each in found] == [
        (name, "same", "")
        for name in (
            *("open", "open", "open", "pay", "buy", "move", "convert", "close"),
            *("enrol", "enrol", "enrol"),
        )
    ]
    assert [each.decided.gave.outcome for each in found[:3]] == ["events", "events", "rejected"]
    assert found[0].decided.said.principal == "ann"


async def test_a_handler_that_looks_elsewhere_is_found_with_the_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await sell(tmp_path)
    monkeypatch.setitem(PRICES, "now", 120)

    found = await replayed(log, tmp_path, command="buy")

    assert [(each.verdict, each.why) for each in found] == [("differs", "paid differs at .cents")]


async def test_another_rule_shows_which_commands_it_would_have_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await sell(tmp_path)

    def dear(self: Purse, command: Buy) -> Any:
        raise Rejected("too-dear", "no")

    handler = Purse.__definition__.handlers[Buy]
    stricter: dict[Any, Any] = {
        **Purse.__definition__.handlers,
        Buy: msgspec.structs.replace(handler, decide=dear),
    }
    definition = msgspec.structs.replace(Purse.__definition__, handlers=stricter)
    monkeypatch.setattr(Purse, "__definition__", definition)

    found = [each for each in await replayed(log, tmp_path) if each.verdict == "differs"]

    assert [each.why for each in found] == [
        "it gave paid version 1, and gives rejected 'too-dear' today"
    ]


async def test_resources_are_never_called_unless_stand_ins_are_given(tmp_path: Path) -> None:
    log = await sell(tmp_path)
    found = {each.decided.command: each for each in await replayed(log, tmp_path)}

    assert found["convert"].verdict == "unknown"
    assert "takes Rate: give a stand-in" in found["convert"].why
    (other,) = await replayed(log, tmp_path, command="convert", resources={Rate: Rate(10)})
    assert (other.verdict, other.why) == ("differs", "paid differs at .cents")


async def test_a_stream_can_be_asked_for_alone(tmp_path: Path) -> None:
    log = await sell(tmp_path)

    found = await replayed(log, tmp_path, stream="purse:b")

    assert [each.decided.command for each in found] == ["open", "move"]
    assert {each.verdict for each in found} == {"same"}


async def test_a_decision_that_was_not_stored_is_unknown_to_all_that_stand_on_it(
    tmp_path: Path,
) -> None:
    log = await sell(tmp_path)
    shortened = tmp_path / "shortened.db"
    source, target = sqlite3.connect(log), sqlite3.connect(shortened)
    source.backup(target)
    # As if the machine had stopped before these were durable: the log ends before them.
    for name in [
        n for (n,) in target.execute("SELECT name FROM sqlite_master WHERE type='trigger'")
    ]:
        target.execute(f'DROP TRIGGER "{name}"')
    (first,) = target.execute(
        "SELECT min(position) FROM events WHERE CAST(payload AS TEXT) LIKE '%-100}'"
    )
    target.execute("DELETE FROM events WHERE position >= ?", first)
    target.commit()
    source.close()
    target.close()

    found = await replayed(shortened, tmp_path, resources={Rate: Rate(50)}, stream="purse:a")

    verdicts = Counter((each.decided.command, each.verdict) for each in found)
    assert verdicts["buy", "same"] == 1, "what it was decided on is there"
    assert verdicts["move", "unknown"] == verdicts["convert", "unknown"] == 1
    assert any("were not stored" in each.why for each in found)


async def test_the_last_line_of_a_killed_process_is_passed_over(tmp_path: Path) -> None:
    log = await sell(tmp_path)
    (file,) = (tmp_path / "recorded").iterdir()
    file.write_bytes(file.read_bytes()[:-7])

    assert len(await replayed(log, tmp_path)) == 10


async def test_a_damaged_line_and_another_log_are_refused_by_name(tmp_path: Path) -> None:
    log = await sell(tmp_path)
    async with shop(tmp_path / "other.db"):
        pass
    with pytest.raises(StoreRefused, match="has 1 files of a recording, and none of log"):
        await replayed(tmp_path / "other.db", tmp_path)
    (file,) = (tmp_path / "recorded").iterdir()
    file.write_bytes(file.read_bytes().replace(b'"now"', b'"new"', 1))
    with pytest.raises(StoreRefused, match=r"\.jsonl:2 is no line of a recording"):
        await replayed(log, tmp_path)
    with pytest.raises(StoreRefused, match="has 0 files of a recording"):
        await replayed(log, tmp_path / "nothing")


async def test_files_are_their_owners_alone_and_old_ones_go(tmp_path: Path) -> None:
    log, folder = await sell(tmp_path), tmp_path / "recorded"
    (first,) = folder.iterdir()
    assert (first.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    (folder / "note.txt").write_text("somebody's own")
    os.utime(first, (0, 1))
    async with shop(log, record=Recording(folder, keep_hours=1)) as engine:
        await engine.execute(Pay("a", 1))

    assert first not in set(folder.iterdir())
    assert (folder / "note.txt").exists()


async def test_a_full_file_is_followed_by_another(tmp_path: Path) -> None:
    folder = tmp_path / "recorded"
    async with shop(tmp_path / "shop.db", record=Recording(folder, file_bytes=1 << 16)) as engine:
        for _ in range(4):
            for number in range(200):
                await engine.execute(Pay("a", number))

    assert len(list(folder.iterdir())) > 1
    found = await replayed(tmp_path / "shop.db", tmp_path)
    assert (len(found), {each.verdict for each in found}) == (800, {"same"})


async def test_commands_are_answered_although_nothing_can_be_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "recorded"
    async with shop(tmp_path / "shop.db", record=folder) as engine:
        folder.rmdir()
        await engine.execute(Open("a", "Ann"))

    assert [r.message for r in caplog.records if "are not recorded" in r.message]


async def test_a_folder_that_cannot_be_made_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="Nothing was run"):
        async with shop(record=tmp_path / "missing" / "recorded"):
            pass


async def test_a_handler_that_was_ended_is_unknown_and_hides_nothing_behind_it(
    tmp_path: Path,
) -> None:
    log = tmp_path / "shop.db"
    async with shop(log, record=tmp_path / "recorded") as engine:
        STUBBORN.clear()
        with pytest.raises(DeadlinePassed):
            await engine.execute(Dawdle("a", 7), deadline=0.05)
        await engine.execute(Pay("a", 1))
        STUBBORN.set()  # the handler that nobody waits for any more goes on to its end
        await engine.execute(Pay("a", 2))
        await engine.execute(Pay("a", 3))

    found = await replayed(log, tmp_path)

    verdicts = Counter((each.decided.command, each.verdict) for each in found)
    assert verdicts == {("dawdle", "unknown"): 1, ("pay", "same"): 3}
    assert {each.why for each in found if each.decided.command == "dawdle"} == {
        "it was ended before it decided: by its deadline, or as void"
    }


async def test_files_of_other_logs_in_one_folder_are_passed_over(tmp_path: Path) -> None:
    log, folder = await sell(tmp_path), tmp_path / "recorded"
    async with shop(tmp_path / "other.db", record=folder) as engine:
        await engine.execute(Pay("z", 1))

    assert [each.decided.command for each in await replayed(tmp_path / "other.db", tmp_path)] == [
        "pay"
    ]
    assert len(await replayed(log, tmp_path)) == 11


class Named(Event, name="named", version=1, subject="who"):
    who: str
    full: Personal[str]


class Name(Command):
    person: Id
    full: str


class Person(Aggregate, kind="person"):
    @handles
    def name(self, command: Name) -> Named:
        return Named(self.id, command.full)

    @applies
    def on_named(self, event: Named) -> None:
        pass


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"record": Recording("x")}, "named has personal fields"),
        ({"record": ""}, "the path of a folder"),
    ],
)
def test_what_may_not_be_recorded_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        Engine([Person], **given)


@pytest.mark.parametrize(
    "options", [{"keep_hours": 0}, {"keep_hours": float("nan")}, {"file_bytes": 5}]
)
def test_a_recording_without_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match=next(iter(options))):
        Recording("x", **options)


class DealtBefore(Event, name="dealt", version=1):
    cents: int


class Dealt(Event, name="dealt", version=2):
    cents: int
    currency: str


class Tipped(Event, name="tipped"):
    cents: int


class TippedOften(Event, name="tipped", added=["often"]):
    cents: int
    often: bool = False


@upcasts
def with_currency(event: DealtBefore) -> Dealt:
    return Dealt(event.cents, "EUR")


class Deal(Command):
    till: Id
    cents: int


class Tip(Command):
    till: Id
    cents: int


class FormerTill(Aggregate, kind="till"):
    cents: int = 0

    @handles
    def deal(self, command: Deal) -> DealtBefore:
        return DealtBefore(command.cents)

    @handles
    def tip(self, command: Tip) -> Tipped:
        return Tipped(command.cents)

    @applies
    def dealt(self, event: DealtBefore) -> None:
        self.cents += event.cents

    @applies
    def tipped(self, event: Tipped) -> None:
        self.cents += event.cents


class Till(Aggregate, kind="till"):
    cents: int = 0

    @handles
    def deal(self, command: Deal) -> Dealt:
        return Dealt(min(command.cents, PRICES["now"]), "EUR")

    @handles
    def tip(self, command: Tip) -> TippedOften:
        return TippedOften(command.cents, often=command.cents > PRICES["now"])

    @applies
    def dealt(self, event: Dealt) -> None:
        self.cents += event.cents

    @applies
    def tipped(self, event: TippedOften) -> None:
        self.cents += event.cents


async def test_a_release_with_changed_events_is_compared_by_what_they_are_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "till.db"
    async with Engine([FormerTill], store=f"sqlite:{log}", record=tmp_path / "recorded") as engine:
        for cents in (40, 90):
            await engine.execute(Deal("t", cents))
            await engine.execute(Tip("t", cents))
    newer = Engine([Till], store=f"sqlite:{log}", upcasters=[with_currency])

    assert [each.verdict for each in await replayed(log, tmp_path, engine=newer)] == ["same"] * 4
    monkeypatch.setitem(PRICES, "now", 60)
    found = await replayed(log, tmp_path, engine=newer)

    assert [(each.verdict, each.why) for each in found] == [
        ("same", ""),
        ("same", ""),
        ("differs", "dealt differs at .cents"),
        ("differs", "tipped differs at .often"),
    ]


async def test_a_former_event_that_was_not_stored_is_not_compared(tmp_path: Path) -> None:
    log, before = tmp_path / "till.db", tmp_path / "before.db"
    for command in (Tip("t", 1), Deal("t", 2)):
        if log.exists():
            shutil.copy(log, before)
        async with Engine([FormerTill], store=f"sqlite:{log}", record=tmp_path / "recorded") as e:
            await e.execute(command)

    newer = Engine([Till], store=f"sqlite:{before}", upcasters=[with_currency])
    found = await replayed(before, tmp_path, engine=newer)

    assert [each.verdict for each in found] == ["same", "unknown"]
    assert "dealt version 1 is another type today" in found[1].why
