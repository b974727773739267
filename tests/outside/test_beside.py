"""A build from another process: beside an engine that writes and serves, and then swapped in."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outside.building import BUILT, views
from tests.support.processes import Release, command, ended, ran, release
from tests.support.sums import AILING, FOLDED


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    AILING.clear()
    FOLDED.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def swapped(new: Release) -> None:
    """Wait until the new version serves."""
    while new.told("status")["builds"] != [[1, "former"], [2, "serving"]]:
        pass


@pytest.mark.parametrize("named", ["tenfold", "sliced"])
def test_a_new_version_is_built_while_the_old_release_writes_and_serves(
    path: Path, named: str
) -> None:
    with release(path, "stopping") as old:
        old.told("many", "a", 3_000)
        old.told("load")
        status, out, err = ran("build", path, f"tests.support.sums:{named}", "sums")
        assert (status, out) == (0, "")
        assert "build 2, version 2 of projection sums, has caught up with the log at " in err
        caught_up = int(err.rpartition("at position ")[2].partition(":")[0].replace(",", ""))
        # It has written and served all the while, and goes on: a round would have failed.
        position = old.told("add", "b")
        assert old.told("halt") > 10
        found = old.told("status")
        assert (found["state"], found["retries"]) == ("live", 0)
        assert found["builds"] == [[1, "serving"], [2, "building"]]
        assert old.told("sums", position)["b"] == 1
        head = old.told("add", "b")
        serves = old.told("sums", head)
        old.end()

    with release(path, named) as new:
        swapped(new)
        assert new.told("sums", head) == {name: 10 * total for name, total in serves.items()}
        # Of several slices some had come further.
        assert 0 < new.told("folded")[1] <= head - caught_up, "only the rest was folded"
        new.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_goes_on_where_it_was(path: Path, number: signal.Signals) -> None:
    with release(path, "stopping") as old:
        for _ in range(20):
            old.told("many", "a", 4_000)
        with command("build", path, BUILT, "sums") as building:
            there = "SELECT max(position) FROM checkpoints WHERE build = 2"
            while (views(path, there)[0][0] or 0) < 5_000:
                pass
            building.send_signal(number)
            status, _, err = ended(building)
        assert status == (-9 if number == signal.SIGKILL else 130)
        assert ("it goes on where it was" in err) == (number != signal.SIGKILL)
        ((reached,),) = views(path, "SELECT position FROM checkpoints WHERE build = 2")
        assert 0 < reached < 80_000
        with command("build", path, BUILT, "sums") as building:
            status, _, err = ended(building)
        assert status == 0
        told = re.findall(r"build 2 at ([\d,]+), ", err)
        assert told, "it says where it is before it is done"
        assert int(told[0].replace(",", "")) >= reached
        head = old.told("add", "b")
        assert old.told("status")["retries"] == 0
        old.end()
    with release(path, "tenfold") as new:
        swapped(new)
        assert new.told("sums", head) == {"a": 800_000, "b": 10}
        new.end()


def test_following_keeps_up_until_the_new_release_takes_over(path: Path) -> None:
    with command("build", path, BUILT, "sums", "--follow") as building:
        assert ended(building)[0] == 1, "there is no log yet"
    with release(path, "stopping") as old:
        old.told("add", "a", "b")
        with command("build", path, BUILT, "sums", "--follow") as building:
            for _ in range(3):
                position = old.told("add", "a")
                sql = "SELECT position FROM checkpoints WHERE build = 2"
                while views(path, sql) != [(position,)]:
                    pass
            old.end()
            with release(path, "tenfold") as new:
                status, _, err = ended(building)
                assert status == 0
                assert "is an engine's now, which folds the rest and swaps it in." in err
                swapped(new)
                assert new.told("sums", new.told("add", "a")) == {"a": 50, "b": 10}
                assert new.told("folded")[1] == 1
                new.end()


def test_following_ends_well_when_it_is_interrupted(path: Path) -> None:
    with release(path, "stopping") as old:
        old.told("add", "a")
        with command("build", path, BUILT, "sums", "--follow") as building:
            while views(path, "SELECT position FROM checkpoints WHERE build = 2") != [(1,)]:
                pass
            building.send_signal(signal.SIGINT)
            assert ended(building)[0] == 0
        old.end()


def test_an_event_that_cannot_be_folded_is_told_of_and_can_be_skipped(path: Path) -> None:
    with release(path, "stopping") as old:
        old.told("add", "a", "b", "a")
        status, _, err = ran("build", path, BUILT, "sums", AILING="b")
        assert status == 1
        assert "build 2, version 2 of projection sums, stopped at position 2, added v1 of " in err
        assert "ValueError" in err
        assert "a secret of b" not in err
        out = ran("list", path)[1]
        assert "build 2, version 2: stopped by another process, at 1, 2 events to go\n" in out
        assert "stopped at position 2, added v1 of counter:b: ValueError\n" in out
        assert old.told("status")["state"] == "live"

        assert ran("skip", path, "sums", 2, "--reason", "a test")[0] == 0
        assert ran("build", path, BUILT, "sums", AILING="b")[0] == 0
        assert old.told("sums", old.told("add", "b")) == {"a": 2, "b": 2}
        old.end()
    with release(path, "tenfold") as new:
        swapped(new)
        assert new.told("sums", 4) == {"a": 20, "b": 10}
        new.end()


def test_an_event_that_stopped_a_build_is_skipped_at_rest(path: Path) -> None:
    with release(path, "stopping") as old:
        old.told("add", "a", "b")
        assert ran("build", path, BUILT, "sums", AILING="b")[0] == 1
        old.end()
    assert ran("skip", path, "sums", 2, "--reason", "a test")[0] == 0
    assert ran("build", path, BUILT, "sums", AILING="b")[0] == 0, "at rest it is built as well"
    with release(path, "tenfold") as new:
        swapped(new)
        assert new.told("sums", 2) == {"a": 10}
        new.end()


@pytest.mark.parametrize("kind", ["rebuild", "cancel", "cancel at rest"])
def test_a_build_that_the_old_release_drops_ends_with_a_clear_message(
    path: Path, kind: str
) -> None:
    with release(path, "stopping") as old:
        old.told("add", "a")
        with command("build", path, BUILT, "sums", "--follow") as building:
            while views(path, "SELECT position FROM checkpoints WHERE build = 2") != [(1,)]:
                pass
            if kind == "cancel at rest":
                old.end()
            assert ran(kind.partition(" ")[0], path, "sums")[0] == 0
            status, _, err = ended(building)
        assert status == 1
        assert "build 2, version 2 of projection sums, was dropped by another process" in err
        if kind == "rebuild":
            while old.told("status")["builds"] != [[1, "former"], [1, "serving"]]:
                pass


def test_an_old_release_that_is_killed_and_starts_again_leaves_the_build_alone(
    path: Path,
) -> None:
    with release(path, "stopping") as old:
        old.told("add", "a")
        with command("build", path, BUILT, "sums", "--follow") as building:
            while views(path, "SELECT position FROM checkpoints WHERE build = 2") != [(1,)]:
                pass
            old.process.kill()
            old.died()
            with release(path, "stopping") as again:
                position = again.told("add", "a")
                while views(path, "SELECT position FROM checkpoints WHERE build = 2") != [
                    (position,)
                ]:
                    pass
                assert again.told("status")["builds"] == [[1, "serving"], [2, "building"]]
                again.end()
            assert building.poll() is None
            building.send_signal(signal.SIGINT)
            assert ended(building)[0] == 0
