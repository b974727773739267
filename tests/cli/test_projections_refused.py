"""`python -m engine projections` on files that cannot be used, and with wrong arguments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from engine.__main__ import main
from tests.cli.filled import DONE, FAILED, decided, fill, run, views
from tests.support.sums import AILING


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    AILING.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


ACTIONS: list[tuple[str, ...]] = [("list",), ("parked", "sums"), ("decisions",), ("pause", "sums")]


def each(capfd: pytest.CaptureFixture[str], path: Path) -> Iterator[str]:
    """Run an action of each sort, and give what it says."""
    for action, *rest in ACTIONS:
        status, out, err = run(capfd, action, path, *rest)
        assert (status, out, err.count("\n")) == (FAILED, "", 1)
        yield err


def test_where_no_log_is_nothing_is_made(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for told in each(capfd, path):
        assert told == f"error: there is no log {path}: no such file\n"
    assert list(path.parent.iterdir()) == []


def test_where_no_views_are_that_is_said(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(path, "a")
    path.with_suffix(".views.db").unlink()
    for told in each(capfd, path):
        assert told.startswith(f"error: there are no views {path.with_suffix('.views.db')}: ")
    assert not path.with_suffix(".views.db").exists()


def test_damaged_views_are_told_of(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(path, "a")
    path.with_suffix(".views.db").write_bytes(b"not a database" * 1_000)
    for told in each(capfd, path):
        assert "log.views.db are damaged: " in told
        assert "They can be rebuilt" in told


def test_a_file_of_something_else_is_refused(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(path, "a")
    path.with_suffix(".views.db").unlink()
    views(path, "CREATE TABLE shopping (item TEXT)")
    for told in each(capfd, path):
        assert "is not a file of views" in told


def test_views_of_another_log_are_refused(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(path, "a")
    views(path, "UPDATE views_meta SET log_id = 'another'")
    for told in each(capfd, path):
        assert "has views of log another, and" in told
        assert "Nothing was done" in told


@pytest.mark.parametrize(
    "statement", ["DROP TABLE requests", "UPDATE views_meta SET schema_version = 1"]
)
def test_views_of_a_former_release_are_left_to_an_engine(
    path: Path, capfd: pytest.CaptureFixture[str], statement: str
) -> None:
    fill(path, "a")
    views(path, statement)
    for told in each(capfd, path):
        assert "was written by a former release: start an engine of this release" in told


def test_views_of_a_later_release_are_refused(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(path, "a")
    views(path, "UPDATE views_meta SET schema_version = 99")
    for told in each(capfd, path):
        assert "has schema version 99, and this release knows" in told


def test_a_file_that_a_stranger_holds_is_waited_for_and_then_told_of(
    path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path, "a")
    monkeypatch.setattr("engine.stores.sqlite.outside.operations.BUSY_MS", 50)
    with closing(apsw.Connection(str(path.with_suffix(".views.db")))) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        status, out, err = run(capfd, "pause", path, "sums")
        assert (status, out) == (FAILED, "")
        assert "could not be written: database is locked. Another process writes there" in err
        assert run(capfd, "list", path)[0] == DONE
        stranger.execute("ROLLBACK")
    assert decided(path) == []
    assert run(capfd, "pause", path, "sums")[0] == DONE


def test_a_name_that_is_not_there_is_told_with_those_that_are(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(path, "a")
    for action, *rest in (("pause", "orders"), ("parked", "orders"), ("decisions", "orders")):
        status, out, err = run(capfd, action, path, *rest)
        assert (status, out) == (FAILED, "")
        assert "no projection 'orders' in " in err
        assert "there are ['sums']" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["list"],
        ["pause", "x"],
        ["skip", "x", "sums", "7"],
        ["skip", "x", "sums", "0", "--reason", "r"],
        ["retry", "x", "sums", "--reason"],
        ["pause", "x", "sums", "--wait", "-1"],
        ["explode", "x", "sums"],
    ],
)
def test_wrong_arguments_are_told_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["projections", *arguments])

    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m engine")


def test_help_tells_actions_and_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["list"], ["pause"], ["build"]):
        with pytest.raises(SystemExit) as caught:
            main(["projections", *arguments, "--help"])
        assert caught.value.code == 0
        assert "exit status" in capsys.readouterr().out
