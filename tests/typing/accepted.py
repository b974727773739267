"""What type checkers must accept, with the types that they must find; run by test_typing.py."""

from __future__ import annotations

from typing import assert_type

from engine import (
    Command,
    Engine,
    EngineError,
    Event,
    Id,
    Projection,
    Query,
    Receipt,
    Row,
    Table,
    Views,
    answers,
    projects,
)


class Opened(Event, name="opened", version=2):
    account: str
    cents: int = 0


class Open(Command):
    account: Id
    cents: int = 0


class Account(Row, key="account", index=["cents"]):
    account: str
    cents: int


class GetAccount(Query[Account | None]):
    account: str


class Accounts(Projection, name="accounts", version=1):
    rows: Table[Account]

    @projects
    def opened(self, event: Opened) -> None:
        self.rows.put(Account(event.account, event.cents))
        assert_type(self.rows.get(event.account), Account | None)


@answers
async def get_account(query: GetAccount, views: Views) -> Account | None:
    assert_type(await views.find(Accounts.rows, where={"cents": 1}), list[Account])
    return await views.get(Accounts.rows, query.account)


async def use(engine: Engine) -> None:
    receipt = await engine.execute(Open("a", 5), key="k")
    assert_type(receipt, Receipt)
    assert_type(await engine.query(GetAccount("a"), at=receipt), Account | None)
    async for answer in engine.execute_many([Open("a"), Open(account="b", cents=1)]):
        assert_type(answer, Receipt | EngineError)
