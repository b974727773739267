"""How long callers waited behind a fault is measured right, and so is what the machine took."""

from __future__ import annotations

import pytest

from .members import Said
from .members_times import Pause, late, longest_wait, told


def said(what: str, key: str, at: float, waited: float = 0.0) -> Said:
    return Said(what, key, at, waited=waited)


def test_the_longest_wait_begins_at_the_fault_or_as_a_command_is_sent() -> None:
    known = [
        said("sent", "p1-0-1", 8.0),
        said("sent", "p2-0-1", 9.0),
        said("receipt", "p2-0-1", 12.5),
        said("sent", "p2-0-2", 12.6),
        said("counted", "p2-0-2", 14.6),
        said("owner", "p2", 20.0),
        said("receipt", "p1-0-1", 30.0),
    ]
    assert longest_wait(known, "p1", 10.0)[0] == 2.5
    assert longest_wait(known, "p2", 10.0)[0] == 20.0  # whom the fault befell is left out
    assert longest_wait(known, "p1", 12.55)[0] == pytest.approx(2.0)
    assert longest_wait([], "p1", 10.0) == (0.0, 0.0)


def test_what_the_machine_took_is_of_one_process_and_of_that_time() -> None:
    known = [
        said("sent", "p2-0-1", 9.0, waited=5.0),
        said("sent", "p3-0-1", 9.0, waited=1.0),
        said("receipt", "p3-0-1", 11.0, waited=1.5),
        said("receipt", "p2-0-1", 12.0, waited=5.25),
        said("sent", "p2-0-2", 13.0, waited=99.0),
    ]
    assert longest_wait(known, "p1", 10.0) == (2.0, 0.5)


def test_a_takeover_is_late_by_what_the_machine_did_not_take() -> None:
    bad = [
        Pause("kill", 3.2, 0.1, is_takeover=True),
        Pause("stand still at: lease.renewed", 4.0, 0.0, is_takeover=True),
    ]
    good = [
        Pause("kill", 3.2, 0.3, is_takeover=True),
        Pause("kill", 9.0, 0.0, is_takeover=False),
        Pause("cut from the database (forth)", 9.0, 0.0, is_takeover=True),
    ]
    assert len([*late([*good, *bad], 3.0)]) == 2
    assert "of which the machine ran something else for 0.10 s; 3 s" in next(late(bad, 3.0))
    assert [line for line in told(good) if line.startswith("kill: another takes over for 3.20 s")]
    assert [*told(bad)][-1] == "stood still or killed at: lease.renewed 1"
