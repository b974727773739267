"""The test kit knows boundaries: each has the events with its tags, whoever gave them."""

from __future__ import annotations

import pytest

from engine.testing.joint import given_all
from engine.testing.scenario import given
from tests.write.courses import (
    Course,
    Enrol,
    Enrolled,
    Issue,
    Issued,
    Leave,
    Left,
    Offered,
    Student,
    enrol,
    issue,
    leave,
)

ART = given_all(
    given(Course, Offered("art", 2), aggregate_id="art"),
    given(Student, Enrolled("x", "ann"), Enrolled("y", "ann"), aggregate_id="ann"),
)


def test_each_boundary_has_the_events_with_its_tags() -> None:
    first = ART.when(enrol, Enrol("art", "ann"))
    first.then({"course:art": [Enrolled("art", "ann")]}).then_reply(1)

    assert first.aggregate(Student, "ann").state.courses == 3
    first.when(enrol, Enrol("art", "ann")).then_rejected("enrolled")
    gone = first.when(leave, Leave("art", "ann"))
    gone.then({"enrolment:art/ann": [Left("art", "ann")]})
    assert gone.aggregate(Course, "art").state.taken == 0
    assert gone.aggregate(Student, "ann").state.courses == 2


def test_a_whole_tag_has_one_boundary() -> None:
    one = given_all().when(issue, Issue()).then({"invoices:all": [Issued(1)]})
    one.when(issue, Issue()).then_reply(2)


def test_other_events_are_told() -> None:
    with pytest.raises(AssertionError, match="other events came"):
        ART.when(enrol, Enrol("art", "bob")).then({"course:art": [Enrolled("art", "ann")]})
