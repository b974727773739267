"""`backup`, `restore` and `repair` as people and scripts run them."""

from __future__ import annotations

import io
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from engine.__main__ import main
from engine.stores.sqlite.connection import run
from tests.backups.made import append, claimed, manifest
from tests.outside.copied import BOTH, NewStore, log_of
from tests.support import warm

SECONDS = 60


def told(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    said = capfd.readouterr()
    return status, said.out, said.err


async def test_a_log_is_backed_up_checked_and_restored_up_to_a_position(
    new: NewStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, folder = new("sqlite"), tmp_path / "backup"
    await claimed(store, 60)
    status, out, _ = told(capfd, "backup", store, folder, "--check")
    assert status == 0
    assert out.startswith("backed up to position 60 (all of it) in ")
    assert "checked: 60 events" in out
    await append(store, 1)
    assert told(capfd, "verify", store.removeprefix("sqlite:"))[0] == 0, "by its path alone"
    status, out, _ = told(capfd, "backup", store, folder)
    assert out.startswith("backed up to position 61 (1 new event) in ")

    target = new("sqlite")
    status, out, _ = told(capfd, "restore", folder, target, "--at", "45")
    assert status == 0
    assert "restored to position 45, and verified" in out
    assert "16 later events of the backup left out" in out
    assert log_of(target)[1] == log_of(store)[1][:45]
    assert told(capfd, "restore", folder, target)[0] == 1, "nothing is written over"
    recorded = "1970-01-01T00:00:00.001"
    timed = new("sqlite")
    assert told(capfd, "restore", folder, timed, "--at", recorded)[0] == 0
    assert len(log_of(timed)[1]) == 60


def ran(*arguments: str | Path, given: bytes | None = None) -> tuple[int, bytes, bytes]:
    done = warm.run(
        [sys.executable, "-m", "engine", *map(str, arguments)],
        capture_output=True,
        timeout=SECONDS,
        check=False,
        input=given,
    )
    return done.returncode, done.stdout, done.stderr


async def test_a_backup_goes_through_a_pipe_and_nothing_cut_is_restored(new: NewStore) -> None:
    store, target = new("sqlite"), new("sqlite")
    await claimed(store, 60)

    status, stream, err = ran("backup", store, "-")

    assert (status, b"backed up to position 60" in err) == (0, True)
    assert ran("restore", "-", target, given=stream)[0] == 0
    assert log_of(target) == log_of(store)
    for cut in (b"", stream[:700], stream[: stream.index(b"manifest.json") + 700]):
        status, _, err = ran("restore", "-", new("sqlite"), given=cut)
        assert (status, b"error: " in err, b"Traceback" in err) == (1, True, False)
    status, _, err = ran("backup", store, "-", "--check")
    assert status == 1
    assert b"cannot be read back" in err


async def test_a_strangers_tar_makes_no_files(new: NewStore, tmp_path: Path) -> None:

    for name in ("../evil", "/tmp/evil", "manifest.json/../x", "photo.jpg"):
        made = io.BytesIO()
        with tarfile.open(mode="w", fileobj=made) as tar:
            about = tarfile.TarInfo(name)
            about.size = 4
            tar.addfile(about, io.BytesIO(b"evil"))
        status, _, err = ran("restore", "-", new("sqlite"), given=made.getvalue())
        assert (status, b"no file of a backup" in err) == (1, True)
    assert not list(tmp_path.rglob("*evil*"))


def damage(store: str, *statements: str) -> None:
    with closing(apsw.Connection(store.removeprefix("sqlite:"))) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        for statement in statements:
            run(connection, statement)


BROKEN = (
    "UPDATE events SET payload = x'7b7d' WHERE position IN (5, 6, 60)",
    "UPDATE events SET recorded = recorded + 1 WHERE position = 20",
    "DELETE FROM events WHERE position = 33",
    "UPDATE claims SET stream = 4",
)


@pytest.mark.parametrize("there", BOTH)
async def test_single_events_are_repaired_from_a_backup_and_told_and_kept(
    new: NewStore, tmp_path: Path, capfd: pytest.CaptureFixture[str], there: str
) -> None:
    store, folder, target = new("sqlite"), tmp_path / "backup", new(there)
    await claimed(store, 60)
    told(capfd, "backup", store, folder)
    await append(store, 4)
    sound = log_of(store)
    damage(store, *BROKEN)
    assert told(capfd, "verify", store)[0] == 1

    status, out, err = told(capfd, "repair", store, target, "--from", folder)

    assert (status, "error: " in err) == (0, False)
    repaired = [line for line in out.splitlines() if line.startswith("repaired: position ")]
    assert [line.split()[2] for line in repaired] == ["5,", "6,", "20,", "33,", "60,"]
    assert "5 events repaired" in out
    assert log_of(target) == sound
    assert told(capfd, "verify", target)[0] == 0
    again = new("sqlite")
    assert told(capfd, "copy", target, again)[0] == 0
    kept = tmp_path / "kept"
    assert told(capfd, "backup", target, kept)[0] == 0
    back = new("sqlite")
    assert told(capfd, "restore", kept, back)[0] == 0
    for one in [again, back]:
        with closing(apsw.Connection(one.removeprefix("sqlite:"))) as connection:
            found = run(connection, "SELECT position, checksum, source FROM repairs")
        checksums = {event.position: event.checksum for event in sound[1]}
        assert found == [(p, checksums[p], str(folder)) for p in (5, 6, 20, 33, 60)]


async def test_what_the_backup_does_not_have_or_cannot_prove_is_not_invented(
    new: NewStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, folder = new("sqlite"), tmp_path / "backup"
    await claimed(store, 60)
    told(capfd, "backup", store, folder)
    other = new("sqlite")
    told(capfd, "restore", folder, other, "--at", "50")
    await append(store, 4)
    damage(store, "UPDATE events SET payload = x'7b7d' WHERE position = 62")
    status, _, err = told(capfd, "repair", store, new("sqlite"), "--from", folder)
    assert status == 1
    assert "does not have it" in err

    # Another history of the same log, which has other events behind position 50.
    await append(other, 14)
    damage(other, "UPDATE events SET payload = x'7b7d' WHERE position = 55")
    target = new("sqlite")
    status, _, err = told(capfd, "repair", other, target, "--from", folder)
    assert status == 1
    assert "another history" in err
    assert not Path(target.removeprefix("sqlite:")).exists()

    damage(other, "UPDATE events SET payload = x'7b7d' WHERE position > 50")
    status, _, err = told(capfd, "repair", other, new("sqlite"), "--from", folder)
    assert status == 1
    assert "cannot be proved" in err


async def test_a_copy_repairs_as_a_backup_does_and_another_log_does_not(
    new: NewStore, capfd: pytest.CaptureFixture[str]
) -> None:
    store, copied, other = new("sqlite"), new("sqlite"), new("sqlite")
    await claimed(store, 60)
    await claimed(other, 60)
    told(capfd, "copy", store, copied)
    sound = log_of(store)
    damage(store, *BROKEN)
    status, _, err = told(capfd, "repair", store, new("sqlite"), "--from", other)
    assert status == 1
    assert "of the log" in err
    target = new("sqlite")
    assert told(capfd, "repair", store, target, "--from", copied)[0] == 0
    assert log_of(target) == sound


async def test_a_backup_is_made_of_a_log_with_damage_only_up_to_it(
    new: NewStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, folder = new("sqlite"), tmp_path / "backup"
    await claimed(store, 60)
    told(capfd, "backup", store, folder)
    before = manifest(folder)
    await append(store, 4)
    damage(store, "UPDATE events SET payload = x'7b7d' WHERE position = 62")
    status, _, err = told(capfd, "backup", store, folder)
    assert status == 1
    assert "position 62" in err
    assert manifest(folder) == before
