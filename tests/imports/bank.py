"""A bank as it is here, and what old events become in it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from engine import (
    Aggregate,
    Claim,
    Command,
    Decision,
    Engine,
    Event,
    Id,
    Limits,
    applies,
    handles,
    upcasts,
)
from engine.imports import Imported, SourceEvent


class OpenedOne(Event, name="opened", version=1):
    owner: str


class Opened(Event, name="opened", version=2):
    owner: str
    country: str


@upcasts
def with_country(old: OpenedOne) -> Opened:
    return Opened(old.owner, "GB")


class Deposited(Event, name="deposited"):
    cents: int


class Lost(Event, name="lost"):
    """No aggregate of kind account applies it."""


class Open(Command):
    account: Id
    owner: str


class Deposit(Command[int]):
    account: Id
    cents: int


class Lose(Command):
    box: Id


class Account(Aggregate, kind="account"):
    owner: str = ""
    country: str = ""
    cents: int = 0

    @handles
    def open(self, command: Open) -> Decision[Opened]:
        return Decision(Opened(command.owner, "DE"), claims=[Claim("owner", command.owner)])

    @handles
    def deposit(self, command: Deposit) -> Decision[Deposited, int]:
        halves = [Deposited(command.cents), Deposited(1)]
        return Decision(halves, reply=self.cents + command.cents)

    @applies
    def opened(self, event: Opened) -> None:
        self.owner, self.country = event.owner, event.country

    @applies
    def deposited(self, event: Deposited) -> None:
        self.cents += event.cents


class Box(Aggregate, kind="box"):
    @handles
    def lose(self, command: Lose) -> Lost:
        return Lost()

    @applies
    def lost(self, event: Lost) -> None:
        pass


def make_engine(store: str = "memory:") -> Engine:
    limits = Limits(event_bytes=10_000)
    return Engine([Account, Box], upcasters=[with_country], store=store, limits=limits)


def moved(old: SourceEvent) -> Imported | None:
    """Map the history of `tests.support.other_stores`, of whatever store."""
    name = str(old.name).lower().removeprefix("account_").removeprefix("account.")
    stream = str(old.stream)
    if stream.startswith("account:command-"):
        return None
    own_id = stream.removeprefix("account-").replace("-", "")
    data: Any = old.data
    if name == "opened":
        claims = [Claim("owner", data["owner"])]
        event = Opened(data["owner"], "FR")
        return Imported(kind="account", id=own_id, event=event, claims=claims)
    correlation = old.metadata.get("correlation_id")
    return Imported(
        kind="account", id=own_id, event=Deposited(data["cents"]), correlation=correlation
    )


def of_lines(line: SourceEvent) -> Imported | list[Imported] | None:
    """Map lines of another form: `{"account": ..., "cents": [...], "at": ...}`."""
    from datetime import datetime

    return [
        Imported(
            kind="account",
            id=line.data["account"],
            event=Deposited(cents),
            recorded=datetime.fromisoformat(line.data["at"]),
        )
        for cents in line.data["cents"]
    ]


def killing(line: SourceEvent) -> Imported | list[Imported] | None:
    """Map lines likewise, and kill the process at a call that a file counts down to."""
    counter = Path(os.environ["KILL_AFTER"])
    left = json.loads(counter.read_text())
    counter.write_text(json.dumps(left - 1))
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return of_lines(line)
