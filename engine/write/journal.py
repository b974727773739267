"""The one writer: gathers decided events over all actors, appends them, answers, publishes.

Rules:
- One batch is with the store and the next one gathers. A batch is bounded by events and bytes.
- An answer leaves when the version that it was decided on is durable, never before. Rejections,
  empty results and repeated keys that were decided on undurable events follow those events.
- A claim that another aggregate holds rejects its command alone: no other was decided on it. So
  does a timer that does not stand any more.
- A conflict voids its request and every later request of the same stream: those that are in the
  same batch, those that gather, and what the actor has folded. Other streams lose nothing.
- What was decided on events by their tags is decided anew if one came, as at a conflict.
- A joint decision is one request of several streams. Their actors stand still until it is settled,
  so nothing is decided on it, and a conflict has it decided anew.
- A batch of which the store knows that nothing was written voids all of it, in the same way. If the
  store has stopped, the journal ends behind it.
- Any other failure of an append stops the journal for good: what was in flight is *unknown*.

It decides nothing about commands, gives no positions, and never retries an append by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Container, Sequence

from ..errors import Conflict, EngineError, StoreFailed, Voided
from ..histogram import Histogram
from ..limits import Limits
from ..model.decisions import Claim
from ..model.messages import Receipt
from ..model.stored import StoredEvent
from ..runtime.ports import Ports
from ..statistics import JournalStatistics
from ..stores.contract.claims import ClaimTaken
from ..stores.contract.log import (
    Appended,
    AppendRequest,
    Batch,
    Committed,
    Extra,
    Store,
    StreamConflict,
)
from ..stores.contract.timers import TimerGone
from ..stores.contract.traits import TakingTurns
from ..telemetry import LINKS_MAX, CommitBegan, Observer
from .entries import Entry, Owner, TagFeed, decided_on_void, outcome_unknown, tags_moved
from .mailbox import Intake, Mail
from .recorded_time import Timekeeper
from .replying import first_receipt, joint_receipt
from .shared import Shared, voided_by

__all__ = ["Journal"]


def _nothing(_extras: Sequence[Extra], _more: int) -> None:
    """Do nothing."""


class Journal:
    """Group commit over all actors of one engine."""

    def __init__(
        self,
        store: Store,
        intake: Intake,
        limits: Limits,
        ports: Ports,
        publish: Callable[[Sequence[StoredEvent]], None],
        room_again: Callable[[], None],
        logger: logging.Logger,
        watch: Observer | None = None,
        kept: Callable[[Sequence[Extra], int], None] = _nothing,
        before: Callable[[Sequence[AppendRequest]], Awaitable[None]] | None = None,
        tagged: TagFeed | None = None,
        shared: Shared | None = None,
    ) -> None:
        """Take `kept`, which is told the extras that are durable, and how many timers more."""
        self._store = store
        self._turn = store.turn if isinstance(store, TakingTurns) else None
        """What is waited for before a batch is gathered, where others append too."""
        self._before = before
        """Makes durable what a batch needs to be read, before it is written."""
        self._tagged = tagged
        self._shared = shared
        self._intake, self._limits = intake, limits
        self.time = Timekeeper(ports.clock, logger)
        self._stopwatch = ports.stopwatch
        self._watch = watch
        self._failpoint = ports.failpoint
        self._publish = publish
        self._room_again = room_again
        self._kept = kept
        self._gathered: deque[Entry] = deque()
        self._gathered_events = 0
        self._gathered_bytes = 0
        self._wake = asyncio.Event()
        self.has_room = True
        """Whether actors may decide more; otherwise they wait for the batch in flight."""
        self.in_flight = False
        """Whether a batch is with the store."""
        self._between: deque[Callable[[], None]] = deque()
        self._lost = False
        """Whether a commit failed in a way that leaves its outcome unknown: the end."""
        self.position = 0
        """Position of the last durable event."""
        self._commits = 0
        self._events = 0
        self._bytes = 0
        self._conflicts = 0
        self._voided = 0
        self._commit_seconds = Histogram.of_seconds()
        self._batch_events = Histogram.of_sizes()

    def begin(self, position: int, recorded: int) -> None:
        """Take the end of the log: the position and the time of its last event."""
        self.position = position
        self.time.begin(recorded)

    def look_on(self, position: int) -> bool:
        """Take where others have brought the log, for one that commits nothing; tell if it moved.

        Called where nothing is submitted: the position of a commit would lie behind it.
        """
        moved = position > self.position
        self.position = max(self.position, position)
        return moved

    def statistics(self) -> JournalStatistics:
        """Give the numbers as they are now; called from any thread."""
        return JournalStatistics(
            commits=self._commits,
            events=self._events,
            bytes=self._bytes,
            undurable_events=self._gathered_events,
            undurable_bytes=self._gathered_bytes,
            conflicts=self._conflicts,
            voided=self._voided,
            commit_seconds=self._commit_seconds.copy(),
            batch_events=self._batch_events.copy(),
        )

    def submit(self, entry: Entry, *, first: bool = False) -> None:
        """Take an entry into the next batch; `kick` sends it.

        With `first` it is in front of all that gathers: nothing of its streams does.
        """
        if first:
            self._gathered.appendleft(entry)
        else:
            self._gathered.append(entry)
        self._gathered_events += entry.events
        self._gathered_bytes += entry.size
        if (
            self._gathered_events >= self._limits.batch_events
            or self._gathered_bytes >= self._limits.batch_bytes
        ):
            self.has_room = False

    def call_between(self, call: Callable[[], None]) -> None:
        """Have something called once when the batch in flight is settled, before the next one goes.

        Whoever decides then, and submits it as the first, has seen all that comes before it. One is
        called before each batch, so that two of them do not come in each other's way.
        """
        assert self.in_flight
        self._between.append(call)

    def kick(self) -> None:
        """Let the gathered entries go as soon as no batch is in flight."""
        if self._gathered:
            self._wake.set()

    async def run(self) -> None:
        """Commit batches until cancelled; raise what ended the store."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._gathered or self._between:
                if self._between:
                    self._between.popleft()()
                if self._gathered and self._turn is not None:
                    await self._turn()
                if not self._gathered:
                    continue
                self.in_flight = True
                try:
                    await self._commit(self._next_batch())
                finally:
                    self.in_flight = False

    def _next_batch(self) -> list[Entry]:
        entries: list[Entry] = []
        events = size = left_events = left_bytes = 0
        while self._gathered:
            entry = self._gathered[0]
            events += entry.events
            size += entry.size
            if entries and (events > self._limits.batch_events or size > self._limits.batch_bytes):
                break
            self._gathered.popleft().is_sent = True
            entries.append(entry)
            left_events, left_bytes = events, size
        self._left(left_events, left_bytes)
        assert self._gathered or self._gathered_events == self._gathered_bytes == 0
        return entries

    def _left(self, events: int, size: int) -> None:
        """Count entries out of what gathers; there is room again."""
        self._gathered_events -= events
        self._gathered_bytes -= size
        if not self.has_room and not self._lost:
            self.has_room = True
            self._room_again()

    async def _commit(self, entries: list[Entry]) -> None:
        failpoint = self._failpoint
        if failpoint is not None:
            failpoint("journal.gathered")
        try:
            committed = await self._append(entries)
        except StoreFailed as failure:
            if failure.written is not False:
                self._lose(entries, failure)
                raise
            self._void_batch(entries, failure)
            if failure.stopped:
                self._end()
                raise
            return
        except BaseException as failure:
            self._lose(entries, failure)
            raise
        try:
            if failpoint is not None:
                failpoint("journal.durable")
            self._settle(entries, committed)
        except BaseException as failure:  # also where it says that something was not written
            self._lose(entries, failure)
            raise
        if failpoint is not None:
            failpoint("journal.answered")
        if committed.events:
            self._publish(committed.events)

    async def _append(self, entries: list[Entry]) -> Committed:
        requests, watch = [entry.request() for entry in entries], self._watch
        seen = None if watch is None else watch.begin(_commit_began(entries))
        begin = self._stopwatch()
        try:
            if self._before is not None:
                await self._before(requests)
            committed = await self._store.append(Batch(requests, self.time.now()))
        except BaseException as error:
            if watch is not None:
                watch.end(seen, error)
            raise
        seconds = self._stopwatch() - begin
        self._commit_seconds.record(seconds)
        if watch is not None:
            last = committed.events[-1].position if committed.events else self.position
            count = len(committed.events)
            watch.end(seen, committed_events=count, position=last, seconds=seconds)
        return committed

    def _settle(self, entries: list[Entry], committed: Committed) -> None:
        size = 0
        extras: list[Extra] = []
        assert len(committed.outcomes) == len(entries), "the store owes one outcome per request"
        if self._tagged is not None:
            self._look_for_others(committed)
        for entry, outcome in zip(entries, committed.outcomes, strict=True):
            if self._tagged is not None and isinstance(outcome, Appended):
                end = outcome.position - committed.events[0].position + 1
                self._tagged.deliver(entry, committed.events[end - entry.events : end])
            if isinstance(outcome, Appended) and entry.parties:
                self._settle_joint(entry, outcome, committed.events)
                size += entry.size
                extras += entry.extras
            elif isinstance(outcome, Appended):
                # Paired with the store's rule that a failed stream's tail fails: an entry that
                # was decided on voided state must never be found in the log.
                assert entry.incarnation == entry.owner.incarnation, "a void decision was stored"
                assert outcome.versions == (entry.version,)
                self._answer(entry, outcome.position)
                size += entry.size
                extras += entry.extras
                if entry.frozen is not None:
                    last = committed.events[outcome.position - committed.events[0].position]
                    entry.owner.seal(entry.frozen, last)
            elif isinstance(outcome, ClaimTaken | TimerGone):
                self._answer_refused(entry, outcome)
            elif isinstance(outcome, StreamConflict):
                conflict = Conflict(outcome.stream, outcome.expected, outcome.actual)
                self._answer_conflict(entry, conflict)
            else:
                self._answer_conflict(entry, Voided(tags_moved(entry.owner.stream)))
        self._commits += 1
        self._bytes += size
        self._batch_events.record(len(committed.events))
        if extras:
            self._kept(extras, committed.timers)
        if committed.events:
            # Not "the next one": where a store has other writers, theirs lie between.
            assert committed.events[0].position > self.position, "positions only grow"
            self.position = committed.events[-1].position
            self._events += len(committed.events)

    def _look_for_others(self, committed: Committed) -> None:
        """Have boundaries read again where events lie between that nobody has brought to them."""
        assert self._tagged is not None
        events = committed.events
        if events and events[0].position != self.position + 1:
            self._tagged.forget()

    def _settle_joint(self, entry: Entry, outcome: Appended, events: Sequence[StoredEvent]) -> None:
        """Answer a joint decision, and let its actors go on."""
        if entry.record is not None:
            entry.record.position = outcome.position
        position = outcome.position - entry.events
        if entry.events:
            entry.end = outcome.position
        for part, version in zip((entry, *entry.others), outcome.versions, strict=True):
            assert part.incarnation == part.owner.incarnation, "a void decision was stored"
            assert version == part.version
            position += len(part.write.events)
            part.owner.settled(entry, position if part.write.events else part.owner.position)
            if part.frozen is not None:
                part.owner.seal(part.frozen, events[position - events[0].position])
        assert position == outcome.position
        mail = entry.mail
        if entry.error is not None:
            self._intake.refuse(mail, entry.error)
            return
        if not entry.events:
            position = max(entry.end, *[owner.position for owner in entry.owners])
        self._intake.answer(mail, joint_receipt(entry.parties, position, mail.reply))
        if len(entry.parties) > len(outcome.versions):
            _release(mail)  # for those without events

    def _answer(self, entry: Entry, position: int) -> None:
        owner = entry.owner
        if entry.record is not None:
            entry.record.position = position
        if not entry.events:
            position = owner.position
        owner.settled(entry, position)
        if entry.error is None:
            receipt = Receipt(owner.stream, entry.version, position, entry.mail.reply)
            self._intake.answer(entry.mail, receipt)
        else:
            self._intake.refuse(entry.mail, entry.error)
        for follower in entry.followers or ():
            if follower.error is not None:
                self._intake.refuse(follower.mail, follower.error)
                continue
            first = follower.repeated
            if first is not None:
                assert first.position, "a key is repeated after its first command is durable"
                receipt = first_receipt(owner.stream, first, follower.mail.reply)
                self._intake.repeat(follower.mail, receipt)
            else:
                receipt = Receipt(owner.stream, entry.version, position, follower.mail.reply)
                self._intake.answer(follower.mail, receipt)

    def _answer_refused(self, entry: Entry, outcome: ClaimTaken | TimerGone) -> None:
        """Refuse a command for what is beside its events; it alone was decided on that."""
        assert entry.incarnation == entry.owner.incarnation, "a void decision was judged"
        assert entry.followers is None, "nothing is decided on what may be refused"
        error: EngineError = Voided("the timer was cancelled or set anew, or has been fired.")
        if isinstance(outcome, ClaimTaken):
            claim = entry.mail.claims[outcome.extra]
            assert isinstance(claim, Claim), "what is released is not refused"
            error = claim.refusal()
        self._intake.refuse(entry.mail, error)
        _release(entry.mail)
        for owner in entry.owners:
            owner.voided()

    def _answer_conflict(self, entry: Entry, conflict: EngineError) -> None:
        owner = entry.owner
        voided = voided_by(self._shared, owner.stream)
        if entry.incarnation != owner.incarnation:
            self._void(entry, voided)
            return
        self._conflicts += 1
        joint = entry.mail.joint
        if joint is not None and joint.decide_again():
            return
        self._intake.refuse(entry.mail, conflict if self._shared is None or joint else voided)
        _release(entry.mail)
        self._void_followers(entry, voided)
        self._void_owners(entry.owners, voided.__cause__)

    def _void_batch(self, entries: list[Entry], failure: StoreFailed) -> None:
        """Answer a batch of which nothing was written, and all that was decided on it."""
        for entry in entries:
            error = Voided(
                f"the store could not write the batch of {entry.owner.stream}: "
                f"{str(failure).rstrip('.')}. Nothing was written; send again."
            )
            error.__cause__ = failure
            self._void(entry, error)
        self._void_owners([owner for entry in entries for owner in entry.owners], failure)

    def _void_owners(self, owners: Sequence[Owner], cause: BaseException | None) -> None:
        """Void what gathers of these actors, and what they have folded."""
        lost = dict.fromkeys(owners)
        for entry in self._gathered:
            if not lost.keys().isdisjoint(entry.owners):
                lost |= dict.fromkeys(entry.owners)
        self.void_gathered(lost, cause)
        for owner in lost:
            owner.voided()

    def void_joint(self, cause: BaseException) -> None:
        """Void the joint decisions that gather, as other members are there than they were for."""
        self._void_owners([o for e in self._gathered if e.parties for o in e.owners], cause)

    def void_gathered(self, owners: Container[Owner], cause: BaseException | None) -> None:
        """Void what gathers of these actors, and not of those that their streams have by now."""
        kept: deque[Entry] = deque()
        for entry in self._gathered:
            if not any(owner in owners for owner in entry.owners):
                kept.append(entry)
                continue
            self._left(entry.events, entry.size)
            error = Voided(decided_on_void(entry.owner.stream))
            error.__cause__ = cause
            self._void(entry, error)
        self._gathered = kept

    def _void(self, entry: Entry, error: EngineError) -> None:
        self._voided += 1
        self._intake.refuse(entry.mail, error)
        _release(entry.mail)
        self._void_followers(entry, error)

    def _void_followers(self, entry: Entry, error: EngineError) -> None:
        for follower in entry.followers or ():
            self._intake.refuse(follower.mail, error)

    def _lose(self, entries: Sequence[Entry], failure: BaseException) -> None:
        """Answer a batch whose outcome nobody knows, and what gathers behind it."""
        for entry in entries:
            unknown = outcome_unknown(entry, failure)
            voided = Voided(decided_on_void(entry.owner.stream))
            if entry.mail.open:
                self._intake.refuse(entry.mail, unknown)
            for follower in entry.followers or ():
                # What wrote nothing was certainly not run; a repeated key shares the doubt.
                if follower.mail.open:
                    self._intake.refuse(follower.mail, unknown if follower.repeated else voided)
        self._end()

    def _end(self) -> None:
        """Take nothing more, and answer what gathers."""
        # Until the engine has ended actors have turns; a decision on these events would follow an
        # entry that has had its answers, and never get its own.
        self._lost = True
        self.has_room = False
        self.abandon()

    def abandon(self) -> None:
        """Answer what gathers and will never be sent; the journal is at its end."""
        while self._gathered:
            entry = self._gathered.popleft()
            self._void(entry, Voided(decided_on_void(entry.owner.stream)))
        self._gathered_events = self._gathered_bytes = 0


def _commit_began(entries: Sequence[Entry]) -> CommitBegan:
    """Tell of a batch, and of its first commands what traces them."""
    headers = [entry.mail.envelope.headers for entry in entries[:LINKS_MAX]]
    return CommitBegan(
        events=sum(entry.events for entry in entries),
        commands=len(entries),
        bytes=sum(entry.size for entry in entries),
        headers=[{**given} for given in headers if given],
    )


def _release(mail: Mail) -> None:
    """Let the actors go on that stand still for a command with its answer."""
    if mail.joint is not None:
        mail.joint.release()
