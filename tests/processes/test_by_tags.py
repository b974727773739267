"""A process manager and rules by tags: what leads it, what it sends, what it is decided with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine import (
    Command,
    Decision,
    Engine,
    Event,
    Id,
    ProcessManager,
    Receipt,
    Rejected,
    To,
    applies,
    decides,
    reacts,
    when_rejected,
)
from tests.support.waiting import until
from tests.write.courses import DECISIONS, KINDS, Course, Enrol, Enrolled, Leave, Left, Offer


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'log.db'}"


class Wait(Command):
    """Wait for a seat in a course, if it has none left."""

    queue: Id
    course: Id
    student: str


class Waits(Event, name="student-waits"):
    student: str


class Called(Event, name="student-called"):
    student: str


class GivenUp(Event, name="student-given-up"):
    student: str
    why: str


class Queue(ProcessManager, kind="queue", begins="now"):
    """Who waits for a seat; called when one has left."""

    waiting: list[str] = []
    given_up: dict[str, str] = {}

    @reacts(by="course")
    def seat_left(self, event: Left) -> Decision[Called] | None:
        if not self.waiting:
            return None
        student = self.waiting[0]
        return Decision(Called(student), commands=[Enrol(event.course, student)])

    @when_rejected
    def not_enrolled(self, command: Enrol, rejection: Rejected) -> GivenUp:
        return GivenUp(command.student, rejection.code)

    @applies
    def waits(self, event: Waits) -> None:
        self.waiting.append(event.student)

    @applies
    def called(self, event: Called) -> None:
        self.waiting.remove(event.student)

    @applies
    def gave_up(self, event: GivenUp) -> None:
        self.given_up[event.student] = event.why


@decides
def wait(command: Wait, queue: Queue, course: Course) -> list[To[Waits]]:
    if course.taken < course.seats:
        raise Rejected("seats-left", f"{course.id} has seats")
    return [To(queue, Waits(command.student))]


def school(store: str, **options: Any) -> Engine:
    return Engine([*KINDS, Queue], decisions=[*DECISIONS, wait], store=store, **options)


async def full(engine: Engine, *waiting: str) -> None:
    """Fill a course of one seat, and let some wait for it."""
    await engine.execute(Offer("c", 1))
    await engine.execute(Enrol("c", "first"))
    for student in waiting:
        await engine.execute(Wait("c", "c", student))


async def ended(engine: Engine, position: int) -> None:
    numbers = engine.statistics
    await until(lambda: numbers().projectors["queue"].position >= position)
    await until(lambda: not numbers().timers.due and not numbers().timers.waiting)
    await until(lambda: numbers().projectors["queue"].position == position)
    assert numbers().position == position


async def test_a_tagged_event_leads_a_process_to_a_command_that_boundaries_decide(url: str) -> None:
    async with school(url) as engine:
        await full(engine, "second", "third")
        left = await engine.execute(Leave("c", "first"))
        await ended(engine, 7)

        assert (await engine.state(Queue, "c")).waiting == ["third"]
        assert (await engine.state(Course, "c")).taken == 1
        [*_, last] = [logged async for logged in engine.feed()]
        assert last.event == Enrolled("c", "second")
        assert left.position == 5
        assert last.meta.causation == "queue:c@3"


async def test_a_rule_by_tags_that_refuses_is_heard_by_the_process(url: str) -> None:
    async with school(url) as engine:
        await full(engine, "second")
        for course in "def":
            await engine.execute(Offer(course, 1))
            await engine.execute(Enrol(course, "second"))
        await engine.execute(Leave("c", "first"))
        await ended(engine, 12)

        queue = await engine.state(Queue, "c")
        assert (queue.waiting, queue.given_up) == ([], {"second": "too-many"})
        assert (await engine.state(Course, "c")).taken == 0


async def test_a_process_and_a_boundary_are_decided_together(url: str) -> None:
    """Its event is stored only if the boundary is as it was, in whichever order they came."""
    async with school(url) as engine:
        await engine.execute(Offer("c", 1))
        with pytest.raises(Rejected, match="has seats"):
            await engine.execute(Wait("c", "c", "early"))
        enrolled = engine.execute_many([Enrol("c", "first"), Wait("c", "c", "second")])
        answers: list[Any] = [answer async for answer in enrolled]

        assert [type(answer) for answer in answers] == [Receipt, Receipt]
        assert answers[1].versions == {"queue:c": 1, "course:c": 2}
        assert (await engine.state(Queue, "c")).waiting == ["second"]
    if url != "memory:":
        async with school(url) as engine:
            await engine.execute(Leave("c", "first"))
            await ended(engine, 6)
            assert (await engine.state(Queue, "c")).waiting == []
