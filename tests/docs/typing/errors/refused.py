"""What type checkers must refuse: every line that ends in `# refused`; run by test_typing.py."""

from __future__ import annotations

from engine import Command, Decision, Engine, Event, Id, Query, Row


class Opened(Event, name="opened"):
    account: str


class Open(Command):
    account: Id


class Withdraw(Command[int]):
    account: Id


def decide() -> Decision[Opened, int]:
    return Decision(Opened("a"), reply="a")  # refused


class GetCents(Query[int]):
    account: str


class Account(Row, key="account"):
    account: str


async def use(engine: Engine, event: Opened, command: Open, row: Account) -> None:
    event.account = "b"  # refused
    command.account = "b"  # refused
    row.account = "b"  # refused
    text: str = await engine.query(GetCents("a"))  # refused
    Opened()  # refused
    Open(account=1)  # refused
    await engine.execute(event)  # refused
    reply: str = (await engine.execute(Withdraw("a"))).reply  # refused
    print(text, reply)
