"""What type checkers must accept, with the types that they must find; run by test_typing.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_type

from engine import (
    Aggregate,
    Archive,
    Change,
    Command,
    Decision,
    Delivery,
    Engine,
    EngineError,
    Event,
    HistoryPage,
    Id,
    LoggedEvent,
    Meta,
    Projection,
    Query,
    Receipt,
    Row,
    Sink,
    Sql,
    SqlProjection,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
)


class Opened(Event, name="opened", version=2):
    account: str
    cents: int = 0


class Open(Command):
    account: Id
    cents: int = 0


class Withdraw(Command[int]):
    account: Id
    cents: int


class Vault(Aggregate, kind="vault"):
    cents: int = 0

    @handles
    def withdraw(self, command: Withdraw) -> Decision[Opened, int]:
        if command.cents == 0:
            return Decision(reply=self.cents)
        return Decision([Opened(self.id, -command.cents)], reply=self.cents - command.cents)

    @handles
    def open(self, command: Open) -> Opened:
        return Opened(self.id, command.cents)

    @applies
    def opened(self, event: Opened) -> None:
        self.cents += event.cents


class Account(Row, key="account", index=["cents"], search=["account"]):
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


class Ranking(SqlProjection, name="ranking", version=1, on_poison="park"):
    tables = {
        "rows": "CREATE TABLE {rows} (account TEXT PRIMARY KEY, cents INTEGER)",
        "names": ("CREATE TABLE {names} (name)", "CREATE INDEX {names:n} ON {names} (name)"),
    }

    @projects
    def opened(self, event: Opened, meta: Meta, sql: Sql) -> None:
        rows = sql.run("INSERT INTO {rows} VALUES (?, ?) RETURNING *", (meta.id, event.cents))
        assert_type(rows, list[tuple[Any, ...]])


class Closed(Event, name="closed"):
    pass


class Client:
    async def send(self, what: str) -> None: ...


class Mail(Sink, name="mail", version=1, slices=4):
    transient = (ConnectionError, TimeoutError)

    async def deliver(self, batch: Sequence[Delivery[Opened | Closed]], client: Client) -> None:
        for delivery in batch:
            assert_type(delivery.event, Opened | Closed)
            assert_type(delivery.position, int)
            await client.send(delivery.meta.event_id)


def make() -> Engine:
    return Engine([Vault], projections=[Accounts, Ranking, Mail], resources={Client: Client()})


@answers
async def get_account(query: GetAccount, views: Views) -> Account | None:
    assert_type(await views.find(Accounts.rows, where={"cents": 1}), list[Account])
    assert_type(await views.search(Accounts.rows, "ann", limit=5), list[Account])
    return await views.get(Accounts.rows, query.account)


async def use(engine: Engine) -> None:
    receipt = await engine.execute(Open("a", 5), key="k")
    assert_type(receipt, Receipt)
    withdrawn = await engine.execute(Withdraw("a", 5))
    assert_type(withdrawn, Receipt[int])
    assert_type(withdrawn.reply, int)
    assert_type(await engine.query(GetAccount("a"), at=receipt), Account | None)
    async for account in engine.watch(GetAccount("a"), at=receipt, principal="ann"):
        assert_type(account, Account | None)
    assert_type(engine.watch(GetAccount("a")).position, int)
    async for answer in engine.execute_many([Open("a"), Open(account="b", cents=1)]):
        assert_type(answer, Receipt | EngineError)


async def send_any(engine: Engine, command: Command) -> Receipt:
    assert_type((await engine.execute(command)).reply, object)
    return await engine.execute(Withdraw("a", 5))


async def look_back(engine: Engine, archive: Archive) -> None:
    assert_type(await engine.state(Vault, "a", version=1), Vault)
    assert_type(await archive.state(Vault, "a"), Vault)
    assert_type(await engine.history(Vault, "a"), HistoryPage)
    assert_type(await engine.difference(Vault, "a", 0, 1), tuple[Change, ...])
    async with engine.past(position=1) as past, archive.past(at=0) as other:
        assert_type(await past.query(GetAccount("a")), Account | None)
        assert_type(await other.query(GetAccount("a")), Account | None)
    async for event in engine.history(Vault, "a"):
        assert_type(event, LoggedEvent)
    async for event in engine.feed(follow=True):
        assert_type(event, LoggedEvent)
    async for event in engine.feed(3, names=["opened", Opened], kinds=[Vault, "vault"]):
        assert_type(event, LoggedEvent)
    assert_type(engine.feed(names=[Opened]).position, int)
