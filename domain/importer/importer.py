"""The importer: sends a file of invoices to the shop as commands, and says what became of them.

Rules: every command has a key made of its invoice, so that a file can be sent again, after a crash
or by mistake, and nothing runs twice. Nothing is filtered here: what the orders' rules refuse is
counted, each command, and once for each invoice; an invoice that the shop has otherwise, or in
part, is told apart, since the shop's sums are then not the file's. Commands are pipelined, a
bounded number at a time; an answer that is neither a receipt nor a refusal ends the import, since
then the engine needs help first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from engine import Engine, EngineError, Envelope, KeyReused, Receipt, Rejected

from ..model.lines import Line, LineId
from ..model.orders import AdjustOrderItemQuantity, CreateOrder, ShipOrder
from ..model.returns import RecordReturn
from ..terminal.listing import Listing
from .invoices import Invoice, Invoices
from .text_file import Unreadable

__all__ = ["OTHERWISE", "Imported", "Outcomes", "commands_of", "import_invoices"]

COMMANDS_IN_FLIGHT = 1_024

OTHERWISE = frozenset({"key-reused", "order-exists", "return-exists"})
"""Codes of refusals where the shop has another invoice under the number of the refused one."""

Acknowledged = Callable[[str, Receipt], None]


class Outcomes(msgspec.Struct):
    """What became of the commands of one class: each that was sent is in one of the others."""

    sent: int = 0
    executed: int = 0
    """Wrote events now."""
    repeated: int = 0
    """Had been executed before, and were recognised by their keys."""
    refused: int = 0


class Imported(msgspec.Struct):
    """What became of a file."""

    invoices: int = 0
    outcomes: dict[str, Outcomes] = {}
    """By the name of the command's class."""
    codes: dict[str, int] = {}
    """Refused commands, by the code of the refusal."""
    refused: dict[str, Listing] = {}
    """Numbers of refused invoices, by the code of the refusal."""
    partly: Listing = msgspec.field(default_factory=Listing)
    """Of these, the numbers of invoices that were stored without the rows that were refused."""
    last: Receipt | None = None
    """The receipt with the highest position: what the views must have reached."""
    seconds: float = 0.0
    """From the first command to the last answer."""

    @property
    def commands(self) -> int:
        """How many commands were sent."""
        return sum(outcomes.sent for outcomes in self.outcomes.values())

    @property
    def executed(self) -> int:
        """How many wrote events now."""
        return sum(outcomes.executed for outcomes in self.outcomes.values())

    @property
    def repeated(self) -> int:
        """How many had been executed before."""
        return sum(outcomes.repeated for outcomes in self.outcomes.values())

    @property
    def refused_commands(self) -> int:
        """How many were refused."""
        return sum(outcomes.refused for outcomes in self.outcomes.values())

    @property
    def refused_count(self) -> int:
        """How many invoices were refused."""
        return sum(listing.count for listing in self.refused.values())

    @property
    def differs(self) -> bool:
        """Whether the shop has an invoice of the file otherwise than the file, or in part."""
        return bool(self.partly.count or OTHERWISE & self.refused.keys())


class Sent(msgspec.Struct, frozen=True):
    """A command that waits for its answer."""

    invoice: str
    ordinal: int
    """Of the invoice in the file, since a number may come again."""
    key: str
    outcomes: Outcomes
    """Where it is counted."""


async def import_invoices(
    engine: Engine, invoices: Invoices, acknowledged: Acknowledged | None = None
) -> Imported:
    """Send all invoices; `acknowledged` hears of each receipt as it comes.

    Raises Unreadable where the file breaks off, after everything before has its answer, and the
    EngineError that says why the engine could not go on.
    """
    return await _Import(engine, invoices, acknowledged).run()


class _Import:
    """One run over one file."""

    def __init__(
        self, engine: Engine, invoices: Invoices, acknowledged: Acknowledged | None
    ) -> None:
        self._engine = engine
        self._invoices = invoices
        self._acknowledged = acknowledged
        self._before = engine.statistics().position
        """What has a position up to here was executed in an earlier run."""
        self._sent: deque[Sent] = deque()
        self._refused_ordinal = 0
        """The invoice that was refused last: what follows of it is not counted again."""
        self._stored_ordinal = 0
        """The invoice of which a command was accepted last."""
        self._result = Imported()
        self._ended_by: Unreadable | EngineError | None = None
        """Why nothing more is sent; what was sent before has its answers first."""

    async def run(self) -> Imported:
        clock = asyncio.get_running_loop().time
        begun = clock()
        answers = self._engine.execute_many(self._envelopes(), window=COMMANDS_IN_FLIGHT)
        async for answer in answers:
            # Answers come in the order of the commands.
            self._take(self._sent.popleft(), answer)
        self._result.seconds = clock() - begun
        assert not self._sent, "every command has its answer"
        if self._ended_by is not None:
            raise self._ended_by
        return self._result

    def _envelopes(self) -> Iterator[Envelope]:
        """Give the commands of one invoice after the other, and note what is sent."""
        try:
            for invoice in self._invoices:
                self._result.invoices += 1
                for envelope in commands_of(invoice):
                    if self._ended_by is not None:
                        return
                    self._note(invoice.number, envelope)
                    yield envelope
        except Unreadable as error:
            self._ended_by = error

    def _note(self, number: str, envelope: Envelope) -> None:
        assert envelope.key is not None
        name = type(envelope.command).__name__
        outcomes = self._result.outcomes.setdefault(name, Outcomes())
        outcomes.sent += 1
        self._sent.append(Sent(number, self._result.invoices, envelope.key, outcomes))

    def _take(self, sent: Sent, answer: Receipt | EngineError) -> None:
        if isinstance(answer, Receipt):
            self._accept(sent, answer)
        elif isinstance(answer, Rejected):
            self._refuse(sent, answer.code)
        elif isinstance(answer, KeyReused):
            self._refuse(sent, "key-reused")
        elif self._ended_by is None:
            self._ended_by = answer

    def _accept(self, sent: Sent, receipt: Receipt) -> None:
        result = self._result
        self._stored_ordinal = sent.ordinal
        if receipt.position > self._before:
            sent.outcomes.executed += 1
        else:
            sent.outcomes.repeated += 1
        if result.last is None or receipt.position > result.last.position:
            result.last = receipt
        if self._acknowledged is not None:
            self._acknowledged(sent.key, receipt)

    def _refuse(self, sent: Sent, code: str) -> None:
        sent.outcomes.refused += 1
        self._result.codes[code] = self._result.codes.get(code, 0) + 1
        # Commands of one invoice are answered in a row, so that it is enough to know the last.
        if sent.ordinal == self._refused_ordinal:
            return
        self._refused_ordinal = sent.ordinal
        self._result.refused.setdefault(code, Listing()).add(sent.invoice)
        if sent.ordinal == self._stored_ordinal:
            # Its first command was accepted, so the order is there.
            self._result.partly.add(sent.invoice)


def commands_of(invoice: Invoice) -> Iterator[Envelope]:
    """Give the commands that an invoice stands for, in order, each with its key."""
    number = invoice.number
    if invoice.is_return:
        yield Envelope(
            command=RecordReturn(number, invoice.buyer, invoice.invoiced_at, tuple(invoice.lines)),
            key=f"{number}/return",
        )
        return
    first: dict[LineId, Line] = {}
    repeated: list[Line] = []
    for line in invoice.lines:
        line_id = line.id
        if line_id in first:
            repeated.append(line)
        else:
            first[line_id] = line
    yield Envelope(
        command=CreateOrder(number, invoice.buyer, invoice.invoiced_at, tuple(first.values())),
        key=f"{number}/create",
    )
    quantities = {line_id: line.quantity for line_id, line in first.items()}
    for count, line in enumerate(repeated, start=1):
        quantities[line.id] += line.quantity
        yield Envelope(
            command=AdjustOrderItemQuantity(number, line.id, quantities[line.id]),
            key=f"{number}/adjust/{count}",
        )
    yield Envelope(command=ShipOrder(number), key=f"{number}/ship")
