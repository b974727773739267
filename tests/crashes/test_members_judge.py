"""The judge of processes that share a log sees what is wrong, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from .members import Said
from .members_judge import History, Row, judge

STREAM = "notebook:n"


def told() -> tuple[History, list[Row]]:
    """Give two notes that were acknowledged, one that nobody knows of, and counts between them.

    Behind them stand a reminder and what its timer wrote.
    """
    said = [
        Said("ready", "p1", 0.0),
        Said("sent", "p1-0-1", 1.0, True, STREAM),
        Said("receipt", "p1-0-1", 2.0, True, STREAM, 1, 1),
        Said("sent", "p1-0-2", 3.0, False, STREAM),
        Said("counted", "p1-0-2", 4.0, False, STREAM, 1),
        Said("sent", "p1-0-3", 5.0, False, STREAM),
        Said("unknown", "p1-0-3", 6.0, False, STREAM),
        Said("sent", "p2-0-1", 7.0, True, STREAM),
        Said("receipt", "p2-0-1", 8.0, True, STREAM, 3, 3),
        Said("sent", "p1-0-4", 9.0, False, STREAM),
        Said("counted", "p1-0-4", 10.0, False, STREAM, 3),
        Said("sent", "p1-0-5", 11.0, True, STREAM),
        Said("Closed", "p1-0-5", 12.0, True, STREAM),
        Said("sent", "p2-0-2", 13.0, True, STREAM),
        Said("sent", "p1-0-6", 14.0, True, STREAM),
        Said("receipt", "p1-0-6", 15.0, True, STREAM, 4, 4),
    ]
    notes = "p1-0-1", "p1-0-3", "p2-0-1", "p1-0-6!", "p1-0-6!+"
    return History(said, {"p2"}), [Row(n, STREAM, n, what) for n, what in enumerate(notes, 1)]


def test_what_holds_together_has_no_problem() -> None:
    assert judge(*told(), waiting=()) == []


def test_a_timer_has_rung_or_waits() -> None:
    history, log = told()
    log.pop()

    assert judge(history, log, waiting=[STREAM]) == []
    [problem] = judge(history, log, waiting=())
    assert "its timer neither rang nor waits" in problem


Change = Callable[[History, list[Row]], None]


def said(place: int, **changed: object) -> Change:
    def change(history: History, _: list[Row]) -> None:
        history.said[place] = msgspec.structs.replace(history.said[place], **changed)

    return change


def row(place: int, **changed: object) -> Change:
    def change(_: History, log: list[Row]) -> None:
        log[place] = msgspec.structs.replace(log[place], **changed)

    return change


def lost(_: History, log: list[Row]) -> None:
    del log[2]


def none_killed(history: History, _: list[Row]) -> None:
    history.killed.clear()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lost, "p2-0-1 was acknowledged at"),
        (row(2, position=4), "position 4 stands in place 3"),
        (row(2, version=4), "has version 4 in place 3"),
        (row(1, what="p1-0-1"), "p1-0-1 is in the log 2 times"),
        (row(1, what="x"), "x is in the log, and nobody sent it"),
        (row(1, what="p1-0-5"), "p1-0-5 was called not run (Closed), and is at 2"),
        (said(8, version=2), "p2-0-1 was acknowledged at"),
        (said(6, keyed=True), "p1-0-3 has a key"),
        (said(6, what="Damaged"), "p1-0-3 was answered with Damaged"),
        (said(6, key="p2-0-1"), "p1-0-3 was never answered"),
        (none_killed, "p2-0-2 was never answered"),
        (said(5, key="p1-0-9"), "p1-0-3 was answered, and had no call, or an answer"),
        (said(0, what="failed"), "the engine of p1 has failed"),
        (said(10, version=2), "p1-0-4 was told 2 notes, when 3 were acknowledged"),
        (said(10, version=9), "p1-0-4 was told 9 notes, and the log has 5"),
        (row(4, what="p1-0-5!+"), "p1-0-5!+ was rung behind"),
        (said(4, version=2), "p1-0-2 was told 2 notes, before that many were sent"),
        (said(8, at=4.5), "p2-0-1 was acknowledged before one in front of it was sent"),
    ],
)
def test_the_judge_sees_what_is_wrong(change: Change, problem: str) -> None:
    history, log = told()
    change(history, log)

    assert [found for found in judge(history, log) if problem in found]
