"""Decisions on boundaries: states folded from events by their tags, wherever these are stored."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from engine import (
    Engine,
    HandlerFailed,
    InvalidInput,
    KeyReused,
    Limits,
    Receipt,
    Rejected,
    StreamUnreadable,
    Voided,
    WrongVersion,
)
from engine.model.codec import schema_hash
from engine.model.stored import EventData, EventType
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.contract.tags import Unchanged
from engine.stores.memory import MemoryStore
from tests.support.held_store import HeldStore, not_written, unknown
from tests.support.waiting import settle
from tests.write import courses
from tests.write.courses import (
    GATE,
    Course,
    Desk,
    Enrol,
    Enrolled,
    Enrolment,
    Invoices,
    Issue,
    Leave,
    Move,
    Offer,
    Seize,
    SlowlyEnrol,
    Student,
    school,
)


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    urls = {"memory": "memory:", "sqlite": f"sqlite:{tmp_path}/log.db"}
    async with school(store=urls[request.param]) as engine:
        yield engine


async def answers(engine: Engine, *commands: Any) -> list[str]:
    """Give what becomes of commands that are sent at once: "ok", a code, or an error's class."""
    sent = await asyncio.gather(*map(engine.execute, commands), return_exceptions=True)
    return [
        "ok" if isinstance(a, Receipt) else a.code if isinstance(a, Rejected) else type(a).__name__
        for a in sent
    ]


async def behind(store: MemoryStore, stream: str, version: int, course: str, student: str) -> None:
    """Append an enrolment as another writer would."""
    kind = EventType("student-enrolled", 1, schema_hash(Enrolled))
    payload = msgspec.json.encode({"course": course, "student": student})
    data = EventData(kind, payload, tags=(f"course:{course}", f"student:{student}"))
    batch = Batch([AppendRequest([Write(stream, version, [data])])], 1)
    await MemoryStore.append(store, batch)


# -- what is decided ------------------------------------------------------------------------------


async def test_a_course_has_so_many_seats_and_a_student_so_many_courses(engine: Engine) -> None:
    assert await answers(engine, *(Offer(f"c{n}", 10) for n in range(4))) == ["ok"] * 4
    enrols = [Enrol(f"c{n % 4}", f"s{n // 4}") for n in range(60)]
    found = Counter(await answers(engine, *enrols))

    courses = [await engine.state(Course, f"c{n}") for n in range(4)]
    students = [await engine.state(Student, f"s{n}") for n in range(15)]
    assert sum(course.taken for course in courses) == sum(s.courses for s in students)
    assert all(course.taken <= 10 for course in courses)
    assert all(student.courses <= 3 for student in students)
    assert found["ok"] == sum(course.taken for course in courses)
    assert found.keys() <= {"ok", "full", "too-many"}


async def test_an_event_is_stored_with_the_first_boundary_that_applies_it(engine: Engine) -> None:
    await engine.execute(Offer("c", 5))
    receipt = await engine.execute(Enrol("c", "s"))

    assert receipt == Receipt("course:c", 2, 2, 4, (("student:s", 1), ("enrolment:c/s", 1)))
    assert await answers(engine, Enrol("c", "s"), Leave("c", "s")) == ["enrolled", "ok"]
    assert (await engine.state(Enrolment, "c/s")).is_there is False
    assert (await engine.state(Course, "c")).taken == 0
    assert (await engine.state(Student, "s")).courses == 0
    assert (await engine.history(Enrolment, "c/s")).events[0].name == "student-left"


async def test_a_value_with_a_slash_is_no_other_boundary(engine: Engine) -> None:
    await engine.execute(Offer("a/b", 5))
    await engine.execute(Offer("a", 5))
    await engine.execute(Enrol("a/b", "c"))

    assert await answers(engine, Enrol("a", "b/c"), Enrol("a/b", "c")) == ["ok", "enrolled"]
    assert (await engine.state(Enrolment, "a%2Fb/c")).version == 1


async def test_an_expected_version_of_a_boundary_counts_what_it_selects(engine: Engine) -> None:
    """Its events may be stored with others, so that its own stream has none of them."""
    await engine.execute(Offer("a", 5))
    await engine.execute(Offer("b", 5))
    first = await engine.execute(Enrol("a", "s"), key="first")
    second = await engine.execute(Enrol("b", "s"))

    with pytest.raises(WrongVersion, match="student:s is at version 2, not at the expected"):
        await engine.execute(Move("s", "a", "b"), expected={"student:s": 1})
    assert first.versions["student:s"] == 1
    seen = {"student:s": (await engine.state(Student, "s")).version}
    assert seen == {"student:s": second.versions["student:s"]}
    assert await engine.execute(Enrol("a", "s"), key="first") == first
    moved = await engine.execute(Move("s", "a", "b"), expected=seen)
    assert moved.versions["student:s"] == (await engine.state(Student, "s")).version


async def test_two_of_one_class_are_told_apart_by_their_fields(engine: Engine) -> None:
    await engine.execute(Offer("a", 1))
    await engine.execute(Offer("b", 1))
    await engine.execute(Enrol("a", "s"))
    receipt = await engine.execute(Move("s", "a", "b"))

    assert receipt.versions == {"course:a": 3, "course:b": 2, "student:s": 3}
    assert [(await engine.state(Course, c)).taken for c in "ab"] == [0, 1]
    assert await answers(engine, Move("s", "a", "b"), Move("s", "a", "a")) == [
        "full",
        "InvalidInput",
    ]


async def test_a_whole_tag_needs_no_field(engine: Engine) -> None:
    """So numbers of invoices have no gaps, and none comes twice."""
    receipts = await asyncio.gather(*(engine.execute(Issue()) for _ in range(20)))

    assert sorted(receipt.reply for receipt in receipts) == list(range(1, 21))
    assert (await engine.state(Invoices, "all")).last == 20
    assert (await engine.state(Invoices, "all", version=7)).last == 7


async def test_events_of_aggregates_count(engine: Engine) -> None:
    await engine.execute(Offer("c", 5))
    await engine.execute(Enrol("c", "s"))
    await engine.execute(Seize("d", "c", "note"))
    await engine.execute(Seize("d", None, "of no course"))
    assert await answers(engine, Enrol("c", "t"), Enrol("c", "u")) == ["ok", "ok"]

    course = await engine.state(Course, "c")
    assert (course.notes, course.taken, course.version) == (1, 3, 5)
    assert (await engine.state(Desk, "d")).notes == 2


async def test_a_boundary_in_memory_has_what_an_aggregate_has_written(engine: Engine) -> None:
    """At once, while its handlers go on: what was decided before one came is decided anew."""
    await engine.execute(Offer("c", 40))
    commands = [Enrol("c", f"s{n}") if n % 4 else Seize("d", "c", "x") for n in range(40)]
    found = Counter(await answers(engine, *commands))

    course = await engine.state(Course, "c")
    assert found.keys() <= {"ok", "Voided"}
    assert course.notes == 10
    assert course.taken == found["ok"] - 10


# -- keys, replies, errors ------------------------------------------------------------------------


async def test_a_key_runs_once(engine: Engine) -> None:
    await engine.execute(Offer("c", 5), key="offer")
    first = await engine.execute(Enrol("c", "s"), key="k")

    assert await engine.execute(Enrol("c", "s"), key="k") == first
    assert first.reply == 4
    with pytest.raises(KeyReused):
        await engine.execute(Enrol("c", "t"), key="k")
    assert (await engine.state(Course, "c")).taken == 1


async def test_a_key_and_a_state_outlive_the_engine(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/log.db"
    async with school(store=url) as engine:
        await engine.execute(Offer("c", 2))
        first = await engine.execute(Enrol("c", "s"), key="k")
    async with school(store=url, debug=True) as engine:
        assert await engine.execute(Enrol("c", "s"), key="k") == first
        assert await answers(engine, Enrol("c", "t"), Enrol("c", "u")) == ["ok", "full"]


@pytest.mark.parametrize("course", ["", "x" * 256, "a\0b", "a\n"])
async def test_what_is_no_tag_is_refused_before_anything_is_run(course: str) -> None:
    async with school() as engine:
        with pytest.raises(InvalidInput):
            await engine.execute(Enrol(course, "s"))
        assert engine.statistics().position == 0


@pytest.mark.parametrize("course", ["", "x" * 256, "a\0b"])
async def test_an_event_with_a_tag_that_is_none_is_not_written(
    course: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with school() as engine:
        with pytest.raises(InvalidInput, match="Seize.course cannot be a tag: it has"):
            await engine.execute(Seize("d", course, "note"))
        assert caplog.records == [], "a client's text is no fault of the code"
        assert engine.statistics().position == 0
        await engine.execute(Seize("d", "x" * 255, "note"))


async def test_a_tag_that_is_none_and_comes_from_no_caller_is_the_codes_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = courses.Noted

    def without(_course: str, text: str) -> courses.Noted:
        return made("", text)

    monkeypatch.setattr(courses, "Noted", without)
    async with school() as engine:
        with pytest.raises(HandlerFailed, match="Noted.course is a tag"):
            await engine.execute(Seize("d", "c", "note"))
        assert engine.statistics().position == 0


async def test_what_a_boundary_cannot_fold_is_told_by_its_commands(engine: Engine) -> None:
    """An aggregate has written it, which is not asked; others go on."""
    await engine.execute(Offer("c", 5))
    await engine.execute(Offer("d", 5))
    await engine.execute(Seize("desk", "c", "poison"))

    with pytest.raises(StreamUnreadable):
        await engine.execute(Enrol("c", "s"))
    await engine.execute(Enrol("d", "s"))
    with pytest.raises(StreamUnreadable):
        await engine.state(Course, "c")


# -- what comes meanwhile -------------------------------------------------------------------------


async def test_what_another_writer_has_brought_is_decided_anew() -> None:
    store = HeldStore()
    async with school(store=store) as engine:
        await engine.execute(Offer("c", 2))
        await engine.execute(Enrol("c", "s"))
        await behind(store, "elsewhere:1", 0, "c", "t")

        assert await answers(engine, Enrol("c", "u")) == ["full"]
        assert await answers(engine, Leave("c", "t")) == ["ok"]
        assert await answers(engine, Enrol("c", "u")) == ["ok"]
        assert (await engine.state(Course, "c")).taken == 2


async def test_an_event_of_another_writer_that_nobody_noticed_is_not_forgotten() -> None:
    """A boundary that was not in the decision before which it was seen first."""
    store = HeldStore()
    async with school(store=store) as engine:
        await engine.execute(Offer("c", 2))
        await engine.execute(Offer("d", 2))
        await engine.execute(Enrol("c", "s"))
        await behind(store, "elsewhere:1", 0, "c", "t")
        await engine.execute(Enrol("d", "v"))  # writes behind it, about something else

        assert await answers(engine, Enrol("c", "u")) == ["full"]


async def test_what_a_boundary_without_events_of_its_own_has_folded_is_not_taken_back() -> None:
    """It is read again since another writer came: behind the last decision, not before it."""
    store = HeldStore()
    async with school(store=store) as engine:
        for course in "abcd":
            await engine.execute(Offer(course, 9))
        for course in "abc":
            await engine.execute(Enrol(course, "s"))
        await behind(store, "elsewhere:1", 0, "e", "t")
        await engine.execute(Issue())  # writes behind it

        assert await answers(engine, Enrol("d", "s")) == ["too-many"]
        assert (await engine.state(Student, "s")).courses == 3


async def test_what_an_aggregate_writes_while_a_decision_is_on_its_way_counts() -> None:
    """It is in the same batch, before it: the decision alone is decided anew."""
    store = HeldStore()
    async with school(store=store) as engine:
        await engine.execute(Offer("c", 9))
        store.hold()
        first = asyncio.ensure_future(engine.execute(Seize("d", None, "holds the batch")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        sent = [
            asyncio.ensure_future(engine.execute(command))
            for command in (Seize("d", "c", "note"), Enrol("c", "s"))
        ]
        while len(store.batches) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        store.release()
        await asyncio.gather(first, *sent)

        course = await engine.state(Course, "c")
        assert (course.notes, course.taken) == (1, 1)
        assert engine.statistics().journal.conflicts == 1


async def test_events_that_come_again_and_again_end_it() -> None:
    class Busy(HeldStore):
        async def append(self, batch: Batch) -> Any:
            if any(type(e) is Unchanged for r in batch.requests for e in r.extras):
                await behind(self, f"elsewhere:{len(self.batches)}", 0, "c", "t")
            return await super().append(batch)

    store = Busy()
    async with school(store=store) as engine:
        await engine.execute(Offer("b", 9))
        with pytest.raises(Voided, match="again and again"):
            await engine.execute(Offer("c", 9))
        assert len(store.batches) == 6


async def test_a_slow_decision_is_decided_anew() -> None:
    """Its state does not change under it."""
    gate = asyncio.Event()
    GATE.append(gate)
    async with school() as engine:
        await engine.execute(Offer("c", 1))
        slow = asyncio.ensure_future(engine.execute(SlowlyEnrol("c", "s")))
        await settle()
        await engine.execute(Seize("d", "c", "note"))
        gate.set()
        await slow

        course = await engine.state(Course, "c")
        assert (course.notes, course.taken) == (1, 1)
        assert engine.statistics().journal.conflicts == 1
        assert await answers(engine, Enrol("c", "t")) == ["full"]


async def test_a_batch_that_was_not_written_leaves_nothing_in_the_states() -> None:
    store = HeldStore()
    async with school(store=store) as engine:
        await engine.execute(Offer("c", 1))
        store.failures.append(not_written())

        assert await answers(engine, Enrol("c", "s")) == ["Voided"]
        assert await answers(engine, Enrol("c", "s"), Enrol("c", "u")) == ["ok", "full"]


async def test_an_unknown_outcome_is_told() -> None:
    store = HeldStore()
    engine = school(store=store)
    await engine.__aenter__()
    await engine.execute(Offer("c", 1))
    store.failures.append(unknown())

    assert await answers(engine, Enrol("c", "s")) == ["OutcomeUnknown"]
    with pytest.raises(Exception, match="sync failed"):
        await engine.__aexit__(None, None, None)


async def test_a_condition_goes_with_each_boundary_and_with_nothing_else() -> None:
    store = HeldStore()
    async with school(store=store) as engine:
        await engine.execute(Seize("d", "c", "note"))
        await engine.execute(Offer("c", 1))
        [noting], [offering] = (batch.requests for batch in store.batches)

        names = ("course-offered", "noted", "student-enrolled", "student-left")
        assert noting.extras == ()
        assert noting.writes[0].events[0].tags == ("course:c",)
        assert offering.extras == [Unchanged(("course:c",), names, 1, "course:c")]


async def test_a_boundary_that_left_memory_is_read_again(tmp_path: Path) -> None:
    limits = Limits(resident_aggregates=16)
    async with school(store=f"sqlite:{tmp_path}/log.db", limits=limits) as engine:
        for course in range(6):
            await engine.execute(Offer(f"c{course}", 2))
        for number in range(30):
            assert (await answers(engine, Enrol(f"c{number % 6}", f"s{number}"))) == [
                "ok" if number < 12 else "full"
            ]
