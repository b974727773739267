"""`python -m engine projections`: what is asked of an engine at work, and done at rest."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import Ports, StoreLocked
from engine.runtime.machine import SystemClock, user_name
from engine.stores.contract.requests import Arguments
from engine.stores.sqlite.files import SystemFiles
from engine.stores.sqlite.outside.operations import SqliteOperations
from tests.cli.filled import DONE, FAILED, NOT_YET, decided, fill, listed, run, views
from tests.support.faults import FaultyVfs, VfsFiles
from tests.support.processes import ran, release
from tests.support.sums import AILING, summing, sums


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    AILING.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


# -- acting on an engine at work --------------------------------------------------------------


def test_a_running_engine_does_what_is_asked_and_its_answer_is_told(path: Path) -> None:
    with release(path, "stopping") as engine:
        engine.told("add", "a")
        assert ran("pause", path, "sums", "--reason", "a move") == (
            DONE,
            "pause sums: it rests until it is resumed\n",
            "",
        )
        assert engine.told("status")["state"] == "paused"
        assert ran("resume", path, "sums") == (DONE, "resume sums: it goes on\n", "")
        assert engine.told("status")["state"] != "paused"
        status, out, err = ran("skip", path, "sums", 1, "--reason", "why not")
        assert (status, out) == (FAILED, "")
        assert err.startswith("refused: no event of projection 'sums' is parked at position 1")
        engine.end()


def test_an_engine_that_does_not_look_is_told_of_and_the_request_waits(path: Path) -> None:
    with release(path, "stopping", "--poll", 0) as engine:
        engine.told("add", "a")
        status, out, err = ran("pause", path, "sums", "--wait", 0)

        assert (status, out) == (NOT_YET, "")
        assert err.startswith("request 1 is not done after 0 s, and waits: ")
        (request,) = listed(path)["requests"]
        assert (request["number"], request["kind"], request["state"]) == (1, "pause", "waiting")
        assert f"request 1, pause, by cli:{user_name()}, waiting since 20" in ran("list", path)[1]
        engine.end()
    with release(path, "stopping") as engine:
        while listed(path)["requests"]:
            pass
        while engine.told("status")["state"] != "paused":
            pass
        engine.end()


# -- acting at rest -----------------------------------------------------------------------------


def test_at_rest_a_projection_is_paused_and_resumed(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(path, "a")
    assert run(capfd, "pause", path, "sums")[::2] == (DONE, "")
    assert listed(path)["state"] == "paused"
    with release(path, "parking") as engine:
        while engine.told("status")["state"] != "paused":
            pass
        engine.end()
    told = "resume sums: it goes on, when an engine starts\n"
    assert run(capfd, "resume", path, "sums") == (DONE, told, "")
    assert run(capfd, "resume", path, "sums") == (DONE, told, "")
    assert decided(path) == ["pause", "resume"]
    with release(path, "parking") as engine:
        assert engine.told("add", "a") == 2
        engine.end()


def test_at_rest_a_projection_is_reset(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(path, "a", "b", "b", ailing="b")
    assert run(capfd, "reset", path, "sums", "--reason", "mended")[0] == DONE
    found = listed(path)
    assert (found["position"], found["parked"], found["lag_events"]) == (0, 0, 3)
    assert views(path, "SELECT * FROM sums_rows") == []
    with release(path, "parking") as engine:
        assert engine.told("sums", 3) == {"a": 1, "b": 2}
        engine.end()


def test_at_rest_tables_that_a_projection_made_by_sql_are_reset_by_an_engine(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(path, "a", "b", "a", named="sql")
    status, out, err = run(capfd, "reset", path, "sums")
    assert (status, out) == (NOT_YET, "")
    assert "reset sums needs the application's code" in err
    assert run(capfd, "pause", path, "sums")[0] == DONE
    assert listed(path)["position"] == 3
    with release(path, "sql") as engine:
        ran("resume", path, "sums")
        while listed(path)["requests"]:
            pass
        assert engine.told("sums", 3) == {"a": 2, "b": 1}
        assert engine.told("folded")[1] == 3
        engine.end()


def test_at_rest_a_sink_is_reset_and_delivers_again(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(path, "a", "b", named="sink")
    assert listed(path)["position"] == 2
    assert run(capfd, "reset", path, "sums")[0] == DONE
    with release(path, "sink") as engine:
        while engine.told("folded") != [2, 2]:
            pass
        engine.end()


def test_at_rest_an_event_is_skipped_that_is_parked(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(path, "a", "b", "b", ailing="b")
    assert run(capfd, "skip", path, "sums", 2, "--reason", "a test")[0] == DONE
    assert run(capfd, "skip", path, "sums", 2, "--reason", "a test")[0] == FAILED
    assert listed(path)["parked"] == 1
    with release(path, "parking") as engine:
        ran("retry", path, "sums")
        assert engine.told("sums", 3) == {"a": 1, "b": 1}
        engine.end()


def test_at_rest_an_event_is_skipped_that_stopped_it(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(path, "a", "b", "a", named="stopping", ailing="b")
    assert listed(path)["state"] == "stopped"
    assert run(capfd, "skip", path, "sums", 2, "--reason", "a test")[0] == DONE
    assert listed(path)["state"] == "at-rest"
    with release(path, "stopping", "--ailing", "b") as engine:
        assert engine.told("sums", 3) == {"a": 2}
        engine.end()


def test_at_rest_builds_are_cancelled_and_dropped(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(path, "a")
    with release(path, "parking") as engine:
        ran("rebuild", path, "sums")
        while engine.told("status")["builds"] != [[1, "former"], [1, "serving"]]:
            pass
        ran("pause", path, "sums")
        ran("rebuild", path, "sums")
        engine.end()
    assert run(capfd, "cancel", path, "sums")[1] == (
        "cancel sums: build 3, version 1, is given up and dropped\n"
    )
    assert run(capfd, "cancel", path, "sums")[0] == FAILED
    assert run(capfd, "drop", path, "sums")[1] == ("drop sums: former builds that are dropped: 1\n")
    tables = views(path, "SELECT name FROM sqlite_schema WHERE name LIKE 'sums_rows:%'")
    assert tables == [("sums_rows:2",)]
    assert decided(path) == ["rebuild", "swap", "pause", "rebuild", "drop", "drop"]


def test_what_needs_the_application_waits_for_an_engine_and_the_command_says_so(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(path, "a", "b", ailing="b")
    for number, kind in ((1, "retry"), (2, "rebuild")):
        status, out, err = run(capfd, kind, path, "sums")
        assert (status, out) == (NOT_YET, "")
        assert err == (
            f"request {number} waits: no engine has {path} open, and {kind} sums needs the "
            f"application's code. An engine does it when it starts\n"
        )
    assert run(capfd, "pause", path, "sums")[0] == DONE, "what needs nobody does not wait for them"
    assert run(capfd, "resume", path, "sums")[0] == DONE
    with release(path, "parking") as engine:
        while listed(path)["requests"]:
            pass
        while engine.told("status")["builds"] != [[1, "former"], [1, "serving"]]:
            pass
        assert engine.told("sums", 2) == {"a": 1, "b": 1}
        engine.end()


def test_at_rest_the_log_is_locked_meanwhile_and_free_again_afterwards(path: Path) -> None:
    fill(path, "a")
    tries: list[bool] = []

    class Clock(SystemClock):
        """Has an engine try to start in the middle of what is done."""

        def now(self) -> int:
            if tried:
                with pytest.raises(StoreLocked) as caught:
                    SystemFiles().lock(f"{path}.lock")
                tries.append(caught.value.briefly)
            return super().now()

    tried = False
    with SqliteOperations(str(path), Ports(clock=Clock())) as outside:
        number = outside.ask("pause", "sums", Arguments())
        tried = True
        assert outside.do_at_rest()
        tried = False
        assert outside.request(number).state == "done"

    assert tries
    assert all(tries)
    SystemFiles().lock(f"{path}.lock").release()


def test_an_engine_waits_for_a_command_that_is_just_at_work(path: Path) -> None:
    fill(path, "a")
    lock = SystemFiles().lock(f"{path}.lock", briefly=True)
    gone = threading.Timer(0.3, lock.release)

    async def start() -> None:
        gone.start()
        async with summing("parking", f"sqlite:{path}") as engine:
            assert await sums(engine) == {"a": 1}

    asyncio.run(start())
    gone.join()


def test_nothing_is_done_at_rest_while_an_engine_has_the_log(path: Path) -> None:
    fill(path, "a")
    lock = SystemFiles().lock(f"{path}.lock")
    with SqliteOperations(str(path)) as outside:
        number = outside.ask("reset", "sums", Arguments())
        assert not outside.do_at_rest()
        assert outside.request(number).state == "waiting"
    lock.release()
    assert decided(path) == []


class WatchedViews(VfsFiles):
    """Opens what is written through a named VFS, and the log, which is only read, as it is."""

    def connect(self, path: str, *, readonly: bool = False) -> Any:
        if readonly:
            return SystemFiles.connect(self, path, readonly=True)
        return super().connect(path)


def test_what_is_asked_and_what_is_done_at_rest_is_synced(path: Path) -> None:
    fill(path, "a")
    vfs = FaultyVfs()
    with SqliteOperations(str(path), Ports(files=WatchedViews(vfs.name))) as outside:
        outside.ask("reset", "sums", Arguments())
        assert vfs.calls[-1] == "sync log.views.db-wal"
        vfs.calls.clear()
        assert outside.do_at_rest()
        assert vfs.calls[-2:] == ["write log.views.db-wal", "sync log.views.db-wal"]
