"""A unique value is held by one aggregate: taken with its events, or the command is rejected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from engine import (
    Aggregate,
    Claim,
    Command,
    Conflict,
    Decision,
    Engine,
    EngineError,
    Event,
    HandlerFailed,
    Id,
    InvalidInput,
    Limits,
    OutcomeUnknown,
    Receipt,
    Rejected,
    Release,
    StoreFailed,
    Voided,
    applies,
    handles,
    run,
)
from engine.stores.contract.log import Store
from tests.support.held_store import HeldStore


class Join(Command[str]):
    member: Id
    email: str


class Move(Command):
    member: Id
    email: str


class Leave(Command):
    member: Id


class Note(Command):
    member: Id


class Odd(Command):
    """Claims whatever the test says."""

    member: Id
    what: str


class SlowJoin(Command):
    member: Id
    email: str


class Joined(Event, name="member-joined"):
    email: str


class Left(Event, name="member-left"):
    pass


class Noted(Event, name="member-noted"):
    pass


odd: dict[str, Any] = {}
runs: list[str] = []


class Member(Aggregate, kind="member"):
    email: str = ""
    notes: int = 0

    @handles
    def join(self, command: Join) -> Decision[Joined, str]:
        runs.append(self.id)
        claim = Claim("email", command.email, "address-taken", "choose another address")
        return Decision(Joined(command.email), reply=command.email.upper(), claims=[claim])

    @handles
    def move(self, command: Move) -> Decision[Joined]:
        claims = [Release("email", self.email)] if self.email else []
        return Decision(Joined(command.email), claims=[*claims, Claim("email", command.email)])

    @handles
    async def slow_join(self, command: SlowJoin) -> Decision[Joined]:
        await asyncio.sleep(0)
        return Decision(Joined(command.email), claims=[Claim("email", command.email)])

    @handles
    def leave(self, command: Leave) -> Decision[Left] | None:
        if not self.email:
            return None
        return Decision(Left(), claims=(Release("email", self.email),))

    @handles
    def note(self, command: Note) -> Noted:
        return Noted()

    @handles
    def odd(self, command: Odd) -> Decision[Noted]:
        events, claims = odd[command.what]
        return Decision(events, claims=claims)

    @applies
    def joined(self, event: Joined) -> None:
        self.email = event.email

    @applies
    def left(self, event: Left) -> None:
        self.email = ""

    @applies
    def noted(self, event: Noted) -> None:
        self.notes += 1


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    url = "memory:" if request.param == "memory" else f"sqlite:{tmp_path}/log.db"
    async with Engine([Member], store=url) as engine:
        yield engine


async def held(store: Store) -> Sequence[tuple[str, str]]:
    return [(claim.value, claim.stream) for claim in await store.read_claims(claims_max=99)]


async def test_a_value_is_held_by_one_aggregate(engine: Engine) -> None:
    first = await engine.execute(Join("a", "x@y.z"))
    with pytest.raises(Rejected) as rejected:
        await engine.execute(Join("b", "x@y.z"))

    assert first == Receipt("member:a", 1, 1, "X@Y.Z")
    assert str(rejected.value) == "address-taken: choose another address"
    assert rejected.value.details == {}
    assert (await engine.state(Member, "b")).version == 0


async def test_the_code_of_a_rejection_is_made_of_the_name(engine: Engine) -> None:
    await engine.execute(Join("a", "x"))
    with pytest.raises(Rejected, match=r"^email-taken: this email is taken$"):
        await engine.execute(Move("b", "x"))


async def test_a_rejected_aggregate_goes_on_without_a_trace(engine: Engine) -> None:
    await engine.execute(Join("a", "x"))
    await engine.execute(Note("b"))
    with pytest.raises(Rejected):
        await engine.execute(Join("b", "x"), key="k")
    receipt = await engine.execute(Join("b", "y"), key="l")

    state = await engine.state(Member, "b")
    assert (state.email, state.notes, state.version) == ("y", 1, 2)
    assert receipt == Receipt("member:b", 2, 3, "Y")


async def test_one_of_many_at_once_has_it(engine: Engine) -> None:
    answers = await asyncio.gather(
        *(engine.execute(Join(f"m-{n}", "x")) for n in range(40)), return_exceptions=True
    )
    receipts = [answer for answer in answers if isinstance(answer, Receipt)]

    assert len(receipts) == 1
    assert sum(isinstance(answer, Rejected) for answer in answers) == 39
    assert engine.statistics().journal.events == 1


async def test_a_taken_value_fails_no_other_command(engine: Engine) -> None:
    """Neither of another aggregate, nor of the same one: what comes behind is decided anew."""
    await engine.execute(Join("a", "x"))
    sent: list[Command] = []
    for number in range(10):
        sent += [Note(f"n-{number}"), Join("b", "x"), Note("b"), Move("c", f"{number}")]
    answers: list[Any] = await asyncio.gather(
        *(engine.execute(command) for command in sent), return_exceptions=True
    )

    for command, answer in zip(sent, answers, strict=True):
        assert isinstance(answer, Rejected if isinstance(command, Join) else Receipt)
    state = await engine.state(Member, "b")
    assert (state.notes, state.email) == (10, "")


async def test_what_comes_behind_a_claim_waits_for_it() -> None:
    store = HeldStore()
    async with Engine([Member], store=store) as engine:
        store.hold()
        joined = asyncio.ensure_future(engine.execute(Join("a", "x")))
        noted = asyncio.ensure_future(engine.execute(Note("a")))
        other = asyncio.ensure_future(engine.execute(Note("b")))
        for _ in range(9):
            await asyncio.sleep(0)
        store.release()

        assert [(await each).version for each in (joined, noted, other)] == [1, 2, 1]
        assert [len(batch.requests) for batch in store.batches] == [2, 1]


async def test_an_aggregate_moves_from_one_value_to_another(engine: Engine) -> None:
    await engine.execute(Join("a", "x"))
    moved = engine.execute(Move("a", "y"))
    joined = engine.execute(Join("b", "x"))
    receipts = await asyncio.gather(moved, joined)

    assert [receipt.version for receipt in receipts] == [2, 1]
    with pytest.raises(Rejected):
        await engine.execute(Join("c", "y"))
    await engine.execute(Leave("a"))
    assert (await engine.execute(Join("c", "y"))).version == 1


async def test_what_it_holds_it_may_claim_again(engine: Engine) -> None:
    await engine.execute(Join("a", "x"))

    assert (await engine.execute(Join("a", "x"))).version == 2
    await engine.execute(Leave("a"))
    assert (await engine.execute(Join("b", "x"))).version == 1


async def test_what_it_does_not_hold_it_may_release(engine: Engine) -> None:
    await engine.execute(Join("a", "x"))
    odd["theirs"] = Noted(), [Release("email", "x"), Release("email", "free")]
    await engine.execute(Odd("b", "theirs"))

    with pytest.raises(Rejected):
        await engine.execute(Join("c", "x"))


async def test_async_handlers_claim_too(engine: Engine) -> None:
    answers = await asyncio.gather(
        *(engine.execute(SlowJoin(f"m-{n}", "x")) for n in range(9)), return_exceptions=True
    )

    assert sum(isinstance(answer, Receipt) for answer in answers) == 1
    assert sum(isinstance(answer, Rejected) for answer in answers) == 8


async def test_a_repeated_key_claims_nothing_again(engine: Engine) -> None:
    first = await engine.execute(Join("a", "x"), key="k")
    await engine.execute(Leave("a"))
    await engine.execute(Join("b", "x"))
    runs.clear()

    assert await engine.execute(Join("a", "x"), key="k") == first
    assert runs == []


async def test_a_key_of_a_rejected_claim_is_free(engine: Engine) -> None:
    await engine.execute(Join("a", "x"), expected=0)
    with pytest.raises(Rejected):
        await engine.execute(Join("b", "x"), key="k", expected=0)
    await engine.execute(Leave("a"))

    assert (await engine.execute(Join("b", "x"), key="k", expected=0)).version == 1


@pytest.mark.parametrize("writer", ["", "?writer=process"])
async def test_claims_outlive_the_engine(tmp_path: Path, writer: str) -> None:
    url = f"sqlite:{tmp_path}/log.db{writer}"
    async with Engine([Member], store=url) as engine:
        await engine.execute(Join("a", "x"))
    async with Engine([Member], store=url) as engine:
        with pytest.raises(Rejected):
            await engine.execute(Join("b", "x"))
        await engine.execute(Leave("a"))
        await engine.execute(Join("b", "x"))


async def test_a_conflict_takes_no_claim() -> None:
    store = HeldStore()
    async with Engine([Member], store=store) as engine:
        await engine.execute(Note("a"))
        await store.append_event("member:a", 1, Noted())
        with pytest.raises(Conflict):
            await engine.execute(Join("a", "x"))

        assert await held(store) == []
        assert (await engine.execute(Join("a", "x"))).version == 3
        assert await held(store) == [("x", "member:a")]


async def test_a_claim_behind_a_conflict_is_voided() -> None:
    store = HeldStore()
    async with Engine([Member], store=store) as engine:
        await engine.execute(Note("a"))
        await store.append_event("member:a", 1, Noted())
        answers = await asyncio.gather(
            engine.execute(Note("a")), engine.execute(Join("a", "x")), return_exceptions=True
        )

        assert [type(answer) for answer in answers] == [Conflict, Voided]
        assert await held(store) == []


async def test_a_batch_that_is_not_written_takes_no_claim() -> None:
    store = HeldStore()
    store.failures = [StoreFailed("full", written=False)]
    async with Engine([Member], store=store) as engine:
        with pytest.raises(Voided):
            await engine.execute(Join("a", "x"))

        assert (await engine.execute(Join("b", "x"))).version == 1
        assert (await engine.execute(Note("a"))).version == 1


async def test_an_unknown_outcome_is_found_out_by_the_key() -> None:
    class Unsure(HeldStore):
        is_lost = True

        async def append(self, batch: Any) -> Any:
            committed = await super().append(batch)
            if self.is_lost:
                raise StoreFailed("the answer was lost", written=None)
            return committed

    lost = Unsure()
    with pytest.raises(EngineError):
        async with Engine([Member], store=lost) as engine:
            with pytest.raises(OutcomeUnknown):
                await engine.execute(Join("a", "x"), key="k")
    lost.is_lost = False
    async with Engine([Member], store=lost) as engine:
        assert (await engine.execute(Join("a", "x"), key="k")) == Receipt("member:a", 1, 1, "X")
        with pytest.raises(Rejected):
            await engine.execute(Join("b", "x"))


X = Claim("email", "x")


@pytest.mark.parametrize(
    ("events", "claims", "why"),
    [
        (Noted(), [X, X], "names one value of 'email' twice"),
        (Noted(), [X, Release("email", "x")], "names one value of 'email' twice"),
        (Noted(), [Claim("email", "x" * 501)], "a string of 1 to 500 characters"),
        (Noted(), [Claim("email", "")], "a string of 1 to 500 characters"),
        (Noted(), [Claim("email", 5)], "is a string, not an int"),  # type: ignore[arg-type]
        (Noted(), [Claim("email", "a\0b")], "has a NUL"),
        (Noted(), [Claim("email", "\ud800")], "lone surrogate"),
        (Noted(), [Claim("E-mail", "x")], "a stored name is lower-case"),
        (Noted(), [Claim("email", "x", code=5)], "code of a claim"),  # type: ignore[arg-type]
        (Noted(), [("email", "x")], "give a Claim or a Release"),
        (Noted(), X, "write a list"),
        (Noted(), "email", "write a list"),
        (None, [X], "claims and no event"),
        ([], [X], "claims and no event"),
        (Noted(), [Claim("email", f"{n}") for n in range(257)], "above Limits.command_claims"),
    ],
)
async def test_a_claim_that_cannot_be_kept_is_refused(events: Any, claims: Any, why: str) -> None:
    odd["wrong"] = events, claims
    store = HeldStore()
    async with Engine([Member], store=store) as engine:
        with pytest.raises(HandlerFailed, match=why) as failed:
            await engine.execute(Odd("a", "wrong"))

        assert "\ud800" not in str(failed.value)
        assert "was run" not in str(failed.value)  # it is said once, and in one way
        assert await held(store) == []
        assert store.batches == []
        assert (await engine.execute(Note("a"))).version == 1


@pytest.mark.parametrize("email", ["", "x" * 501, "x" * 501 + " ", "a\0b", "\ud800", " A\0B "])
async def test_a_text_of_the_caller_that_cannot_be_claimed_is_no_fault_of_the_handler(
    email: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine([Member]) as engine:
        with pytest.raises(InvalidInput, match=r"^Join\.email cannot be claimed: a value ") as told:
            await engine.execute(Join("a", email))
        assert str(told.value).count("Nothing was") == 1
        assert caplog.records == []
        assert (await engine.execute(Join("a", "x"))).version == 1


async def test_the_bound_of_claims_is_a_limit() -> None:
    odd["many"] = Noted(), [Claim("email", f"{n}") for n in range(300)]
    async with Engine([Member], limits=Limits(command_claims=300)) as engine:
        assert (await engine.execute(Odd("a", "many"))).version == 1


async def test_metadata_says_what_a_command_took_and_released() -> None:
    store = HeldStore()
    async with Engine([Member], store=store) as engine:
        await engine.execute(Join("a", "x"))
        await engine.execute(Move("a", "y"), key="k", principal="ann")
        odd["several"] = [Noted(), Noted()], [Claim("nick", "Ann")]
        await engine.execute(Odd("a", "several"))
        stored = await store.read_feed(0, events_max=9, bytes_max=1 << 20)

    assert stored[0].metadata == b'{"claims":[["email","x"]]}'
    assert stored[1].metadata.endswith(b'"claims":[["email","y"]],"releases":[["email","x"]]}')
    assert [each.metadata for each in stored[2:]] == [b'{"claims":[["nick","Ann"]]}', b""]


def test_programs_run_with_claims(tmp_path: Path) -> None:
    """Also where the loop is uvloop's, and a cold aggregate is loaded for each rejection."""

    async def main() -> None:
        limits = Limits(resident_aggregates=4)
        async with Engine([Member], store=f"sqlite:{tmp_path}/log.db", limits=limits) as engine:
            for number in range(40):
                await engine.execute(Join(f"m-{number}", f"{number}"))
            for number in range(40):
                with pytest.raises(Rejected):
                    await engine.execute(Move(f"m-{number}", f"{(number + 1) % 40}"))

    run(main)
