"""`python -m engine projections`: what is shown of projections, parked events and decisions."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine import Ports
from engine.__main__ import main
from engine.runtime.machine import user_name
from engine.stores.sqlite.log.store import SqliteStore
from tests.cli.filled import DONE, fill, listed, run
from tests.support.processes import command, ended, line_of, ran, release
from tests.support.sums import AILING


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    AILING.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


# -- list -----------------------------------------------------------------------------------


def test_a_table_for_people(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(path, "a", "b", "a", "b", ailing="b")
    status, out, err = run(capfd, "list", path)

    assert (status, err) == (DONE, "")
    assert out == (
        "PROJECTION  VERSION  STATE    POSITION  LAG  SECONDS  EVENTS/S  PARKED\n"
        "sums              1  at-rest         4    0      0.0         -       2\n"
    )


def test_json_for_programs(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(path, "a", "b")
    status, out, _ = run(capfd, "list", path, "--json")

    assert status == DONE
    assert msgspec.json.decode(out) == {
        "name": "sums",
        "version": 1,
        "state": "at-rest",
        "position": 2,
        "lag_events": 0,
        "ahead_events": 0,
        "lag_seconds": 0.0,
        "events_per_second": None,
        "slices": 1,
        "parked": 0,
        "failure": None,
        "builds": [],
        "requests": [],
    }


def test_list_tells_of_tables_ahead_of_a_log_that_was_restored(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(path, "a", "b")
    assert main(["copy", str(path), str(path.with_name("backup.db"))]) == DONE
    fill(path, "a", "a", "a")
    capfd.readouterr()
    path.with_name("backup.db").rename(path)

    status, out, err = run(capfd, "list", path)
    assert (status, err) == (DONE, "")
    assert "its tables are 3 events ahead of the log, which was restored or replaced" in out
    found = listed(path)
    assert (found["position"], found["lag_events"], found["ahead_events"]) == (5, 0, 3)

    fill(path, "c")
    assert "ahead" not in run(capfd, "list", path)[1]


def test_list_tells_of_an_engine_at_work(path: Path) -> None:
    with release(path, "stopping", "--ailing", "b") as engine:
        engine.told("add", "a")
        assert listed(path)["state"] == "live"
        engine.told("many", "b", 3)
        while (found := listed(path))["state"] != "stopped":
            pass

        assert (found["position"], found["lag_events"]) == (1, 3)
        assert found["lag_seconds"] > 0
        assert found["failure"]["position"] == 2
        assert found["failure"]["event"] == "added v1"
        assert found["failure"]["stream"] == "counter:b"
        assert found["failure"]["cause"].endswith("ValueError")
        status, out, _ = ran("list", path)
        assert status == DONE
        assert "stopped at position 2, added v1 of counter:b: ValueError\n" in out
        assert "in added" not in out
        assert "in added" in ran("list", path, "--traceback")[1]

        engine.told("heal")
        ran("resume", path, "sums")
        engine.told("add", "a")
        found = listed(path)
        assert (found["state"], found["failure"], found["position"]) == ("live", None, 5)
        engine.end()
    assert listed(path)["state"] == "at-rest"


def test_list_tells_of_builds_and_their_speed(path: Path) -> None:
    fill(path, *"ab" * 20, named="stopping")
    with release(path, "stopping") as engine:
        ran("pause", path, "sums")
        ran("rebuild", path, "sums")
        (build,) = listed(path)["builds"]
        assert (build["number"], build["version"], build["state"]) == (2, 1, "building")
        assert (build["position"], build["lag_events"]) == (0, 40)
        assert (build["events_per_second"], build["seconds_left"]) == (0.0, None)
        out = ran("list", path)[1]
        assert "build 2, version 1: building, at 0, 40 events to go\n" in out

        ran("resume", path, "sums")
        while listed(path)["builds"][0]["state"] != "former":
            pass
        assert "build 1, version 1: former, at 40\n" in ran("list", path)[1]
        engine.end()


def test_list_tells_the_speed_of_what_moves(path: Path) -> None:
    with release(path, "stopping") as engine:
        engine.told("load")
        speeds = [listed(path)["events_per_second"] for _ in range(3)]
        engine.told("halt")
        engine.end()

    assert [speed for speed in speeds if speed]


def test_watch_shows_what_changes_until_it_is_told_to_stop(path: Path) -> None:
    with release(path, "stopping") as engine:
        for number in (signal.SIGTERM, signal.SIGINT):
            with command("list", path, "--watch", "--json") as watch:
                position = msgspec.json.decode(line_of(watch.stdout))["position"]
                engine.told("add", "a", "a")
                while msgspec.json.decode(line_of(watch.stdout))["position"] != position + 2:
                    pass
                watch.send_signal(number)

                assert ended(watch)[::2] == (DONE, "")
        engine.end()


def test_watch_ends_when_whoever_reads_it_has_gone(path: Path) -> None:
    fill(path, "a")
    with command("list", path, "--watch") as watch:
        line_of(watch.stdout)
        assert watch.stdout is not None
        watch.stdout.close()
        assert watch.stderr is not None

        assert (watch.wait(20), watch.stderr.read()) == (DONE, "")


def test_list_changes_nothing_and_keeps_no_engine_from_starting(path: Path) -> None:
    fill(path, "a")
    before = path.with_suffix(".views.db").read_bytes()
    held = os.open(f"{path}.lock", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_SH)
    # As where another `list` looks at this very moment, and gives the lock back in the next.
    gone = threading.Timer(0.01, os.close, [held])

    async def start() -> None:
        store = SqliteStore(str(path))
        gone.start()
        await store.open(Ports())
        await store.close()

    assert listed(path)["state"] == "at-rest"
    asyncio.run(start())
    assert path.with_suffix(".views.db").read_bytes() == before
    gone.join()


# -- parked and decisions -------------------------------------------------------------------


def test_what_is_parked_is_shown(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(path, "a", "b", "b", "c", ailing="bc")
    status, out, err = run(capfd, "parked", path, "sums")
    time = r"\d{4}-\d\d-\d\dT[\d:.]+Z"

    assert (status, err) == (DONE, "")
    assert [re.sub(time, "T", line) for line in out.splitlines()] == [
        "2  T  counter:b  added v1 of counter:b  tries: 1",
        "3  T  counter:b  added v1 of counter:b  waits behind another",
        "4  T  counter:c  added v1 of counter:c  tries: 1",
    ]
    assert len(run(capfd, "parked", path, "sums", "--key", "counter:c")[1].splitlines()) == 1
    told = run(capfd, "parked", path, "sums", "--traceback")[1]
    assert "    ValueError\n" in told
    assert "a secret of b" not in told
    found = [
        msgspec.json.decode(line)
        for line in run(capfd, "parked", path, "sums", "--json")[1].splitlines()
    ]
    assert [(p["position"], p["key"], p["attempts"]) for p in found] == [
        (2, "counter:b", 1),
        (3, "counter:b", 0),
        (4, "counter:c", 1),
    ]
    assert "cause" not in found[0]
    assert "cause" in run(capfd, "parked", path, "sums", "--json", "--traceback")[1]


def test_more_than_a_page_of_parked_events_is_shown(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(path, *["b"] * 230, ailing="b")

    assert len(run(capfd, "parked", path, "sums")[1].splitlines()) == 230


def test_where_nothing_is_parked_or_decided_that_is_said(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(path, "a")

    assert run(capfd, "parked", path, "sums") == (DONE, "", "no event is parked\n")
    assert run(capfd, "decisions", path) == (DONE, "", "nothing was decided\n")


def test_decisions_are_shown_with_who_and_why(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(path, "a", "b", ailing="b")
    run(capfd, "pause", path, "sums", "--reason", "a \x1b[2Jmove")
    run(capfd, "skip", path, "sums", 2, "--reason", "a test order")
    lines = run(capfd, "decisions", path, "sums")[1].splitlines()

    who = f"(version 1) by cli:{user_name()}"
    assert [line.partition("  ")[2] for line in lines] == [
        f"sums  pause  {who}: a \\x1b[2Jmove",
        f"sums  skip at 2  {who}: a test order",
    ]
    found = msgspec.json.decode(run(capfd, "decisions", path, "--json")[1].splitlines()[1])
    assert (found["kind"], found["position"], found["reason"]) == ("skip", 2, "a test order")
