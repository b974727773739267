"""Accounts, and what several of them decide together: shared by the tests of joint decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from engine import (
    Aggregate,
    Claim,
    Command,
    Context,
    Decision,
    Engine,
    Event,
    Id,
    Rejected,
    To,
    applies,
    decides,
    handles,
)


class Withdrawn(Event, name="withdrawn"):
    cents: int


class Deposited(Event, name="deposited"):
    cents: int


class Deposit(Command):
    account: Id
    cents: int


class DepositFund(Command):
    fund: Id
    cents: int


class Fail(Command):
    """Its handler raises."""

    account: Id


class Wait(Command):
    """Its handler waits for the gate."""

    account: Id


class Transfer(Command[int]):
    source: Id
    target: Id
    cents: int


class Share(Command):
    """One account gives to many, and one more may give besides."""

    source: Id
    targets: list[Id]
    cents: int
    sponsor: Id | None = None


class Rename(Command):
    """Two accounts claim a name each."""

    one: Id
    other: Id
    names: tuple[str, str]


class Odd(Command):
    """Gives whatever the test says."""

    one: Id
    other: Id
    what: str


class Slow(Command):
    """Waits for the gate, and then transfers one cent."""

    source: Id
    target: Id


class Gate:
    """What opens when the test says so."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.waiting = 0

    async def passed(self) -> None:
        self.waiting += 1
        await self.event.wait()


class Account(Aggregate, kind="account"):
    cents: int = 0
    taken: int = 0

    @handles
    def deposit(self, command: Deposit) -> Deposited:
        return Deposited(command.cents)

    @handles
    def fail(self, command: Fail) -> Deposited:
        raise OSError("broken")

    @handles
    async def wait(self, command: Wait, gate: Gate) -> Deposited:
        await gate.passed()
        return Deposited(1)

    @applies
    def deposited(self, event: Deposited) -> None:
        if event.cents == 666:
            raise ValueError("cannot be applied")
        self.cents += event.cents

    @applies
    def withdrawn(self, event: Withdrawn) -> None:
        self.cents -= event.cents
        self.taken += 1


class Fund(Aggregate, kind="fund"):
    """Another kind, which knows one of the events alone."""

    cents: int = 0

    @handles
    def deposit(self, command: DepositFund) -> Deposited:
        return Deposited(command.cents)

    @applies
    def deposited(self, event: Deposited) -> None:
        self.cents += event.cents


runs: list[str] = []
contexts: list[Context] = []
Gives: TypeAlias = Callable[[Account, Fund], Any]
odd: dict[str, Gives] = {}
"""What `Odd` gives."""


@decides
def transfer(
    command: Transfer, source: Account, target: Account
) -> Decision[To[Withdrawn | Deposited], int]:
    runs.append(f"{source.id}>{target.id}")
    if source.cents < command.cents:
        raise Rejected("too-little-money", "there is not so much", cents=source.cents)
    if command.cents == 0:
        return Decision(reply=source.cents)
    left = source.cents - command.cents
    moved = command.cents
    return Decision([To(source, Withdrawn(moved)), To(target, Deposited(moved))], reply=left)


@decides
def share(
    command: Share, source: Account, targets: list[Account], sponsor: Account | None
) -> list[To[Withdrawn | Deposited]]:
    total = command.cents * len(targets)
    payer = sponsor or source
    gifts: list[To[Withdrawn | Deposited]] = [To(t, Deposited(command.cents)) for t in targets]
    return [To(payer, Withdrawn(total)), *gifts]


@decides
def rename(command: Rename, one: Account, other: Account) -> list[To[Deposited]]:
    return [
        To(each, Deposited(0), claims=[Claim("name", name)])
        for each, name in zip((one, other), command.names, strict=True)
    ]


@decides
def anything(command: Odd, one: Account, other: Fund, ctx: Context) -> list[To[Deposited]]:
    contexts.append(ctx)
    given: list[To[Deposited]] = odd[command.what](one, other)
    return given


@decides
async def slowly(
    command: Slow, source: Account, target: Account, gate: Gate
) -> list[To[Withdrawn | Deposited]]:
    await gate.passed()
    return [To(source, Withdrawn(1)), To(target, Deposited(1))]


DECISIONS: Sequence[Callable[..., Any]] = [transfer, share, rename, anything, slowly]


def bank(gate: Gate | None = None, **options: Any) -> Engine:
    """Give an engine of accounts and funds."""
    resources: dict[type, object] = {Gate: gate or Gate()}
    return Engine([Account, Fund], decisions=DECISIONS, resources=resources, **options)


async def cents(engine: Engine, *accounts: str) -> list[int]:
    return [(await engine.state(Account, account)).cents for account in accounts]
