"""Cases of a backend without its application: looked at, asked for something, and done at rest.

Rules: what is done at rest is compared with what an engine does when its host asks for the same:
the same decisions, builds and parked events, and the same refusals.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from ...engine import Engine
from ...errors import Overloaded, StoreFailed, StoreRefused, UsageError
from ...model.aggregate import Aggregate, applies, handles
from ...model.messages import Command, Id
from ...projections.operations import Projections
from ...runtime.ports import Ports
from ...statistics import ProjectionFailure
from ...stores.contract.acts import DONE_TEXTS
from ...stores.contract.outside import Looked, Operations
from ...stores.contract.requests import (
    ENDED_TEXT,
    REQUESTS_OPEN_MAX,
    Arguments,
    Outcome,
    Request,
)
from ...stores.contract.views import ProjectionDecision
from .given_views import BackendCases, Book, Opened, Shelf, Shelved, a_decision, a_parked, part

__all__ = ["OperationsCases"]

SHELF = Shelf.__definition__
NOTHING = Arguments()
Act: TypeAlias = Callable[[Projections], Awaitable[Any]]


class Put(Command):
    """What nobody sends."""

    shelf_id: Id


class Shelves(Aggregate, kind="shelf"):
    """What the events of the log are of."""

    @handles
    def put(self, command: Put) -> Shelved:
        """Put something on a shelf."""
        return Shelved(command.shelf_id)

    @applies
    def shelved(self, event: Shelved) -> None:
        """Keep nothing."""


def make_folder(within: Path, name: str) -> Path:
    """Make an empty folder."""
    folder = within / name
    folder.mkdir()
    return folder


def operations_of(opened: Opened) -> Operations:
    """Give what can be done with a backend's projections."""
    return opened.backend.outside(Ports()).operations()


async def given_going(opened: Opened) -> None:
    """Let the shelf have rows, and two events that are parked."""
    await opened.write(Shelf, 0, 3, {"books": [Book("a")]}, parked=[a_parked(2), a_parked(3)])


async def given_paused(opened: Opened) -> None:
    """Let the shelf rest, so that no engine goes on with it meanwhile."""
    await given_going(opened)
    await opened.views.decide(a_decision("pause"))


async def given_built(opened: Opened) -> None:
    """Let a build be on its way."""
    await given_paused(opened)
    await opened.views.begin_build(SHELF)


async def given_former(opened: Opened) -> None:
    """Let two former builds be left."""
    for _ in range(2):
        build = await opened.views.begin_build(SHELF)
        await opened.views.swap(SHELF, build.number, a_decision("swap"))
    await opened.views.decide(a_decision("pause"))


WHY = Arguments(reason="why")
ACTS: list[tuple[str, str, Callable[[Opened], Awaitable[None]], Arguments, Act]] = [
    ("pause", "pause", given_paused, WHY, lambda p: p.pause("shelf", reason="why")),
    ("resume", "resume", given_paused, WHY, lambda p: p.resume("shelf", reason="why")),
    ("pause what goes on", "pause", given_going, WHY, lambda p: p.pause("shelf", reason="why")),
    ("resume what goes on", "resume", given_going, WHY, lambda p: p.resume("shelf", reason="why")),
    ("reset what goes on", "reset", given_going, WHY, lambda p: p.reset("shelf", reason="why")),
    ("reset", "reset", given_paused, WHY, lambda p: p.reset("shelf", reason="why")),
    ("cancel", "cancel", given_built, WHY, lambda p: p.cancel("shelf", reason="why")),
    ("cancel none", "cancel", given_paused, WHY, lambda p: p.cancel("shelf", reason="why")),
    ("drop", "drop", given_former, WHY, lambda p: p.drop("shelf", reason="why")),
    ("drop none", "drop", given_paused, WHY, lambda p: p.drop("shelf", reason="why")),
    (
        "skip",
        "skip",
        given_paused,
        Arguments("why", position=2),
        lambda p: p.skip("shelf", 2, reason="why"),
    ),
    (
        "skip what is not parked",
        "skip",
        given_paused,
        Arguments("why", position=5),
        lambda p: p.skip("shelf", 5, reason="why"),
    ),
    (
        "skip for no reason",
        "skip",
        given_paused,
        Arguments(" ", position=2),
        lambda p: p.skip("shelf", 2, reason=" "),
    ),
]

ON_ACTS = pytest.mark.parametrize(
    ("kind", "given", "arguments", "act"), [a[1:] for a in ACTS], ids=[a[0] for a in ACTS]
)


def without_time(decision: ProjectionDecision) -> tuple[Any, ...]:
    """Give what was decided, without who did it and when."""
    return (
        decision.kind,
        decision.version,
        decision.position,
        decision.reason,
        decision.checksum,
    )


class OperationsCases(BackendCases):
    """What is asked and done from outside."""

    async def prepared(self, folder: Path, given: Callable[[Opened], Awaitable[None]]) -> Opened:
        """Give a backend in the state that an act begins with, at rest."""
        opened = await self.filled(self.new_backend(folder))
        await given(opened)
        await opened.close()
        return opened

    def left(self, opened: Opened) -> tuple[Any, ...]:
        """Give what an act has left of the shelf, for whoever looks."""
        with operations_of(opened) as operations:
            looked = operations.look()
            return (
                [(b.number, b.version, b.state) for b in looked.builds],
                "shelf" in looked.paused,
                [p.position for p in operations.parked("shelf")],
                [without_time(d) for d in operations.decisions("shelf")],
            )

    @ON_ACTS
    async def test_an_act_at_rest_does_and_refuses_what_an_engine_does(
        self,
        tmp_path: Path,
        kind: str,
        given: Callable[[Opened], Awaitable[None]],
        arguments: Arguments,
        act: Act,
    ) -> None:
        """The same is decided, and left; who is refused reads the same words."""
        rest, running = (make_folder(tmp_path, name) for name in ("rest", "running"))
        at_rest = await self.prepared(rest, given)
        with operations_of(at_rest) as operations:
            number = operations.ask(kind, "shelf", arguments)
            assert operations.request(number).state == "waiting"
            assert operations.do_at_rest() is True
            answered = operations.request(number)
        by_engine = await self.prepared(running, given)
        refusal = ""
        async with Engine([Shelves], projections=[Shelf], store=by_engine.backend.log()) as engine:
            try:
                await act(engine.projections)
            except UsageError as error:
                refusal = str(error)

        assert answered.state == ("refused" if refusal else "done")
        assert answered.answered is not None
        if refusal:
            assert answered.answer == refusal
        elif kind in DONE_TEXTS:
            assert answered.answer.startswith(DONE_TEXTS[kind])
        assert self.left(at_rest) == self.left(by_engine)

    # -- looking

    async def test_all_projections_are_seen_at_one_moment(self, opened: Opened) -> None:
        """Builds, parked events, who rests, who is stopped, and what is asked for."""
        views = opened.views
        await given_built(opened)
        failure = ProjectionFailure(3, "shelved v1", "shelf:1", "why")
        await views.note_failure(part(Shelf, 2), failure)
        with operations_of(opened) as operations:
            number = operations.ask("retry", "shelf", Arguments(key="k"))
            looked: Looked = operations.look()
            (serving, building) = looked.builds
            assert looked.names == ["shelf"]
            assert (serving.number, serving.state, serving.position) == (1, "serving", 3)
            assert (building.number, building.state, building.position) == (2, "building", 0)
            assert dict(serving.checkpoints) == {0: opened.at(3)}
            assert (serving.slices, serving.log_id) == (1, opened.log.log_id)
            assert dict(looked.parked) == {("shelf", 1): 2}
            assert looked.paused == {"shelf"}
            assert list(looked.standstills) == list(await views.standstills("shelf"))
            assert [r.number for r in looked.requests] == [number]
            assert list(operations.parked("shelf", after=2)) == [a_parked(3)]
            assert list(operations.parked("shelf", key="k", limit=1)) == [a_parked(2)]
            assert list(operations.decisions(None)) == list(await views.decisions())
            assert operations.log.head() == await opened.log.head()

    async def test_what_is_not_there_is_named(self, opened: Opened) -> None:
        """A projection by UsageError; a request that is not kept by StoreRefused."""
        with operations_of(opened) as operations:
            calls: list[Callable[[], object]] = [
                lambda: operations.parked("nobody"),
                lambda: operations.decisions("nobody"),
                lambda: operations.ask("pause", "nobody", NOTHING),
            ]
            for call in calls:
                with pytest.raises(UsageError, match=r"no projection 'nobody'.*\['shelf'\]"):
                    call()
            with pytest.raises(StoreRefused, match="request 77 is not in"):
                operations.request(77)
        with pytest.raises(StoreFailed):
            operations.look()

    # -- asking

    async def test_an_engine_takes_requests_in_the_order_in_which_they_were_asked(
        self, opened: Opened
    ) -> None:
        """One at a time: it is begun, then answered; what is put back is the next again."""
        views = opened.views
        arguments = Arguments("r\u00e9ason", "k\n", 2**63 - 1)
        with operations_of(opened) as operations:
            first = operations.ask("skip", "shelf", arguments)
            second = operations.ask("pause", "shelf", NOTHING)
            taken = await views.take_request()
            assert taken is not None
            assert (taken.number, taken.kind, taken.projection) == (first, "skip", "shelf")
            assert (taken.arguments, taken.state, taken.answer) == (arguments, "waiting", "")
            assert taken.principal
            assert operations.request(first).state == "begun"
            await views.put_back_request(first)
            assert operations.request(first).state == "waiting"
            assert await views.take_request() == taken
            await views.answer_request(first, Outcome("done", "t\u00ebxt"))
            answered = operations.request(first)
            assert (answered.state, answered.answer) == ("done", "t\u00ebxt")
            assert answered.answered is not None
            await views.answer_request(first, Outcome("refused", "too late"))
            assert operations.request(first) == answered
            behind = await views.take_request()
            assert behind is not None
            assert behind.number == second
            await views.answer_request(second, Outcome("refused", "no"))
            assert await views.take_request() is None
            assert list(operations.look().requests) == []
            assert operations.ask("pause", "shelf", NOTHING) > second

    async def test_a_request_that_was_begun_is_never_done_again(self, opened: Opened) -> None:
        """Whoever comes next finds it as begun; at rest it is answered unknown."""
        with operations_of(opened) as operations:
            number = operations.ask("pause", "shelf", NOTHING)
            assert (await opened.views.take_request()) is not None
            await opened.open(Shelf)
            found = await opened.views.take_request()
            assert found is not None
            assert (found.number, found.state) == (number, "begun")
            await opened.close()
            assert operations.do_at_rest()
            asked: Request = operations.request(number)
            assert (asked.state, asked.answer) == ("unknown", ENDED_TEXT)
            assert not operations.look().paused

    async def test_an_engine_notices_that_something_is_asked_for(self, opened: Opened) -> None:
        """By a number that changes when another process has committed, not by its own writes."""
        before = await opened.views.change_count()
        await opened.views.decide(a_decision("pause"))
        assert await opened.views.change_count() == before
        with operations_of(opened) as operations:
            operations.ask("pause", "shelf", NOTHING)

        assert before is not None
        assert await opened.views.change_count() != before

    async def test_what_nobody_can_do_is_not_asked_for(self, opened: Opened) -> None:
        """Unknown kinds, a skip without a position, and halves of characters."""
        wrong = [
            ("dance", NOTHING),
            ("skip", Arguments("why")),
            ("skip", Arguments("why", position=0)),
            ("pause", Arguments("\ud800")),
            ("retry", Arguments(key="\ud800")),
        ]
        with operations_of(opened) as operations:
            for kind, arguments in wrong:
                with pytest.raises(UsageError, match="Nothing was asked for"):
                    operations.ask(kind, "shelf", arguments)
            assert list(operations.look().requests) == []

    async def test_so_many_requests_may_wait(self, opened: Opened) -> None:
        """One more is refused by Overloaded, and may be asked when one is answered."""
        with operations_of(opened) as operations:
            asked = [operations.ask("resume", "shelf", NOTHING) for _ in range(REQUESTS_OPEN_MAX)]
            with pytest.raises(Overloaded):
                operations.ask("resume", "shelf", NOTHING)
            assert len(operations.look().requests) == REQUESTS_OPEN_MAX
            await opened.views.answer_request(asked[-1], Outcome("done", ""))
            assert operations.ask("resume", "shelf", NOTHING) > asked[-1]

    # -- at rest

    async def test_nothing_is_done_while_an_engine_has_the_log(self, opened: Opened) -> None:
        """It waits for the engine."""
        with operations_of(opened) as operations:
            number = operations.ask("pause", "shelf", NOTHING)
            assert operations.is_in_use()
            assert operations.do_at_rest() is False
            assert operations.request(number).state == "waiting"
            await opened.close()
            assert not operations.is_in_use()
            assert operations.do_at_rest() is True
            assert operations.request(number).state == "done"
            assert operations.look().paused == {"shelf"}

    async def test_what_needs_the_application_waits_for_an_engine(self, opened: Opened) -> None:
        """And does not stand in the way of what is behind it."""
        await opened.close()
        with operations_of(opened) as operations:
            waits = [operations.ask(kind, "shelf", NOTHING) for kind in ("rebuild", "retry")]
            done = operations.ask("pause", "shelf", NOTHING)
            assert operations.do_at_rest()
            assert [operations.request(n).state for n in waits] == ["waiting", "waiting"]
            assert operations.request(done).state == "done"

    async def test_an_event_that_has_stopped_a_build_is_skipped_for_its_version(
        self, opened: Opened
    ) -> None:
        """With the event's checksum, and the failure is noted no more."""
        await given_built(opened)
        failure = ProjectionFailure(5, "shelved v1", "shelf:1", "why")
        await opened.views.note_failure(part(Shelf, 2), failure)
        checksum = opened.at(5).checksum
        await opened.close()
        with operations_of(opened) as operations:
            operations.ask("skip", "shelf", Arguments("why", position=5))
            assert operations.do_at_rest()
            skip = operations.decisions("shelf")[-1]
            assert without_time(skip) == ("skip", 1, 5, "why", checksum)
            assert skip.principal
            assert list(operations.look().standstills) == []
