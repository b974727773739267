"""A log that is copied into another store: verified, killed, and by the command."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from engine import Damaged, StoreFailed, StoreRefused
from engine.__main__ import main
from engine.outside.copying import CopyProgress
from engine.stores.sqlite.connection import run
from tests.outside.copied import BOTH, WAYS, NewStore, boards, copy, filled, log_of, raw
from tests.support import warm
from tests.support.postgres import Server

# -- what is verified -----------------------------------------------------------------------------


@pytest.mark.parametrize("there", BOTH)
@pytest.mark.parametrize("change", ["checksum = checksum + 1", "recorded = recorded + 1"])
async def test_a_copy_that_is_not_what_was_read_is_no_log(
    new: NewStore, postgres: Server, there: str, change: str
) -> None:
    source, target = new("sqlite"), new(there)
    await raw(source, 30)

    def show(progress: CopyProgress) -> None:
        if (progress.what, progress.position) == ("copied", 30):
            _spoil(postgres, target, f"UPDATE events SET {change} WHERE position = 12")

    with pytest.raises(Damaged, match="position 12"):
        copy(source, target, show)
    with pytest.raises(StoreRefused):
        log_of(target)


@pytest.mark.parametrize("there", BOTH)
async def test_a_copy_that_lacks_its_last_events_is_no_log(
    new: NewStore, postgres: Server, there: str
) -> None:
    source, target = new("sqlite"), new(there)
    await raw(source, 30)

    def show(progress: CopyProgress) -> None:
        if (progress.what, progress.position) == ("copied", 30):
            _spoil(postgres, target, "DELETE FROM events WHERE position > 28")

    with pytest.raises(Damaged, match="28 events with the digest"):
        copy(source, target, show)
    with pytest.raises(StoreRefused):
        log_of(target)


@pytest.mark.parametrize("there", BOTH)
@pytest.mark.parametrize(
    "change", ["value = 'another'", "stream = (SELECT max(stream) FROM claims)"]
)
async def test_a_copy_with_other_claims_is_no_log(
    new: NewStore, postgres: Server, there: str, change: str
) -> None:
    source, target = new("sqlite"), new(there)
    await raw(source, 30)

    def show(progress: CopyProgress) -> None:
        if (progress.what, progress.position) == ("verified", 30):
            _spoil(postgres, target, f"UPDATE claims SET {change} WHERE position = 1")

    with pytest.raises(StoreFailed, match="the claims anew"):
        copy(source, target, show)
    with pytest.raises(StoreRefused):
        log_of(target)
    copy(source, target)
    assert log_of(target) == log_of(source)


def _spoil(postgres: Server, target: str, statement: str) -> None:
    """Change what no trigger would let anybody change."""
    if target.startswith("sqlite:"):
        with closing(apsw.Connection(target.removeprefix("sqlite:") + ".partial")) as connection:
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
            run(connection, statement)
        return
    schema = target.rpartition("schema=")[2].partition("&")[0]
    postgres.sql(
        f"SET search_path = {schema}; ALTER TABLE events DISABLE TRIGGER ALL; {statement}; "
        f"ALTER TABLE events ENABLE TRIGGER ALL"
    )


# -- killed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("here", "there"), WAYS)
async def test_a_copy_that_was_killed_again_and_again_is_whole_in_the_end(
    new: NewStore, here: str, there: str
) -> None:
    source, target = new(here), new(there)
    await raw(source, 600)
    program = [sys.executable, "-m", "tests.outside.copied", source, target, "20"]
    chance = random.Random(f"{here} {there}")
    at: list[int] = []
    for _ in range(5):
        process = warm.Warm(program, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(chance.randrange(1, 12))]
        process.send_signal(signal.SIGKILL)  # while it writes the next page
        process.wait(60)
        process.stdout.close()
        if not told[-1]:
            break
        at.append(int(told[-1].split()[1]) if told[-1].startswith("copied") else 600)

    assert len(at) > 2
    assert at == sorted(at), "it goes on, and does not begin anew"
    if not _is_whole(target):
        copy(source, target)
    assert log_of(target) == log_of(source)


def _is_whole(target: str) -> bool:
    try:
        log_of(target)
    except StoreRefused:
        return False
    return True


# -- the command ----------------------------------------------------------------------------------


async def test_the_command_copies_there_and_back_and_shows_no_password(
    new: NewStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = new("sqlite")
    async with boards(source) as engine:
        await filled(engine)
        await engine.projections.pause("counts", reason="for the move")
    target = new("postgresql").replace("postgres@", "postgres:pa55word@")
    back = tmp_path / "back.db"

    assert main(["copy", source, target]) == 0
    out, err = capsys.readouterr()
    assert main(["copy", target, str(back)]) == 0

    assert "copied to position 24, and verified" in out
    assert "with 3 snapshots, 1 decision, 0 requests, the checkpoints of 1 sink and 6 parked" in out
    assert "folds these from the log: counts" in out
    assert "pa55word" not in out + err
    assert log_of(f"sqlite:{back}") == log_of(source)
    assert main(["copy", target, target]) == 1
    assert "is the log itself" in capsys.readouterr().err
    assert main(["copy", "--damaged", target, str(tmp_path / "other.db")]) == 1
