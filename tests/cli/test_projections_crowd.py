"""`python -m engine projections` while engines and commands are killed, or are many."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.stores.contract.requests import Arguments
from engine.stores.sqlite.outside.operations import SqliteOperations
from tests.cli.filled import DONE, UNKNOWN, decided, fill, listed, run, views
from tests.support import warm
from tests.support.processes import ROOT, command, ended, ran, release
from tests.support.sums import AILING


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    AILING.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


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
        with SqliteOperations(str(path)) as outside:
            number = outside.ask("reset", "sums", Arguments())
        assert engine.died() == -signal.SIGKILL
    with release(path, "parking") as engine, SqliteOperations(str(path), readonly=True) as outside:
        while outside.request(number).answered is None:
            pass
        assert outside.request(number).state == "unknown"
        engine.end()
    assert decided(path) == []


KILLED = """
import os, signal, sys
from engine.runtime.machine import SystemClock
from engine.runtime.ports import Ports
from engine.stores.contract.requests import Arguments
from engine.stores.sqlite.outside.operations import SqliteOperations

class Clock(SystemClock):
    left = int(sys.argv[2])
    def now(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().now()

with SqliteOperations(sys.argv[1], Ports(clock=Clock())) as outside:
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
    assert warm.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL

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
