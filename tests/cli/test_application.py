"""An application whose function takes a store, as that of tenants does: given that of the log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.__main__ import main
from tests.personal.hotel import Note, hotel, two_guests

APP = "tests.personal.hotel:hotel"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a log of people, whose keys are found by who knows its place alone."""

    async def fill() -> None:
        async with hotel(f"sqlite:{tmp_path}/blue.db") as engine:
            await two_guests(engine)
            await engine.execute(Note("g-1", "late"))

    asyncio.run(fill())
    monkeypatch.chdir(tmp_path)
    return "blue.db"


@pytest.mark.parametrize(
    "arguments",
    [
        "schema check APP --log blue.db",
        "schema record APP --log blue.db --samples golden",
        "verify blue.db --app APP",
        "verify sqlite:blue.db --app APP",
        "export blue.db --to events.jsonl --app APP",
        "export blue.db --view guests_rows --to rows.csv --app APP",
    ],
    ids=["schema-check", "schema-record", "verify", "verify-url", "export", "export-view"],
)
def test_a_command_gives_it_the_log_that_it_was_told_of(
    log: str, arguments: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert log in arguments
    status = main(arguments.replace("APP", APP).split())
    assert (status, capfd.readouterr().err.count("error:")) == (0, 0)


def test_a_projection_of_it_is_looked_at(log: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["projections", "build", log, APP, "guests"]) == 1
    assert "is served as it is declared" in capfd.readouterr().err


def test_without_a_log_the_command_says_what_it_wants(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "check", APP]) == 1
    assert "takes a store, and no log is named for it: give --log" in capfd.readouterr().err
