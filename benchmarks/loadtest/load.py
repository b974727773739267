"""The load: which command has which number and when it is due, drawn from the shop's real orders.

Rules: a command follows from its number and the number of clients alone. So the engine's next life
sends again what the last one did not answer, and the verification knows what each command was to
write, while nobody keeps the commands. Each client sends the whole sample over and over, command
by command as the importer would, under order numbers of its own; the clients take turns, and each
begins at another place of the sample. A key names a number, and so a command for ever.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from domain.importer.importer import commands_of
from domain.importer.invoices import SAMPLE, Invoices
from domain.importer.text_file import TextFile
from domain.model.orders import (
    AdjustOrderItemQuantity,
    CreateOrder,
    Order,
    OrderCreated,
    OrderItemQuantityAdjusted,
    OrderShipped,
    ShipOrder,
)
from domain.model.returns import RecordReturn, Return, ReturnRecorded
from engine import Aggregate, Command, Event, Rejected

__all__ = ["WRITES", "Load", "Phase", "id_field", "key_of", "number_of"]

WRITES: Final[Mapping[type[Command], type[Event]]] = {
    CreateOrder: OrderCreated,
    AdjustOrderItemQuantity: OrderItemQuantityAdjusted,
    ShipOrder: OrderShipped,
    RecordReturn: ReturnRecorded,
}
"""The one event that each command writes."""

_BY_NAME: Final = {command.command_name: command for command in WRITES}
_KEY: Final = "load-"


class Phase(msgspec.Struct, frozen=True):
    """So many commands, from a number on, each due at its own moment: an open loop."""

    first: int
    count: int
    begin: float
    """By `time.monotonic()`, which all processes of a machine share."""
    rate: float
    """Commands a second."""

    @property
    def end(self) -> int:
        """The first number behind it."""
        return self.first + self.count

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.count / self.rate

    def intended(self, number: int) -> float:
        """Give the moment at which a command is due."""
        return self.begin + (number - self.first) / self.rate

    def due(self, now: float) -> int:
        """Give the first number that is not due yet."""
        return min(self.end, self.first + max(0, int((now - self.begin) * self.rate) + 1))

    @property
    def over(self) -> bool:
        """Whether all its commands are due."""
        return time.monotonic() > self.begin + self.seconds


class Load:
    """All commands there are, by number."""

    def __init__(self, sample: Sequence[Command], clients: int) -> None:
        """Let so many clients send a sample, in which an order's commands stand together."""
        self.sample = sample
        self.clients = clients
        ids = [str(getattr(command, id_field(command))) for command in sample]
        starts = [place for place, id_ in enumerate(ids) if place == 0 or ids[place - 1] != id_]
        self._ids = ids
        self._starts = [starts[c * len(starts) // clients % len(starts)] for c in range(clients)]

    @classmethod
    def of_shop(cls, clients: int) -> Load:
        """Give the load of the sample that comes with the shop."""
        with TextFile(SAMPLE) as file:
            return cls([e.command for i in Invoices(file) for e in commands_of(i)], clients)

    def place_of(self, number: int) -> int:
        """Give where in the sample the command stands that a number repeats."""
        turn, client = divmod(number, self.clients)
        return (self._starts[client] + turn) % len(self.sample)

    def id_of(self, number: int) -> str:
        """Give the id of the order or return that a command is for."""
        turn, client = divmod(number, self.clients)
        lap, place = divmod(self._starts[client] + turn, len(self.sample))
        return f"{self._ids[place]}-{client}-{lap}"

    def command(self, number: int) -> Command:
        """Give a command."""
        command = self.sample[self.place_of(number)]
        changed: dict[str, Any] = {id_field(command): self.id_of(number)}
        return msgspec.structs.replace(command, **changed)

    def outcomes(self) -> list[bytes | None]:
        """Give the payload that each command of the sample writes; None for what is rejected.

        So it is where each order's commands are run one at a time and in their order, by the
        shop's own handlers; no payload says which client's order it is.
        """
        states: dict[tuple[type[Aggregate], str], Aggregate] = {}
        outcomes: list[bytes | None] = []
        for command, id_ in zip(self.sample, self._ids, strict=True):
            kind = Return if isinstance(command, RecordReturn) else Order
            state = states.setdefault((kind, id_), kind(id=id_))
            definition = kind.__definition__
            try:
                event = definition.handlers[type(command)].decide(state, command)
            except Rejected:
                outcomes.append(None)
                continue
            definition.appliers[type(event)](state, event)
            outcomes.append(msgspec.json.encode(event))
        return outcomes

    def save(self, path: Path) -> None:
        """Write the sample, so that a life need not read the invoices first."""
        path.write_bytes(msgspec.json.encode([(c.command_name, c) for c in self.sample]))

    @classmethod
    def read(cls, path: Path, clients: int) -> Load:
        """Read what `save` wrote."""
        named = msgspec.json.decode(path.read_bytes(), type=list[tuple[str, msgspec.Raw]])
        return cls([msgspec.json.decode(raw, type=_BY_NAME[name]) for name, raw in named], clients)


def id_field(command: Command) -> str:
    """Give the name of the field that says which aggregate it is for."""
    return "return_id" if isinstance(command, RecordReturn) else "order_id"


def key_of(number: int) -> str:
    """Give a command's key."""
    return f"{_KEY}{number}"


def number_of(key: str | None) -> int | None:
    """Give the number of a key; None for one that is not of this load."""
    if key is None or not key.startswith(_KEY):
        return None
    rest = key.removeprefix(_KEY)
    return int(rest) if rest.isascii() and rest.isdigit() else None
