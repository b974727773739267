"""The search for one order: what fits is found to fit, and each kind of contradiction is not."""

from __future__ import annotations

from typing import Any

import pytest

from engine import Receipt, Rejected, WrongVersion
from tests.simulation.domain import Put, Take
from tests.simulation.linear import Entry, entries_of, fits
from tests.simulation.story import Operation, Seen, Sending, Story, Stranger
from tests.simulation.swarm import Swarm

WINDOW = 1_000
NEVER = 1 << 60


def put(number: int, amount: int = 5, parts: int = 1, **options: Any) -> Operation:
    return Operation(
        number, 0, Put("c", number, amount, parts), options.pop("key", None), **options
    )


def took(number: int, amount: int, **options: Any) -> Operation:
    return Operation(number, 0, Take("c", number, amount), options.pop("key", None), **options)


def receipt(version: int) -> Receipt:
    return Receipt("cell:c", version, version)


def told(begun: int, ended: int, operation: Operation, answer: Any) -> Entry:
    return Entry(begun, ended, True, operation, answer)


def lost(begun: int, operation: Operation) -> Entry:
    return Entry(begun, NEVER, False, operation)


def rejection(version: int, total: int) -> Rejected:
    return Rejected("too-little", "", total=total, version=version)


def read(begun: int, ended: int, version: int, total: int) -> Entry:
    return Entry(begun, ended, True, shown=(version, total))


FITTING = {
    "one after the other": [told(1, 2, put(1), receipt(1)), told(3, 4, put(2), receipt(2))],
    "at the same time, the later one first": [
        told(1, 4, put(1), receipt(2)),
        told(2, 3, put(2), receipt(1)),
    ],
    "what was lost had its effect": [
        lost(1, put(1)),
        told(2, 3, put(2), receipt(2)),
        read(4, 5, 2, 10),
    ],
    "what was lost had none": [lost(1, put(1)), told(2, 3, put(2), receipt(1))],
    "what was lost had its effect late": [
        lost(1, put(1)),
        told(2, 3, put(2), receipt(1)),
        read(4, 5, 2, 10),
    ],
    "a key that is repeated": [
        told(1, 2, put(1, key="k"), receipt(1)),
        told(3, 4, put(2), receipt(2)),
        told(5, 6, put(1, key="k"), receipt(1)),
    ],
    "rejected on what was there then": [
        told(1, 2, put(1), receipt(1)),
        told(3, 4, took(2, 9), rejection(1, 5)),
        told(5, 6, put(3), receipt(2)),
        told(7, 8, took(4, 9), receipt(3)),
    ],
    "a version that was not the expected one": [
        told(1, 2, put(1, parts=3), receipt(3)),
        told(3, 4, put(2, expected=1), WrongVersion("cell:c", 1, 3)),
        told(5, 6, put(3, expected=3), receipt(4)),
    ],
    "somebody else's event": [
        told(1, 2, put(1), receipt(1)),
        Entry(3, 4, True, stranger_at=1),
        read(5, 6, 2, 8),
    ],
}


@pytest.mark.parametrize("history", FITTING.values(), ids=FITTING.keys())
def test_what_a_plain_cell_could_have_said_fits(history: list[Entry]) -> None:
    assert fits(history, WINDOW) is True


CONTRADICTING = {
    "a version that was given before": [
        told(1, 2, put(1), receipt(1)),
        told(3, 4, put(2), receipt(1)),
    ],
    "an order against the clock": [
        told(1, 2, put(1), receipt(2)),
        told(3, 4, put(2), receipt(1)),
    ],
    "a receipt whose events nobody sees": [
        told(1, 2, put(1), receipt(1)),
        read(3, 4, 0, 0),
    ],
    "a read of what was never sent": [read(1, 2, 1, 5), told(3, 4, put(1), receipt(1))],
    "a rejection that had no reason": [
        told(1, 2, put(1), receipt(1)),
        told(3, 4, took(2, 5), rejection(1, 5)),
    ],
    "a rejection on a state of before": [
        told(1, 2, put(1), receipt(1)),
        told(3, 4, put(2), receipt(2)),
        told(5, 6, took(3, 9), rejection(1, 5)),
    ],
    "a key that was run again": [
        told(1, 2, put(1, key="k"), receipt(1)),
        told(3, 4, put(1, key="k"), receipt(2)),
    ],
    "more taken than there is": [told(1, 2, took(1, 5), receipt(1))],
    "an expected version that was not there": [told(1, 2, put(1, expected=3), receipt(1))],
    "an effect twice of what was lost once": [
        lost(1, put(1)),
        told(2, 3, put(2), receipt(3)),
    ],
}


@pytest.mark.parametrize("history", CONTRADICTING.values(), ids=CONTRADICTING.keys())
def test_what_no_order_explains_does_not_fit(history: list[Entry]) -> None:
    assert fits(history, WINDOW) is False


def test_a_key_behind_its_window_is_run_again_and_within_it_is_not() -> None:
    history = [
        told(1, 2, put(1, key="k"), receipt(1)),
        told(3, 4, put(2), receipt(2)),
        told(5, 6, put(3), receipt(3)),
        told(7, 8, put(1, key="k"), receipt(4)),
    ]

    assert fits(history, key_window=2) is True
    assert fits(history, key_window=3) is False


def test_a_history_that_is_too_large_is_not_judged() -> None:
    history = [lost(n, put(n, amount=n)) for n in range(1, 25)]

    assert fits([*history, read(50, 51, 3, 7_000)], WINDOW) is None


def test_entries_are_what_the_clients_of_one_cell_were_told() -> None:
    one, other = put(1, key="k"), Operation(2, 0, Put("other", 2, 5), None)
    one.sendings = [Sending(1, 1), Sending(2, 1, 3, receipt(1))]
    other.sendings = [Sending(4, 1, 5, receipt(1))]
    story = Story(0, Swarm(), [one, other], [Stranger(-1, "c", 6, 1, 7, written=True)])
    story.seen = [Seen("state", "c", 8, 9, 2, 8), Seen("view", "c", 8, 9, 1, 5, 1)]

    entries = entries_of(story, "c")

    # The receipt may be the first sending's, and that may be older than what a stranger wrote.
    assert [entry.begun for entry in entries] == [0, 1, 6, 8]
    assert [entry.must for entry in entries] == [True, False, True, True]
    assert fits(entries, WINDOW) is True

    del one.sendings[0]
    assert [entry.begun for entry in entries_of(story, "c")] == [2, 6, 8]
