"""`python -m engine projections`: on a log that is in use, and at rest, whoever is killed."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from engine import Ports, StoreLocked
from engine.__main__ import main
from engine.runtime.ports import SystemClock, SystemFiles, user_name
from engine.stores.contract.requests import Arguments
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.outside.operations import SqliteOutside
from tests.support.faults import FaultyVfs, VfsFiles
from tests.support.processes import ROOT, command, ended, line_of, ran, release
from tests.support.sums import AILING, add, summing, sums
from tests.support.waiting import until

DONE, FAILED, NOT_YET, UNKNOWN = 0, 1, 3, 4


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    AILING.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def fill(path: Path, *counters: str, named: str = "parking", ailing: str = "") -> None:
    """Write a log, fold it, and leave it at rest."""

    async def write() -> None:
        async with summing(named, f"sqlite:{path}") as engine:
            position = await add(engine, *counters)
            if named == "parking" or not ailing:
                # No query waits for a sink.
                await until(lambda: engine.statistics().projectors["sums"].position >= position)
            else:
                await until(lambda: engine.statistics().projectors["sums"].failure is not None)

    AILING.update(ailing)
    asyncio.run(write())
    AILING.clear()


def run(capfd: pytest.CaptureFixture[str], *arguments: str | Path | int) -> tuple[int, str, str]:
    """Run the command in this process."""
    status = main(["projections", *map(str, arguments)])
    told = capfd.readouterr()
    return status, told.out, told.err


def listed(path: Path) -> dict[str, Any]:
    """Give how the one projection stands."""
    status, out, err = ran("list", path, "--json")
    assert (status, err) == (DONE, "")
    found: dict[str, Any] = msgspec.json.decode(out)
    return found


def views(path: Path, *statements: str) -> Sequence[Any]:
    with closing(apsw.Connection(str(path.with_suffix(".views.db")))) as connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


def decided(path: Path) -> list[str]:
    return [kind for (kind,) in views(path, "SELECT kind FROM decisions ORDER BY number")]


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
    with SqliteOutside(str(path), Ports(clock=Clock())) as outside:
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
    with SqliteOutside(str(path)) as outside:
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
    with SqliteOutside(str(path), Ports(files=WatchedViews(vfs.name))) as outside:
        outside.ask("reset", "sums", Arguments())
        assert vfs.calls[-1] == "sync log.views.db-wal"
        vfs.calls.clear()
        assert outside.do_at_rest()
        assert vfs.calls[-2:] == ["write log.views.db-wal", "sync log.views.db-wal"]


# -- kills and crowds ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failpoint", "kinds"), [("control.begun", []), ("control.done", ["pause"])]
)
def test_an_engine_that_is_killed_in_the_middle_of_a_request_does_it_once_at_most(
    path: Path, failpoint: str, kinds: list[str]
) -> None:
    fill(path, "a")
    with (
        release(path, "parking", "--die", failpoint) as engine,
        command("pause", path, "sums", "--wait", 40) as pause,
    ):
        assert engine.died() == -signal.SIGKILL
        # Nobody has the log now: the command itself learns that nobody knows.
        status, out, err = ended(pause)
    assert (status, out) == (UNKNOWN, "")
    assert err.startswith("unknown: whoever did this ended before it could answer")
    assert decided(path) == kinds
    with release(path, "parking") as engine:
        assert (listed(path)["state"] == "paused") == bool(kinds)
        engine.end()
    assert decided(path) == kinds


def test_the_next_engine_tells_what_one_that_was_killed_had_begun(path: Path) -> None:
    fill(path, "a")
    with release(path, "parking", "--die", "control.begun") as engine:
        with SqliteOutside(str(path)) as outside:
            number = outside.ask("reset", "sums", Arguments())
        assert engine.died() == -signal.SIGKILL
    with release(path, "parking") as engine, SqliteOutside(str(path), readonly=True) as outside:
        while outside.request(number).answered is None:
            pass
        assert outside.request(number).state == "unknown"
        engine.end()
    assert decided(path) == []


KILLED = """
import os, signal, sys
from engine.runtime.ports import Ports, SystemClock
from engine.stores.contract.requests import Arguments
from engine.stores.sqlite.outside.operations import SqliteOutside

class Clock(SystemClock):
    left = int(sys.argv[2])
    def now(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().now()

with SqliteOutside(sys.argv[1], Ports(clock=Clock())) as outside:
    outside.ask("reset", "sums", Arguments())
    outside.do_at_rest()
"""


@pytest.mark.parametrize(
    ("place", "asked"),
    [(1, False), (2, True), (3, True)],
    ids=["before it has asked", "after it has decided", "before it has answered"],
)
def test_a_command_that_is_killed_leaves_all_or_nothing(
    path: Path, capfd: pytest.CaptureFixture[str], place: int, asked: bool
) -> None:
    fill(path, "a", "b")
    arguments = [sys.executable, "-c", KILLED, str(path), str(place)]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL

    found = listed(path)
    assert found["position"] == 2, "nothing was emptied"
    assert len(found["requests"]) == asked
    assert decided(path) == []
    run(capfd, "pause", path, "sums")
    assert decided(path) == (["reset", "pause"] if asked else ["pause"])
    with release(path, "parking") as engine:
        ran("resume", path, "sums")
        assert engine.told("sums", 2) == {"a": 1, "b": 1}
        engine.end()


@pytest.mark.parametrize("in_use", [True, False])
def test_many_commands_at_once_are_each_done_once(path: Path, in_use: bool) -> None:
    fill(path, "a")
    kinds = ["pause", "resume", "reset", "pause", "reset", "pause"]
    with ExitStack() as stack:
        engine = stack.enter_context(release(path, "parking")) if in_use else None
        commands = [
            stack.enter_context(command(kind, path, "sums", "--wait", 50)) for kind in kinds
        ]
        assert [ended(process)[0] for process in commands] == [DONE] * len(kinds)
        if engine is not None:
            engine.end()
    done = decided(path)
    assert (done.count("pause"), done.count("reset")) == (3, 2)
    assert views(path, "SELECT count(*) FROM requests WHERE state = 'done'") == [(len(kinds),)]


# -- files that cannot be used ------------------------------------------------------------------

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
        ["retry", "x", "sums", "--reason", "r"],
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
