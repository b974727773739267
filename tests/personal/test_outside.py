"""Personal data from other processes: the command line, an archive, a build, a member."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from engine import ERASED, Archive, StoreRefused
from engine.__main__ import main

from .hotel import (
    NAME,
    OTHER,
    AllGuests,
    Book,
    Guest,
    Guests,
    Register,
    Room,
    all_guests,
    hotel,
    two_guests,
)


async def filled(folder: Path) -> str:
    store = f"sqlite:{folder}/hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
    return store


async def test_an_archive_reads_with_the_keys_and_masks_who_was_erased(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    async with Archive([Guest], store=store) as archive:
        assert (await archive.state(Guest, "g-1")).name == NAME
    async with hotel(store) as engine:
        await engine.personal.erase("guest:g-1")
        async with Archive([Guest], store=store) as archive:
            assert (await archive.state(Guest, "g-1")).name == ERASED
            assert (await archive.state(Guest, "g-2")).name == "Bob Roy"


async def test_an_archive_without_the_keys_says_where_they_are_missing(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    (tmp_path / "hotel.keys.db").rename(tmp_path / "elsewhere.db")
    with pytest.raises(StoreRefused, match=r"no keys at .*hotel\.keys\.db"):
        async with Archive([Guest], store=store):
            pass
    assert not (tmp_path / "hotel.keys.db").exists()
    keys = f"sqlite:{tmp_path}/elsewhere.db"
    async with Archive([Guest], store=store, keys=keys) as archive:
        assert (await archive.state(Guest, "g-1")).name == NAME


async def test_a_past_of_an_archive_is_masked_too(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    async with hotel(store) as engine:
        await engine.personal.erase("guest:g-1")
    archive = Archive([Guest, Room], store=store, projections=[Guests], answers=[all_guests])
    async with archive, archive.past(position=2) as past:
        rows = await past.query(AllGuests())
        assert [row.name for row in rows] == [ERASED, "Bob Roy"]


@pytest.fixture
async def store(tmp_path: Path) -> str:
    return await filled(tmp_path)


def test_the_command_line_shows_what_is_known_of_a_person(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["personal", "show", store, "guest:g-1"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["name"], each["personal"]) for each in shown] == [
        ("registered", {"name": NAME, "born": 1981}),
        ("booked", {"wish": f"a bed for {NAME}"}),
    ]
    assert shown[0]["payload"]["country"] == "no"


async def test_the_command_line_shows_the_rest_where_a_key_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store) as engine:
        await engine.execute(Register("g-1", NAME))
    shutil.copy(tmp_path / "hotel.keys.db", tmp_path / "former.db")
    async with hotel(store) as engine:
        await engine.execute(Register("g-2", OTHER))  # with a key that the former file has not
        await engine.execute(Book("r-1", "guest:g-1", "a bed"))

    log, former = f"{tmp_path}/hotel.db", f"sqlite:{tmp_path}/former.db"
    status = await asyncio.to_thread(main, ["personal", "show", log, "guest:g-1", "--keys", former])

    assert status == 1
    shown = capsys.readouterr()
    assert [json.loads(line)["name"] for line in shown.out.splitlines()] == ["registered", "booked"]
    assert "2 events of guest:g-1\n1 event could not be decrypted, and may be of" in shown.err


def test_the_command_line_erases_at_rest_and_says_that_views_wait(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["personal", "erase", store, "guest:g-1", "--reason", "asked", "--wait", "0"]) == 3
    assert "1 key destroyed" in capsys.readouterr().err
    assert main(["personal", "show", store, "guest:g-1"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["personal", "list", store, "--json"]) == 0
    [kept] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (kept["subject"], kept["keys"], kept["reason"]) == ("guest:g-1", 1, "asked")
    assert kept["finished"] is None


def test_the_command_line_starts_the_application_at_rest_until_views_have_nothing_of_the_person(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert b"Annabella" in (tmp_path / "hotel.views.db").read_bytes()
    app = "tests.personal.hotel:hotel"
    assert main(["personal", "erase", store, "guest:g-1", "--wait", "30", "--app", app]) == 0
    assert "views and memory have nothing of it any more" in capsys.readouterr().err
    assert b"Annabella" not in (tmp_path / "hotel.views.db").read_bytes()


async def test_the_command_line_leaves_it_to_the_engine_that_runs(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    async with hotel(store) as engine:
        more = "--wait", "60", "--app", "tests.personal.hotel:hotel"
        arguments = ["personal", "erase", store, "guest:g-1", *more]
        assert await asyncio.to_thread(main, arguments) == 0
        assert [row.name for row in await engine.query(AllGuests())] == [ERASED, OTHER]


def test_the_command_line_makes_no_file_of_keys(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hotel.keys.db").unlink()
    assert main(["personal", "list", store]) == 1
    assert "was ever encrypted, or its keys are elsewhere" in capsys.readouterr().err
    assert not (tmp_path / "hotel.keys.db").exists()


async def test_a_copy_of_the_keys_beside_an_engine_has_those_of_its_last_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are in the write-ahead log, which `cp` of the file leaves out."""
    store, keys = f"sqlite:{tmp_path}/hotel.db", tmp_path / "hotel.keys.db"
    plain, copied = tmp_path / "plain.db", tmp_path / "copied.db"
    async with hotel(store) as engine:
        await two_guests(engine)
        await asyncio.to_thread(shutil.copyfile, keys, plain)
        command = ["personal", "copy", store, str(copied)]
        assert await asyncio.to_thread(main, command) == 0
        before = copied.read_bytes()
        assert await asyncio.to_thread(main, command) == 1  # it is there already
        assert copied.read_bytes() == before
    assert copied.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("copied.db?*"))
    for name, status in ((copied, 0), (plain, 1)):
        show = ["personal", "show", store, "guest:g-1", "--keys", f"sqlite:{name}"]
        assert await asyncio.to_thread(main, show) == status
    capsys.readouterr()


@pytest.mark.parametrize("command", ["backup", "copy"])
def test_who_copies_a_log_is_told_that_its_keys_are_not_copied(
    tmp_path: Path, store: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, store, str(tmp_path / "other.db")]) == 0
    assert "its keys of personal data are not in it" in capsys.readouterr().err
    (tmp_path / "hotel.keys.db").unlink()
    assert main([command, store, str(tmp_path / "another.db")]) == 0
    assert "keys" not in capsys.readouterr().err


async def test_a_member_reads_and_erases_as_the_owner_does(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store, join=True) as owner, hotel(store, join=True) as member:
        await two_guests(member)
        assert (await member.state(Guest, "g-1")).name == NAME
        erasure = await member.personal.erase("guest:g-1")
        assert erasure.finished is not None
        for engine in (owner, member):
            assert (await engine.state(Guest, "g-1")).name == ERASED
            rows = await engine.query(AllGuests())
            assert [row.name for row in rows] == [ERASED, "Bob Roy"]


async def test_a_member_that_takes_over_goes_on_with_the_keys(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store, join=True) as member:
        async with hotel(store, join=True) as other:
            await two_guests(other)
        await member.execute(Register("g-3", "Cy"))
        assert (await member.state(Guest, "g-3")).name == "Cy"
        await member.personal.erase("guest:g-3")
        assert (await member.state(Guest, "g-3")).name == ERASED
        assert (await member.state(Guest, "g-1")).name == NAME
