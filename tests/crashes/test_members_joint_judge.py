"""The judge of what owners decide together sees what is wrong, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from .members import Said
from .members_joint_judge import Row, judge_joint

P1, P2, TILL, BOOK = "purse:p1", "purse:p2", "till:t1", "book:b1"


def told() -> tuple[list[Said], list[Row]]:
    """Give a purse that is filled, a move, two looks, a refusal, a number, and who asks for it."""
    said = [
        Said("sent", "a", 1.0, True, P1, writes=True),
        Said("receipt", "a", 2.0, True, P1, 1, 1, writes=True),
        Said("sent", "b", 3.0, True, P1, other=P2, writes=True, whole=True),
        Said("receipt", "b", 4.0, True, P1, 2, 3, P2, 1, writes=True, whole=True),
        Said("sent", "c", 5.0, False, P1, other=P2),
        Said("receipt", "c", 6.0, False, P1, 2, 3, P2, 1, 50),
        Said("sent", "d", 7.0, True, P1, other=P2, writes=True, whole=True),
        Said("too-little", "d", 8.0, True, P1, 2, other=P2, writes=True, whole=True),
        Said("sent", "e", 9.0, False, TILL, other=BOOK, writes=True),
        Said("receipt", "e", 10.0, False, TILL, 1, 4, BOOK, 1, 1, writes=True),
        Said("sent", "f", 11.0, False, TILL, other=BOOK),
        Said("receipt", "f", 12.0, False, TILL, 1, 4, BOOK, 1, 1),
        Said("sent", "g", 13.0, True, P2, other=P1, writes=True, whole=True),
        Said("Conflict", "g", 14.0, True, P2, other=P1, writes=True, whole=True),
    ]
    log = [
        Row(1, P1, 1, "a", 50),
        Row(2, P1, 2, "b", -20),
        Row(3, P2, 1, "b", 20),
        Row(4, TILL, 1, "e", 0, "b1", 1),
    ]
    return said, log


def test_what_holds_together_has_no_problem() -> None:
    assert judge_joint(*told()) == []


Change = Callable[[list[Said], list[Row]], None]


def said(place: int, **changed: object) -> Change:
    def change(said: list[Said], _: list[Row]) -> None:
        said[place] = msgspec.structs.replace(said[place], **changed)

    return change


def row(place: int, **changed: object) -> Change:
    def change(_: list[Said], log: list[Row]) -> None:
        log[place] = msgspec.structs.replace(log[place], **changed)

    return change


def lost(place: int) -> Change:
    def change(_: list[Said], log: list[Row]) -> None:
        del log[place]

    return change


def more(*rows: Row) -> Change:
    return lambda _, log: log.extend(rows)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lost(2), "b is there in part"),
        (lost(0), "p1"),
        (row(2, position=9), "b is there 2 times"),
        (row(2, cents=19), "b is there 2 times"),
        (more(Row(5, P2, 2, "g", -20), Row(6, P1, 3, "g", 20)), "g was called not run"),
        (more(Row(5, P2, 2, "z", 1)), "nobody sent it"),
        (more(Row(5, P1, 3, "a", 50)), "a is there 2 times"),
        (more(Row(5, TILL, 2, "e", 0, "b1", 1)), "number 1 of b1 behind 1"),
        (said(3, version=3), "b was acknowledged"),
        (said(3, position=4), "b was told 4"),
        (said(3, what="unknown"), "nobody knows"),
        (said(5, version=1, of_other=0), "c was told of purse:p1 1"),
        (said(5, reply=49), "c was told of 49 cents"),
        (said(5, of_other=0, reply=30), "c was told of purse:p1 2, purse:p2 0"),
        (said(7, version=1), "d was told of purse:p1 1"),
        (said(7, version=3), "d was told of purse:p1 3"),
        (said(9, reply=2), "e was told 4 and 2"),
        (said(11, reply=0), "f was told of till:t1"),
        (said(13, what="AssertionError"), "g was answered with"),
        (said(9, what="Voided"), "e was called not run"),
    ],
)
def test_what_cannot_be_true_is_found(change: Change, problem: str) -> None:
    calls, log = told()
    change(calls, log)
    found = judge_joint(calls, log)
    assert any(problem in one for one in found), found
