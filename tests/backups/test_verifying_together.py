"""Several processes look at a log: together they find what one finds, and none is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import Engine
from engine.__main__ import main
from engine.cli import verify_helpers
from engine.cli.verify_child import Question, Task
from engine.cli.verify_helpers import Helpers
from engine.errors import StoreFailed
from engine.outside import stretches
from engine.outside.stretches import Shape, SingleInspector
from engine.runtime.ports import Ports
from engine.stores.urls import open_backend
from tests.backups.stretched import EVENTS, changed, made, metadata_at, path
from tests.outside.copied import Board, NewStore, Pin

__all__ = ["made", "path"]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a stretch be short, so that each process has some."""
    monkeypatch.setattr(verify_helpers, "STRETCH", 4)
    monkeypatch.setattr(stretches, "STRETCH", 4)


def looked(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    status = main(["verify", "--json", *arguments])
    out = capfd.readouterr().out
    return status, [msgspec.json.decode(line) for line in out.splitlines()]


def test_together_they_find_what_one_finds(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    changed(path, metadata_at(16, '{"key":"k-3","claims":[["name","x"]]}'), 16)
    changed(path, "UPDATE events SET recorded = recorded - 1 WHERE position = 21", 21)
    changed(path, "UPDATE events SET payload = x'7b7d' WHERE position = 23")
    changed(path, "DELETE FROM events WHERE position IN (8, 9)")
    app = "tests.backups.test_verifying_together:a_kind"

    single = looked(capfd, str(path), "--jobs", "1", "--app", app)
    # As many as there is to do: no stretch is looked at by who has looked at another one.
    together = looked(capfd, str(path), "--jobs", "9", "--app", app)

    assert together == single
    assert {line["wrong"] for line in single[1][:-1]} >= {
        "key",
        "claim",
        "time",
        "event",
        "missing",
    }
    assert single[1][-1]["events"] == EVENTS - 3


def test_no_more_begin_than_there_is_to_do(
    path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[object] = []

    class Counted(verify_helpers.Helper):
        def __init__(self, task: Any) -> None:
            begun.append(task)
            super().__init__(task)

    monkeypatch.setattr(verify_helpers, "STRETCH", 1_000)
    monkeypatch.setattr(verify_helpers, "Helper", Counted)

    assert looked(capfd, str(path), "--jobs", "64")[0] == 0
    assert len(begun) == 2  # one for the structure, one for the only stretch


class A(Board, kind="a"): ...


def a_kind() -> Engine:
    return Engine([A])


async def test_one_that_gives_way_looks_beside_an_engine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, at = f"sqlite:{tmp_path}/log.db", list[int]()
    end = verify_helpers.Helper.end

    def watched(helper: Any) -> None:
        at.append(os.getpriority(os.PRIO_PROCESS, helper.process.pid))
        end(helper)

    monkeypatch.setattr(verify_helpers.Helper, "end", watched)
    monkeypatch.setattr(verify_helpers, "LARGE", 1)
    async with Engine([Board], store=store) as engine:
        for n in range(6):
            await engine.execute(Pin(f"b-{n}", "x"))
        assert looked(capfd, store)[0] == 0
        assert at == [19]
    at.clear()
    assert looked(capfd, store, "--jobs", "2")[0] == 0
    assert at == [os.getpriority(os.PRIO_PROCESS, 0)] * 2


async def test_a_log_in_postgresql_is_looked_at_by_several(
    new: NewStore, capfd: pytest.CaptureFixture[str]
) -> None:
    store = new("postgresql")
    async with Engine([Board], store=store) as engine:
        for n in range(9):
            await engine.execute(Pin(f"b-{n}", "x"))

    status, lines = looked(capfd, store, "--jobs", "2")

    assert (status, lines[-1]["events"], lines[-1]["streams"]) == (0, 9, 9)


def test_a_process_that_ends_is_an_error_and_not_a_sound_log(
    path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = verify_helpers.Helper.ask

    def killed(helper: Any, question: Question) -> None:
        # It stands still before it is asked: so it has neither answered nor ended before the end.
        if question.after >= 12:
            helper.process.send_signal(signal.SIGSTOP)
        ask(helper, question)
        if question.after >= 12:
            helper.process.kill()

    monkeypatch.setattr(verify_helpers.Helper, "ask", killed)
    assert main(["verify", str(path), "--jobs", "2"]) == 1
    told = capfd.readouterr()
    assert "ended with status -9 before it had answered" in told.err
    assert "nothing is wrong" not in told.out


def test_what_one_cannot_read_is_told_as_it_says(path: Path) -> None:
    outside = open_backend(f"sqlite:{path}").outside(Ports())
    with outside.log_reader() as log:
        single = SingleInspector(log, None, lambda: None)
        with (
            Helpers(single, Task(f"sqlite:{path}-gone", 100, gives_way=False), 2) as inspector,
            pytest.raises(StoreFailed, match="ended with status 1 before"),
        ):
            list(inspector.stretches(EVENTS, ()))


def test_one_ends_with_whoever_asks_also_in_the_middle(path: Path) -> None:
    helper = verify_helpers.Helper(Task(f"sqlite:{path}", 1, gives_way=False))
    helper.ask(Question(0, EVENTS))
    helper.questions.close()
    assert helper.process.wait(60) == 1, "it was about to rest for long"
    helper.end()


def test_a_small_log_is_looked_at_by_nobody_else(path: Path) -> None:
    outside = open_backend(f"sqlite:{path}").outside(Ports())
    with outside.log_reader() as log:
        task = Task("sqlite:gone", 100, gives_way=True)
        with Helpers(SingleInspector(log, None, lambda: None), task, None) as inspector:
            assert sum(stretch.events for stretch in inspector.stretches(EVENTS, ())) == EVENTS
            assert inspector.shape() == Shape()
