"""A command that several aggregates decide: all of its events are stored, or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from engine import (
    Engine,
    Forbidden,
    HandlerFailed,
    InvalidInput,
    KeyReused,
    Limits,
    Ports,
    Receipt,
    Rejected,
    To,
    UsageError,
    WrongVersion,
)
from engine.testing.scenario import ManualClock
from tests.support.held_store import HeldStore
from tests.write.accounts import (
    Account,
    Deposit,
    Deposited,
    Fund,
    Gives,
    Odd,
    Rename,
    Share,
    Transfer,
    Withdrawn,
    bank,
    cents,
    contexts,
    odd,
    runs,
)


@pytest_asyncio.fixture(params=["memory", "sqlite", "process"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    file = f"sqlite:{tmp_path}/log.db"
    urls = {"memory": "memory:", "sqlite": file, "process": f"{file}?writer=process"}
    async with bank(store=urls[request.param]) as engine:
        yield engine


async def test_all_of_it_is_stored(engine: Engine) -> None:
    await engine.execute(Deposit("a", 100))
    receipt = await engine.execute(Transfer("a", "b", 30))

    assert receipt == Receipt("account:a", 2, 3, 70, (("account:b", 1),))
    assert receipt.versions == {"account:a": 2, "account:b": 1}
    assert await cents(engine, "a", "b") == [70, 30]
    events = [(each.meta.stream, each.event) async for each in engine.feed(1)]
    assert events == [("account:a", Withdrawn(30)), ("account:b", Deposited(30))]


async def test_a_rejected_one_stores_nothing(engine: Engine) -> None:
    await engine.execute(Deposit("a", 5))
    with pytest.raises(Rejected, match="too-little-money") as rejected:
        await engine.execute(Transfer("a", "b", 6))

    assert rejected.value.details == {"cents": 5}
    assert await cents(engine, "a", "b") == [5, 0]
    assert (await engine.execute(Transfer("a", "b", 5))).position == 3


async def test_nothing_happens_and_there_is_a_receipt(engine: Engine) -> None:
    await engine.execute(Deposit("b", 1))
    await engine.execute(Deposit("a", 5))
    receipt = await engine.execute(Transfer("a", "b", 0), key="k")

    assert receipt == Receipt("account:a", 1, 2, 5, (("account:b", 1),))
    assert engine.statistics().journal.events == 2


async def test_one_names_many_and_perhaps_another(engine: Engine) -> None:
    await engine.execute(Deposit("a", 100))
    receipt = await engine.execute(Share("a", ["b", "c", "d"], 10))
    sponsored = await engine.execute(Share("a", ["b"], 10, sponsor="s"))

    assert [stream for stream, _ in receipt.others] == ["account:b", "account:c", "account:d"]
    assert await cents(engine, "a", "b", "c", "d", "s") == [70, 20, 10, 10, -10]
    assert sponsored == Receipt("account:a", 2, 7, None, (("account:b", 2), ("account:s", 1)))


async def test_a_key_runs_once(engine: Engine) -> None:
    await engine.execute(Deposit("a", 100))
    runs.clear()
    first = await engine.execute(Transfer("a", "b", 30), key="k")
    again = await asyncio.gather(
        *(engine.execute(Transfer("a", "b", 30), key="k") for _ in range(3))
    )

    assert again == [first] * 3
    assert runs == ["a>b"]
    assert await cents(engine, "a", "b") == [70, 30]


async def test_repeated_at_once_it_runs_once(engine: Engine) -> None:
    await engine.execute(Deposit("a", 100))
    receipts = await asyncio.gather(
        *(engine.execute(Transfer("a", "b", 30), key="k") for _ in range(9))
    )

    assert len(set(receipts)) == 1
    assert await cents(engine, "a", "b") == [70, 30]


async def test_the_key_of_another_command_is_refused(engine: Engine) -> None:
    await engine.execute(Deposit("a", 100), key="deposit")
    await engine.execute(Deposit("b", 100), key="theirs")
    await engine.execute(Transfer("a", "b", 30), key="k")
    for command, key in (
        (Transfer("a", "b", 31), "k"),
        (Transfer("a", "c", 30), "k"),
        (Transfer("a", "b", 30), "deposit"),
        (Transfer("a", "b", 30), "theirs"),
        (Deposit("a", 30), "k"),
    ):
        with pytest.raises(KeyReused):
            await engine.execute(command, key=key)

    assert await cents(engine, "a", "b") == [70, 130]


@pytest.mark.parametrize("writer", ["", "?writer=process"])
async def test_a_key_outlives_the_engine(tmp_path: Path, writer: str) -> None:
    url = f"sqlite:{tmp_path}/log.db{writer}"
    async with bank(store=url) as engine:
        await engine.execute(Deposit("a", 100))
        first = await engine.execute(Transfer("a", "b", 30), key="k")
        gift = await engine.execute(Share("a", ["c", "d"], 5, sponsor="s"), key="g")
        await engine.execute(Deposit("a", 1))
    async with bank(store=url) as engine:
        assert await engine.execute(Transfer("a", "b", 30), key="k") == first
        assert await engine.execute(Share("a", ["c", "d"], 5, sponsor="s"), key="g") == gift
        assert await cents(engine, "a", "b", "s") == [71, 30, -10]


async def test_expected_is_said_by_stream(engine: Engine) -> None:
    first = await engine.execute(Deposit("a", 100))
    second = await engine.execute(Transfer("a", "b", 1), expected=first.versions)
    third = await engine.execute(Transfer("a", "b", 1), expected=second.versions)
    await engine.execute(Deposit("b", 1))
    with pytest.raises(WrongVersion) as wrong:
        await engine.execute(Transfer("a", "b", 1), expected=third.versions)

    assert (wrong.value.stream, wrong.value.expected, wrong.value.actual) == ("account:b", 2, 3)
    assert await cents(engine, "a", "b") == [98, 3]


@pytest.mark.parametrize(
    ("command", "expected", "why"),
    [
        (Transfer("a", "b", 1), 3, "give expected= by stream"),
        (Deposit("a", 1), {"account:a": 0}, "decided by one aggregate"),
        (Transfer("a", "b", 1), {"account:a": -1}, "expected"),
        (Transfer("a", "b", 1), {5: 1}, "a stream"),
        (Transfer("a", "b", 1), {"account:a": 0, "acount:b": 0}, "names 'acount:b'"),
        (Transfer("a", "b", 1), {"account:c": 0}, "names 'account:c'"),
        (Transfer("a", "b", 1), {"b": 0}, "is about 'account:a, account:b'"),
    ],
)
async def test_expected_in_another_form_is_refused(command: Any, expected: Any, why: str) -> None:
    async with bank() as engine:
        with pytest.raises(UsageError, match=why):
            await engine.execute(command, expected=expected)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (Transfer("a", "a", 1), "names 'account:a' twice"),
        (Share("a", ["b", "c", "b"], 1), "names 'account:b' twice"),
        (Share("a", ["b"], 1, sponsor="a"), "names 'account:a' twice"),
        (Share("a", [f"b-{n}" for n in range(16)], 1), "names 17 aggregates"),
        (Share("a", "bc", 1), "targets must be a list or a tuple, and is a str"),  # type: ignore[arg-type]
        (Transfer("a", "", 1), "an aggregate's id|has 0 characters"),
        (Transfer("a", "b\n", 1), "printable"),
        (Transfer("a", 7, 1), "a string"),  # type: ignore[arg-type]
    ],
)
async def test_what_cannot_be_meant_is_refused_before_it_is_accepted(
    command: Any, why: str
) -> None:
    async with bank() as engine:
        with pytest.raises(InvalidInput, match=why):
            await engine.execute(command)

        assert engine.statistics().commands.accepted == 0


async def test_the_bound_of_aggregates_is_a_limit() -> None:
    async with bank(limits=Limits(command_aggregates=40)) as engine:
        receipt = await engine.execute(Share("a", [f"b-{n}" for n in range(39)], 1))

        assert (receipt.position, len(receipt.versions)) == (40, 40)


async def test_each_aggregate_claims_for_itself(engine: Engine) -> None:
    await engine.execute(Rename("a", "b", ("x", "y")))
    with pytest.raises(Rejected, match="name-taken"):
        await engine.execute(Rename("c", "d", ("z", "y")))
    await engine.execute(Rename("c", "a", ("z", "x")))

    held = await engine._store.read_claims(claims_max=9)
    assert [(claim.value, claim.stream, claim.position) for claim in held] == [
        ("x", "account:a", 1),
        ("y", "account:b", 2),
        ("z", "account:c", 3),
    ]
    assert (await engine.state(Account, "d")).version == 0


async def test_a_refused_claim_fails_no_other_command(engine: Engine) -> None:
    await engine.execute(Rename("a", "b", ("x", "y")))
    answers = await asyncio.gather(
        engine.execute(Rename("c", "d", ("z", "y"))),
        engine.execute(Deposit("c", 1)),
        engine.execute(Deposit("d", 1)),
        engine.execute(Rename("c", "d", ("z", "w"))),
        return_exceptions=True,
    )

    assert [type(answer) for answer in answers] == [Rejected, Receipt, Receipt, Receipt]


A = Deposited(1)


NOBODY: Any = "one"
WORD: Any = "x"
WRONG: Sequence[tuple[Gives, str]] = [
    (lambda one, other: A, "returned a Deposited"),
    (lambda one, other: [A], "returned a list"),
    (lambda one, other: {}, "returned a dict"),
    (lambda one, other: [To(Account(id="one"), A)], "something that it was not given"),
    (lambda one, other: [To(NOBODY, A)], "something that it was not given"),
    (lambda one, other: [To(one, A), To(one, A)], "names account:one twice"),
    (lambda one, other: [To(one, WORD)], "returned a tuple"),
    (lambda one, other: [To(one, Withdrawn(1)), To(other, Withdrawn(1))], "applies it"),
    (lambda one, other: [To(one, A), To(other, A), To(one)], "names account:one twice"),
    (lambda one, other: [To(one, A), To(other, *[A] * 4_096)], "Limits.command_events"),
    (
        lambda one, other: [To(one, Deposited(WORD))],
        "deposited was given a value that it does not declare",
    ),
    (lambda one, other: [To(other, A), To(one, Deposited(666))], "failed on Odd"),
    (lambda one, other: 1 // 0, "ZeroDivisionError"),
]


@pytest.mark.parametrize(("given", "why"), WRONG)
async def test_what_cannot_be_stored_fails_and_leaves_no_trace(given: Gives, why: str) -> None:
    odd["it"] = given
    store = HeldStore()
    async with bank(store=store) as engine:
        with pytest.raises(HandlerFailed, match=why):
            await engine.execute(Odd("one", "other", "it"))

        assert store.batches == []
        odd["it"] = lambda one, other: [To(other, A)] if (one.cents, other.cents) == (0, 0) else []
        receipt = await engine.execute(Odd("one", "other", "it"))
        assert receipt == Receipt("account:one", 0, 1, None, (("fund:other", 1),))


async def test_one_that_gets_no_events_has_its_place_in_the_receipt() -> None:
    async with bank() as engine:
        await engine.execute(Deposit("one", 1))
        odd["it"] = lambda one, other: [To(other, A, A)]
        first = await engine.execute(Odd("one", "other", "it"), key="k")

        assert first == Receipt("account:one", 1, 3, None, (("fund:other", 2),))
        assert await engine.execute(Odd("one", "other", "it"), key="k") == first


async def test_events_know_what_they_belong_to() -> None:
    store = HeldStore()
    async with bank(store=store) as engine:
        await engine.execute(Deposit("a", 9))
        about: Any = {"correlation": "c", "causation": "e", "principal": "ann"}
        await engine.execute(Transfer("a", "b", 1), key="k", headers={"h": "1"}, **about)
        histories = [
            await engine.history(Account, each, after=v) for each, v in (("a", 1), ("b", 0))
        ]
        events = await store.events()

    for history in histories:
        (logged,) = history.events
        meta = logged.meta
        assert (meta.correlation, meta.causation, meta.principal) == ("c", "e", "ann")
        assert meta.headers == {"h": "1"}
    assert [history.events[0].meta.key for history in histories] == ["k", None]
    assert b'"parties":[["account:a",2,1],["account:b",1,1]]' in events[1].metadata
    assert b"parties" not in events[2].metadata


async def test_authorize_is_asked_once_for_all(tmp_path: Path) -> None:
    asked: list[object] = []

    async def authorize(principal: str | None, action: str, message: object) -> bool:
        asked.append(message)
        for _ in range(20 if message == Deposit("b", 5) else 1):
            await asyncio.sleep(0)
        return principal == "ann"

    async with bank(authorize=authorize) as engine:
        with pytest.raises(Forbidden):
            await engine.execute(Transfer("a", "b", 0))
        sent = [
            engine.execute(Deposit("b", 5), principal="ann"),
            engine.execute(Deposit("a", 5), principal="ann"),
            engine.execute(Transfer("a", "b", 5), principal="ann"),
            engine.execute(Transfer("b", "c", 10), principal="ann"),
            engine.execute(Deposit("c", 1), principal="ann"),
        ]
        receipts = await asyncio.gather(*sent)

        assert len(asked) == 6
        assert [receipt.position for receipt in receipts] == [2, 1, 4, 6, 7]


async def test_debug_mode_finds_a_function_that_changes_a_state() -> None:
    def changes(one: Account, other: Fund) -> list[Any]:
        other.cents += 1
        return []

    odd["it"] = changes
    async with bank(debug=True) as engine:
        with pytest.raises(HandlerFailed, match=r"changed the state, at \.cents"):
            await engine.execute(Odd("one", "other", "it"))
        odd["it"] = lambda one, other: [To(one, A), To(other, A)]
        assert (await engine.execute(Odd("one", "other", "it"))).position == 2


async def test_a_state_that_was_changed_is_not_believed() -> None:
    def changes(one: Account, other: Fund) -> list[Any]:
        one.cents += 1
        raise OSError("and then it fails")

    odd["it"] = changes
    async with bank() as engine:
        await engine.execute(Deposit("one", 1))
        with pytest.raises(HandlerFailed):
            await engine.execute(Odd("one", "other", "it"))
        with pytest.raises(Rejected) as rejected:
            await engine.execute(Transfer("one", "b", 3))

        assert rejected.value.details == {"cents": 1}


async def test_a_function_takes_a_context() -> None:
    odd["it"] = lambda one, other: []
    async with bank(ports=Ports(clock=ManualClock(5))) as engine:
        await engine.execute(Odd("one", "other", "it"), key="k", principal="ann")

    assert (contexts[-1].now, contexts[-1].key, contexts[-1].principal) == (5, "k", "ann")
