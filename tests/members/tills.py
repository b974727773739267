"""A till in two releases: the newer one knows currencies. Run, it is a process of either.

`python -m tests.members.tills STORE older|newer [spread]` says "ready", and then does what each
line of its input asks for: "sell TILL CENTS", which gives the version, or "total TILL", which gives
the cents. It ends with its input.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from engine import (
    Aggregate,
    Command,
    Engine,
    EngineError,
    Event,
    Id,
    Rejected,
    applies,
    downcasts,
    handles,
    run,
    upcasts,
)

__all__ = ["Look", "NewTill", "OldTill", "Sell", "WideTill", "newer", "older", "wider"]


class Sell(Command):
    till_id: Id
    cents: int
    currency: str = "EUR"


class Look(Command):
    """Is rejected, with the currencies that the till has seen."""

    till_id: Id


class SoldBefore(Event, name="sold", version=1):
    cents: int


class Sold(Event, name="sold", version=2):
    cents: int
    currency: str


@upcasts
def with_currency(event: SoldBefore) -> Sold:
    return Sold(event.cents, "EUR")


@downcasts
def without_currency(event: Sold) -> SoldBefore:
    return SoldBefore(event.cents)


class SoldWider(Event, name="sold", version=1, added=["currency"]):
    cents: int
    currency: str = "EUR"


class WideTill(Aggregate, kind="till"):
    cents: int = 0
    currencies: list[str] = []

    @handles
    def sell(self, command: Sell) -> SoldWider:
        return SoldWider(command.cents, command.currency)

    @applies
    def sold(self, event: SoldWider) -> None:
        self.cents += event.cents
        self.currencies = [*self.currencies, event.currency]


class OldTill(Aggregate, kind="till"):
    cents: int = 0

    @handles
    def sell(self, command: Sell) -> SoldBefore:
        return SoldBefore(command.cents)

    @applies
    def sold(self, event: SoldBefore) -> None:
        self.cents += event.cents


class NewTill(Aggregate, kind="till"):
    cents: int = 0
    currencies: list[str] = []

    @handles
    def sell(self, command: Sell) -> Sold:
        return Sold(command.cents, command.currency)

    @handles
    def look(self, command: Look) -> None:
        raise Rejected("seen", "so many currencies were seen", currencies=self.currencies)

    @applies
    def sold(self, event: Sold) -> None:
        self.cents += event.cents
        self.currencies = [*self.currencies, event.currency]


def older(store: str, **options: Any) -> Engine:
    known: dict[str, Any] = {"release": "1.0", "join": True}
    return Engine([OldTill], store=store, **known | options)


def wider(store: str, **options: Any) -> Engine:
    """Give the release in which a field was added to the event, with no new version."""
    known: dict[str, Any] = {"release": "1.1", "join": True}
    return Engine([WideTill], store=store, **known | options)


def newer(store: str, *, downcasters: tuple[Any, ...] = (without_currency,), **more: Any) -> Engine:
    known: dict[str, Any] = {"release": "2.0", "join": True, "downcasters": downcasters}
    return Engine([NewTill], store=store, upcasters=[with_currency], **known | more)


async def _done(engine: Engine, till: type[OldTill | NewTill], words: list[str]) -> int:
    if words[0] == "sell":
        return (await engine.execute(Sell(words[1], int(words[2])))).version
    return (await engine.state(till, words[1])).cents


async def main(store: str, release: str, join: str = "") -> None:
    """Do what each line asks for."""
    make: Any = older if release == "older" else newer
    till = OldTill if release == "older" else NewTill
    loop = asyncio.get_running_loop()
    async with make(store, join=join or True) as engine:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while words := (await loop.run_in_executor(None, sys.stdin.readline)).split():
            try:
                said = str(await _done(engine, till, words))
            except EngineError as error:
                said = type(error).__name__
            sys.stdout.write(f"{said}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    run(main, *sys.argv[1:])
