"""The judge of erasures sees who is read too late, and who is masked for no reason."""

from __future__ import annotations

import msgspec
import pytest

from .members import Said
from .members_joint_judge import Row
from .members_persons_judge import judge_persons

STREAM = "notebook:n"


def said_of_one() -> list[Said]:
    """Give two notes, an erasure of who wrote them, one more note, and who read all that."""
    erasure = f"p1:{STREAM}"
    return [
        Said("sent", "p1-0-1", 1.0, stream=STREAM),
        Said("receipt", "p1-0-1", 2.0, stream=STREAM, version=1),
        Said("sent", "p1-0-2", 3.0, stream=STREAM),
        Said("receipt", "p1-0-2", 4.0, stream=STREAM, version=2),
        Said("erases", erasure, 5.0, stream=STREAM),
        Said("erased", erasure, 6.0, stream=STREAM),
        Said("state", "p2:", 6.9, stream=STREAM, since=6.8, shown=1),
        Said("sent", "p1-0-3", 7.0, stream=STREAM),
        Said("receipt", "p1-0-3", 8.0, stream=STREAM, version=3),
        Said("rows", "p2:", 8.2, stream=STREAM, since=8.1, shown=3, masked=2),
        Said("state", "p2:", 8.4, stream=STREAM, since=8.3, shown=3, masked=2),
    ]


def problems(said: list[Said]) -> list[str]:
    notes = "p1-0-1", "p1-0-2", "p1-0-3"
    log = [Row(n, STREAM, n, what) for n, what in enumerate(notes, 1)]
    return [*judge_persons(said, log, keeps_seconds=1.0)]


def test_who_is_erased_and_comes_again_is_read_from_then_on() -> None:
    assert problems(said_of_one()) == []


def test_an_erasure_that_was_not_acknowledged_may_be_seen_or_not() -> None:
    said = said_of_one()
    del said[5]
    said[8] = msgspec.structs.replace(said[8], shown=1, masked=0)

    assert problems(said) == []


@pytest.mark.parametrize(
    ("place", "changed", "problem"),
    [
        (9, {"shown": 2}, "p2: was shown version 2 of notebook:n in its rows, 2.10 s behind"),
        (10, {"shown": 1}, "was shown version 1 of notebook:n in its state"),
        (6, {"what": "rows"}, "was shown version 1 of notebook:n in its rows, 0.80 s behind"),
        (10, {"masked": 3}, "was shown a mask of version 3"),
        (9, {"masked": 3, "since": 0.1, "at": 4.5}, "was shown a mask of version 3"),
        (9, {"what": "misread"}, "read notebook:n: misread"),
        (9, {"what": "Damaged"}, "read notebook:n: Damaged"),
    ],
)
def test_the_judge_sees_what_is_wrong(place: int, changed: dict[str, object], problem: str) -> None:
    said = said_of_one()
    said[place] = msgspec.structs.replace(said[place], **changed)

    assert [found for found in problems(said) if problem in found]
