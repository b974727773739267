"""Tags of events and of boundaries, looked at as their classes are made."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from engine import (
    Boundary,
    Command,
    DefinitionError,
    Engine,
    Event,
    Id,
    Personal,
    To,
    applies,
    decides,
    handles,
    upcasts,
)
from engine.model.boundary import finder_of, tags_by
from engine.model.tags import reader_of

Number = Annotated[int, msgspec.Meta(ge=0)]


class Enrolled(Event, name="enrolled", tags=("course", "student", "number", "school:all")):
    course: str
    number: Number
    student: Id | None = None


class Plain(Event, name="plain"):
    course: str


class Enrol(Command):
    course: Id
    student: Id


class Course(Boundary, tags=("course",)):
    @applies
    def enrolled(self, event: Enrolled) -> None: ...


class Enrolment(Boundary, tags=("course", "student")):
    @applies
    def enrolled(self, event: Enrolled) -> None: ...


def test_an_event_has_the_values_of_its_fields() -> None:
    tags = Enrolled.__tagged__()
    assert tags is not None
    read = reader_of(Enrolled, tags)

    assert read(Enrolled("c", 7, "s")) == ("course:c", "student:s", "number:7", "school:all")
    assert read(Enrolled("c", 7)) == ("course:c", "number:7", "school:all")
    assert Plain.__tagged__() is None


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ("course", "write a list of names"),
        (("course", "course"), "write a list of names"),
        (("no such",), "write a list of names"),
        ((7,), "write a list of names"),
        (("lacking",), "no field of that name"),
        (("person",), "is a personal field"),
        (("ratio",), "is no text and no whole number"),
        (("others",), "is no text and no whole number"),
        (("late",), "with a default"),
        (tuple(f"a:{n}" for n in range(9)), "8 are the most"),
    ],
)
def test_what_is_no_tag_is_refused(tags: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):

        class Odd(Event, name="odd", tags=tags):
            person: Personal[str]
            ratio: float
            others: list[str]
            late: str = "x"


def test_only_events_have_tags() -> None:
    with pytest.raises(DefinitionError, match="only events have tags"):

        class Odd(Command, tags=("course",)):
            course: Id


def test_a_boundary_applies_what_has_its_tags() -> None:
    with pytest.raises(DefinitionError, match="Plain, which has no tag 'course'"):

        class Odd(Boundary, tags=("course",)):
            @applies
            def plain(self, event: Plain) -> None: ...


def test_a_boundary_is_refused_without_tags_or_appliers_and_with_handlers() -> None:
    with pytest.raises(DefinitionError, match="has no tags"):

        class NoTags(Boundary):
            @applies
            def enrolled(self, event: Enrolled) -> None: ...

    with pytest.raises(DefinitionError, match="applies no event"):

        class NoAppliers(Boundary, tags=("course",)):
            pass

    class Close(Command):
        course: Id

    with pytest.raises(DefinitionError, match="handles Close"):

        class Handles(Boundary, tags=("course",)):
            @applies
            def enrolled(self, event: Enrolled) -> None: ...

            @handles
            def close(self, command: Close) -> Enrolled:
                return Enrolled(command.course, 1)

    with pytest.raises(DefinitionError, match="snapshot_every"):

        class Snapshots(Boundary, tags=("course",), snapshot_every=5):
            @applies
            def enrolled(self, event: Enrolled) -> None: ...


def test_a_command_has_a_field_for_each_tag() -> None:
    class Half(Command):
        course: Id

    with pytest.raises(DefinitionError, match="write `student: Id` in Half"):

        @decides
        def half(command: Half, enrolment: Enrolment) -> list[Enrolled]:
            return []

    with pytest.raises(DefinitionError, match="takes no aggregate for `student`"):

        @decides
        def one(command: Enrol, course: Course) -> list[Enrolled]:
            return []


def test_what_no_boundary_applies_is_not_returned() -> None:
    with pytest.raises(DefinitionError, match="returns Plain, and nothing in Enrolment applies it"):

        @decides
        def odd(command: Enrol, enrolment: Enrolment) -> list[Plain | To[Enrolled]]:
            return []


def test_the_engine_has_the_boundaries_of_its_decisions() -> None:
    @decides
    def enrol(command: Enrol, enrolment: Enrolment) -> Enrolled:
        return Enrolled(command.course, 1, command.student)

    with pytest.raises(DefinitionError, match="pass it to Engine"):
        Engine([Course], decisions=[enrol])


def test_what_is_upcast_has_the_tags_of_today() -> None:
    class Former(Event, name="former"):
        course: str

    @upcasts
    def now(event: Former) -> Enrolled:
        return Enrolled(event.course, 1)

    with pytest.raises(DefinitionError, match=r"Former, which is upcast to it, has not"):
        Engine([Enrolment], upcasters=[now])


def test_an_id_and_its_tags_lead_to_each_other() -> None:
    two = ("course", "student", "school:all")
    for course, student in (("a", "b"), ("a/b", "c"), ("a", "b/c"), ("%2F", "/%")):
        tags = (f"course:{course}", f"student:{student}", "school:all")
        (found,) = finder_of(two)((*tags, "number:7"))
        assert tags_by(two, found) == tags
    assert not finder_of(two)(("course:a", "student:b"))
    assert finder_of(("school:all",))(("school:all",)) == ("all",)
    assert not finder_of(("course",))(("student:b",))


def test_an_event_with_several_tags_of_a_name_belongs_to_a_boundary_of_each() -> None:
    tags = ("course:a", "course:all", "student:b")
    assert finder_of(("course",))(tags) == ["a", "all"]
    assert finder_of(("course", "student"))(tags) == ["a/b", "all/b"]
