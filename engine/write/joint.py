"""A joint decision at work: brings the actors of several aggregates together, and decides once.

Rules:
- It stands in all mailboxes from one step on, so that any two joint decisions are in the same order
  wherever they meet: none waits for one that waits for it. What was sent before it is run before.
- An actor whose turn comes stands still and takes nothing more until the outcome is known. It is
  there when nothing of it is undurable. When all are, the function decides, in the turn of one.
- So no other command is decided on events that may be refused, and a conflict, a claim that
  another aggregate holds, or a failure costs no command but its own.
- A conflict is decided anew, in front of what waits, a few times.
- Whatever answers the command (a deadline, a caller that leaves, an aggregate that cannot be read,
  the end of the engine) lets all go on.
- On boundaries it is decided as of the end of the log. It is stored if no event came behind that
  which one of them folds. Otherwise it is decided anew between two batches, and is the first of
  the next one: so nobody of this engine comes in between again.
- Its key is kept with its first event, and looked for in each of its aggregates.

It never awaits, and never touches a store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

from ..errors import Closed, EngineError, Voided
from ..model.joint import JointHandler, Share, shares_of
from ..model.messages import Receipt
from ..model.timers import SetTimers
from ..stores.contract.log import Write
from .actor import Actor
from .boundary import BoundaryActor, fold_into, parties_of
from .deliberation import Deliberation
from .encoding import encode_and_fold, failed, is_rejection, joint_metadatas, log_failure
from .entries import Entry, EntryPart, tags_moved
from .keys import KeyRecord
from .mailbox import Mail, too_late
from .proving import Refolds, decide_checked
from .replying import beside_of, first_receipt, joint_receipt, recall
from .sampling import Caught
from .shared import proof_of, standing, wrong_version
from .unpacking import timers_given

__all__ = ["Joint"]

_ATTEMPTS: Final = 5
"""How often one is decided, where each time a stream was not where it was read."""


class Joint:
    """One command, and the actors of all aggregates that it names."""

    __slots__ = (
        "_actors",
        "_attempts",
        "_boundaries",
        "_deliberation",
        "_handler",
        "_is_first",
        "_kind",
        "_seen",
        "_there",
        "begun",
        "mail",
        "turn",
    )

    def __init__(self, mail: Mail, actors: Sequence[Actor]) -> None:
        self.mail = mail
        self.turn: object | None = None
        self._actors = actors
        self._handler = cast("JointHandler", mail.handler)
        self._kind = actors[0].kind
        self._there = 0
        """How many of the actors stand still, with nothing undurable."""
        self.begun = False
        """Whether it is being decided, or was."""
        self._boundaries: Sequence[BoundaryActor] = ()
        if self._handler.has_boundary:
            self._boundaries = [a for a in actors if isinstance(a, BoundaryActor)]
        self._seen = 0
        """The end of the log as it is decided: the boundaries have all up to there."""
        self._attempts = 1
        self._is_first = False  # of its batch
        self._deliberation: Deliberation | None = None

    def post(self) -> None:
        """Accept the command; raise Overloaded if too many wait for one of its aggregates."""
        mail, actors = self.mail, self._actors
        free = True
        for actor in actors:
            if not actor.is_free:
                free = False
                actor.check_room()
        # As where one actor accepts: what may find no room on the caller's stack comes first, and
        # can be left undone.
        mail.joint = self
        if mail.seconds is not None:
            mail.due = self._kind.ports.clock.monotonic() + mail.seconds
            self._set_timer(mail.seconds)
        for actor in actors[:1] if free else actors:
            actor.go_on()
        self._kind.intake.accepted()
        mail.open = True
        if free:
            # Nothing is before it: all stand still at once, and it goes on in the first one's turn.
            self._there, self.turn = len(actors), actors[0]
            for actor in actors:
                actor.stand(self)
        else:
            for actor in actors:
                actor.put_in(mail)

    def _set_timer(self, seconds: float) -> None:
        loop = self.mail.answer.get_loop()
        self.mail.timer = loop.call_later(seconds, self._refuse_late)

    # -- until all are there ----------------------------------------------------------------

    def arrived(self, actor: Actor, *, in_turn: bool) -> None:
        """Note that one more of its actors stands still, with nothing undurable."""
        self._there += 1
        if self._there < len(self._actors):
            if self._there == 1 and not all(
                a is actor or a.is_next(self.mail) for a in self._actors
            ):
                # They wait for something else first, which may take long.
                self.mail.answer.add_done_callback(self._look_whether_wanted)
        elif in_turn:
            self._take()
        else:
            self.turn = actor
            actor.ask_turn()

    def _look_whether_wanted(self, answer: asyncio.Future[Receipt]) -> None:
        """Let all go on at once, where the caller leaves while they wait for each other."""
        if answer.cancelled() and self.mail.open and not self.begun:
            self._kind.intake.drop(self.mail)
            self.release()

    def _refuse_late(self) -> None:
        """Answer a command whose deadline has passed before all were there."""
        if self.mail.open and not self.begun:
            self._refuse(too_late(self.mail, self._streams(), "waited for its turn"))

    def release(self) -> None:
        """Let all that stand still go on: the command has its answer."""
        self._there, self.turn = 0, None
        for actor in self._actors:
            actor.leave(self)

    def give_up(self, error: EngineError) -> None:
        """Answer with an error, and let all that stand still go on."""
        deliberation, self._deliberation = self._deliberation, None
        if self.mail.open:
            self._kind.intake.refuse(self.mail, error)
        if deliberation is None:
            self.release()
            return
        deliberation.drop()
        self._distrust()

    def decide_again(self) -> bool:
        """Have it decided anew, as a stream was not where it was read; give whether it will be."""
        shared = self._kind.shared
        if self._attempts >= (_ATTEMPTS if shared is None else shared.attempts):
            return False
        self._attempts += 1
        self.begun, self._there, self.turn = False, 0, None
        for actor in self._actors:
            # All stand still for it, so it is in front of everything else in each mailbox.
            actor.put_back(self.mail)
        for actor in self._actors:
            actor.voided()
        if self.mail.seconds is not None:
            self._set_timer(max(0.0, self.mail.due - self._kind.ports.clock.monotonic()))
        return True

    # -- deciding ---------------------------------------------------------------------------

    def take_turn(self) -> None:
        """Go on, in the turn of one of its actors."""
        self.turn = None
        try:
            if self._deliberation is not None:
                self._conclude()
            else:
                self._take()
        except BaseException:
            if self.mail.open:
                self.give_up(Closed("the engine was interrupted: not run"))
            raise

    def _take(self) -> None:
        """Decide, as all are there."""
        mail = self.mail
        mail.claims, mail.wrote = (), False
        if mail.answer.done():
            self._kind.intake.drop(mail)
            self.release()
            return
        if mail.timer is not None:
            mail.timer.cancel()
            if self._is_late():
                self._refuse_late()
                return
        journal = self._kind.journal
        self._is_first = self._attempts > 1 and bool(self._boundaries)
        if self._is_first and journal.in_flight:
            journal.call_between(self._go_on_between)
            return
        self.begun = True
        self._seen = journal.position
        if self._is_behind():
            return
        envelope = mail.envelope
        if envelope.key is not None and self._answer_repeat(envelope.key):
            return
        if envelope.expected is not None:
            wrong = wrong_version(self._actors, cast("Mapping[str, int]", envelope.expected))
            if wrong is not None:
                self._tell(wrong)
                return
        if self._handler.is_async:
            self._deliberate()
            return
        try:
            returned = self._decide()
        except BaseException as error:
            self._decline(error)
        else:
            self._accept(returned)

    def _go_on_between(self) -> None:
        """Decide behind a batch, unless the command has its answer by now."""
        if self.mail.open and self._there == len(self._actors) and not self.begun:
            self.take_turn()

    def _is_behind(self) -> bool:
        """Tell whether a boundary must be read again first, and have that done."""
        for boundary in self._boundaries:
            if boundary.is_behind:
                break
        else:
            return False
        if not self.decide_again():
            self._refuse(Voided(tags_moved(self._streams())))
        return True

    def _is_late(self) -> bool:
        mail = self.mail
        return mail.seconds is not None and self._kind.ports.clock.monotonic() >= mail.due

    def _streams(self) -> str:
        return ", ".join(actor.stream for actor in self._actors)

    def _answer_repeat(self, key: str) -> bool:
        """Answer a key that is in a window of one of the aggregates; give whether it was."""
        for actor in self._actors:
            record = actor.recalled(key)
            if record is None:
                continue
            error = recall(self.mail, key, actor.stream, record)
            if error is not None:
                self._refuse(error)
                return True
            assert record.position, "nothing is undurable, so the first command is not either"
            receipt = first_receipt(actor.stream, record, self.mail.reply)
            self._kind.intake.repeat(self.mail, receipt)
            self.release()
            return True
        return False

    def _decide(self) -> Any:
        """Run the function; an async one gives its awaitable."""
        handler, kind, command = self._handler, self._kind, self.mail.envelope.command
        states = [actor.state for actor in self._actors]
        arguments = states if handler.is_plain else handler.states(command, states)
        if handler.takes:
            given = handler.arguments(lambda: kind.context(self.mail), kind.resources)
            arguments = [*arguments, *given]
        decide = partial(handler.decide, command, *arguments)
        samples = kind.samples if kind.samples.take(handler.command) else None
        return decide_checked(handler, states, decide, samples, debug=kind.debug)

    def _deliberate(self) -> None:
        """Let an async function decide, in a task of its own."""
        kind, mail = self._kind, self.mail
        clock = kind.ports.clock
        seconds = float(kind.limits.handler_seconds)
        if mail.seconds is not None:
            seconds = min(seconds, mail.due - clock.monotonic())
        full = kind.deliberations.full
        if full is not None:
            self._refuse(full)
            return
        deliberation = self._deliberation = Deliberation(mail, clock, kind.intake)
        try:
            task = deliberation.begin(self._decide, seconds, self._ask_turn, self._ran_out)
        except BaseException as error:  # of the host's task factory
            self._deliberation = None
            self._fail(error)
        else:
            kind.deliberations.hold(task)

    def _ask_turn(self) -> None:
        self.turn = actor = self._actors[0]
        actor.ask_turn()

    def _ran_out(self) -> None:
        deliberation, self._deliberation = self._deliberation, None
        assert deliberation is not None
        ran_out = deliberation.ran_out
        why = f"ran {deliberation.seconds:g} s" if ran_out else "was decided too slowly"
        self._fail(too_late(self.mail, self._streams(), why))

    def _conclude(self) -> None:
        deliberation, self._deliberation = self._deliberation, None
        assert deliberation is not None
        deliberation.take()
        if deliberation.error is not None:
            self._decline(deliberation.error)
        else:
            self._accept(deliberation.returned)

    # -- outcomes ---------------------------------------------------------------------------

    def _accept(self, returned: Any) -> None:
        """Take what the function returned."""
        mail = self.mail
        if mail.seconds is not None and self._is_late():
            self._fail(too_late(mail, self._streams(), "was decided too slowly"))
            return
        states = [actor.state for actor in self._actors]
        try:
            found = shares_of(self._handler, states, returned, self._kind.limits)
        except BaseException as error:
            self._fail(error)
            return
        shares, mail.reply, mail.kept = found
        if shares:
            self._record(shares)
            return
        self._tell(None)

    def _tell(self, error: EngineError | None) -> None:
        """Answer with what wrote nothing: a refusal, or a receipt."""
        mail, actors = self.mail, self._actors
        parties = [(actor.stream, actor.shown_version, 0) for actor in actors]
        # Where all that it was decided on lies before: who reads at it sees that.
        end = max([boundary.read_at for boundary in self._boundaries], default=0)
        if self._kind.shared is not None:
            entry = proof_of(actors, mail, error, parties)
            entry.end = end
            self._put_conditions(entry, [0] * len(actors))
            for actor in actors:
                actor.share(entry, actor.version)
            self._kind.journal.submit(entry)
            return
        if error is not None:
            self._refuse(error)
            return
        position = max([end, *[actor.position for actor in actors]])
        self._kind.intake.answer(mail, joint_receipt(parties, position, mail.reply))
        self.release()

    def _decline(self, error: BaseException) -> None:
        """Take what the function raised: only here is Rejected the domain's answer."""
        if is_rejection(error):
            BaseException.with_traceback(error, None)
            self._tell(error)
        elif isinstance(error, Caught):
            self._fail(error.failure)
        else:
            self._fail(error, is_foreign=not self._kind.debug)

    def _refuse(self, error: EngineError) -> None:
        self._kind.intake.refuse(self.mail, error)
        self.release()

    def _fail(self, cause: BaseException, *, is_foreign: bool = False) -> None:
        """Answer a command that the host's code could not handle; trust none of the states."""
        error = failed(self.mail, self._streams(), cause, is_foreign=is_foreign)
        self._kind.intake.refuse(self.mail, error)
        self._distrust()
        log_failure(self._kind.logger, error)

    def _distrust(self) -> None:
        """Let all that stand still load again, as the host's code may have changed their states."""
        self._there, self.turn = 0, None
        for actor in self._actors:
            actor.distrust()

    def _record(self, shares: Sequence[Share]) -> None:
        """Encode, fold what was encoded, hand on."""
        failpoint, shared = self._kind.failpoint, self._kind.shared
        if failpoint is not None:
            failpoint("actor.decided")
        lacking = None if shared is None else shared.refusal(self._streams())
        if lacking is not None:
            self._refuse(lacking)
            return
        counts = [0] * len(self._actors)
        is_beside = self.mail.fired is not None or self.mail.led > 0
        for share in shares:
            counts[share.place] = len(share.events)
            is_beside = is_beside or bool(share.claims) or share.has_timers
        timers: Sequence[SetTimers | None] = [None] * len(shares)
        try:
            parties = parties_of(self._actors, shares, counts)
            if is_beside:
                timers = [self._timers_of(share) for share in shares]
            parts, size = self._parts(shares, parties, timers)
        except BaseException as error:  # Rejected too: an applier decides nothing
            self._fail(error)
            return
        if failpoint is not None:
            failpoint("actor.folded")
        entry = self._entry(shares, parts, size, parties)
        if is_beside:
            streams = [self._actors[share.place].stream for share in shares]
            first = self._actors[0].stream
            entry.extras = beside_of(self.mail, shares, streams, timers, first)
        if self._boundaries:
            self._put_conditions(entry, counts)
        self._kind.journal.submit(entry, first=self._is_first and not self._handler.is_async)

    def _timers_of(self, share: Share) -> SetTimers | None:
        if not share.has_timers:
            return None
        actor = self._actors[share.place]
        return timers_given(actor.kind, self.mail, share, actor.version, has_events=True)

    def _put_conditions(self, entry: Entry, counts: Sequence[int]) -> None:
        """Let the events be stored only if no boundary has got another one meanwhile."""
        seen, stream = self._seen, entry.owner.stream
        entry.conditions = [boundary.condition(seen, stream) for boundary in self._boundaries]
        if len(self._actors) > len(entry.others) + 1:
            pairs = zip(self._actors, counts, strict=True)
            entry.readers = [a for a, n in pairs if not n and isinstance(a, BoundaryActor)]

    def _parts(
        self,
        shares: Sequence[Share],
        parties: tuple[tuple[str, int, int], ...],
        timers: Sequence[SetTimers | None],
    ) -> tuple[list[EntryPart], int]:
        """Bring the actors to where the events bring them; give these as bytes, and how many."""
        mail = self.mail
        parts, size = list[EntryPart](), 0
        for boundary in self._boundaries:
            boundary.keep()
        refolds = None
        if self._boundaries and self._kind.debug:
            refolds = Refolds([actor.state for actor in self._actors])
        every = joint_metadatas(self._kind.registry, mail, shares, parties, timers)
        for share, metadatas in zip(shares, every, strict=True):
            actor, events = self._actors[share.place], share.events
            kind, before = actor.kind, actor.version
            into = fold_into(actor, self._boundaries, refolds) if self._boundaries else None
            datas, bytes_ = encode_and_fold(
                kind, actor.state, before, mail, events, metadatas, into
            )
            size += bytes_
            version = actor.version = before + len(datas)
            write = Write(actor.stream, before, datas)
            parts.append(EntryPart(actor, actor.incarnation, write, version, None))
        if self._kind.shared is not None:
            places = {share.place for share in shares}
            parts += standing(a for n, a in enumerate(self._actors) if n not in places)
        if refolds is not None:
            refolds.compare()
        return parts, size

    def _entry(
        self,
        shares: Sequence[Share],
        parts: list[EntryPart],
        size: int,
        parties: tuple[tuple[str, int, int], ...],
    ) -> Entry:
        """Give what the journal takes, and let the actors wait for it."""
        mail = self.mail
        first = parts[0]
        count = sum([party[2] for party in parties])
        place = first.owner, first.incarnation, first.write, first.version
        entry = parts[0] = Entry(*place, None, mail, size, count, None, parts[1:], parties)
        key = mail.envelope.key
        if key is not None:
            assert mail.fingerprint is not None
            begin, version = first.write.expected + 1, first.version
            record = KeyRecord(mail.fingerprint, begin, version, 0, mail.kept, parties)
            first_of_all = self._actors[shares[0].place]
            first_of_all.remember(key, record, is_sealed=mail.sealed is not None)
            entry.record = record
        for part in parts:
            part.frozen = cast("Actor", part.owner).share(entry, part.write.expected)
        return entry
