"""The book: every answer that any life gave, and how answers came over time.

Rules: a command has one answer. One that was acknowledged and is sent again must be told the same
receipt; an answer to what was not asked is noted as a fault. Latencies count from the moment at
which a command was due, and stand in the slice of time of that moment.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator

import msgspec

from ..histogram import Histogram, Sample
from .load import Phase
from .record import PUT_OFF, Answer, Record

__all__ = ["SLICE_SECONDS", "Book", "PhaseNumbers", "Slice"]

SLICE_SECONDS = 0.25
FAULTS_KEPT = 20


class Slice:
    """What was seen in one slice of time."""

    __slots__ = ("answered", "latency", "overloaded")

    def __init__(self) -> None:
        self.latency = Sample()
        """Of commands that were due in it and were run or rejected."""
        self.answered = 0
        """Commands that were told in it that they were run or rejected."""
        self.overloaded = 0


class PhaseNumbers(msgspec.Struct):
    """What came of one phase."""

    phase: Phase
    answers: list[int]
    """By kind of answer."""
    latency: Histogram
    refusal: Histogram
    """How long it took to be told `Overloaded`, from sending, in µs."""
    refusal_due: Histogram
    """The same from the moment at which the command was due."""
    last_at: float = 0.0
    """When its last answer came."""

    @property
    def complete(self) -> bool:
        """Whether all its commands are answered."""
        return sum(self.answers) == self.phase.count

    @property
    def run(self) -> int:
        """Commands that were run or rejected."""
        return self.answers[Answer.RECEIPT] + self.answers[Answer.REJECTED]

    @property
    def throughput(self) -> float:
        """Commands that were run or rejected in a second, until the last answer."""
        return self.run / max(self.last_at - self.phase.begin, self.phase.seconds)


class Book:
    """The answers, by number."""

    def __init__(self) -> None:
        self.answers = bytearray()
        self.positions: array[int] = array("Q")
        self.versions: array[int] = array("I")
        self.phases: list[PhaseNumbers] = []
        self.slices: list[Slice] = []
        self.began = 0.0
        self.next = 0
        """The first number behind all that have an answer."""
        self.repeated = 0
        """Receipts that were given once more."""
        self.put_off: set[int] = set()
        """Commands that were sent again later, since the engine was full: perhaps not in order."""
        self.faults: list[str] = []
        self.fault_count = 0
        self._asked_again: set[int] = set()

    def begin(self, phase: Phase) -> PhaseNumbers:
        """Expect the commands of a phase."""
        if not self.phases:
            self.began = phase.begin
        numbers = PhaseNumbers(phase, [0] * len(Answer), Histogram(), Histogram(), Histogram())
        self.phases.append(numbers)
        self.answers.extend(bytes(phase.count))
        self.positions.extend([0] * phase.count)
        self.versions.extend([0] * phase.count)
        return numbers

    def ask_again(self, numbers: set[int]) -> None:
        """Expect that these, which have receipts, are answered once more, or not at all."""
        self._asked_again = numbers

    def open(self) -> Iterator[int]:
        """Give the numbers without an answer, among those before `next`."""
        place = -1
        while (place := self.answers.find(Answer.NOTHING, place + 1, self.next)) >= 0:
            yield place

    def acknowledged(self, number: int) -> bool:
        """Whether a command has a receipt."""
        return self.answers[number] == Answer.RECEIPT

    def note(self, record: Record) -> None:
        """Write an answer down."""
        number = record.number
        if number >= len(self.answers):
            self._fault(f"command {number} was answered, and there is none")
        elif record.answer == PUT_OFF:
            self.put_off.add(number)
        elif self.answers[number]:
            self._note_again(record)
        else:
            self.answers[number] = record.answer
            self.positions[number] = record.position
            self.versions[number] = record.version
            self.next = max(self.next, number + 1)
            self._count(record)

    def _note_again(self, record: Record) -> None:
        number, first = record.number, Answer(self.answers[record.number]).name
        if number not in self._asked_again:
            self._fault(f"P6: command {number} was answered twice, {first} first")
            return
        self._asked_again.discard(number)
        self.repeated += 1
        before = (Answer.RECEIPT, self.positions[number], self.versions[number])
        if (record.answer, record.position, record.version) != before:
            self._fault(
                f"P8: command {number} had a receipt for position {before[1]} and, sent again, was "
                f"told {Answer(record.answer).name} for position {record.position}"
            )

    def _count(self, record: Record) -> None:
        phase = self._phase_of(record.number)
        phase.answers[record.answer] += 1
        phase.last_at = max(phase.last_at, record.at)
        now = self._slice(record.at)
        if record.answer == Answer.OVERLOADED:
            phase.refusal.record(record.service)
            phase.refusal_due.record(record.latency)
            now.overloaded += 1
            return
        phase.latency.record(record.latency)
        now.answered += 1
        self._slice(record.at - record.latency).latency.record(record.latency)

    def _phase_of(self, number: int) -> PhaseNumbers:
        if number >= self.phases[-1].phase.first:
            return self.phases[-1]
        firsts = [numbers.phase.first for numbers in self.phases]
        return self.phases[bisect_right(firsts, number) - 1]

    def _slice(self, at: float) -> Slice:
        place = max(0, int((at - self.began) / SLICE_SECONDS))
        while place >= len(self.slices):
            self.slices.append(Slice())
        return self.slices[place]

    def _fault(self, text: str) -> None:
        self.fault_count += 1
        if self.fault_count <= FAULTS_KEPT:
            self.faults.append(text)

    # -- sums ---------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether every command of every phase is answered."""
        return all(numbers.complete for numbers in self.phases)

    def answered(self) -> list[int]:
        """Give how many answers there were, by kind."""
        return [sum(numbers.answers[kind] for numbers in self.phases) for kind in Answer]

    def latency(self) -> Histogram:
        """Give the latencies of all that was run or rejected."""
        total = Histogram()
        for numbers in self.phases:
            total.add(numbers.latency)
        return total
