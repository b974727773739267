"""One aggregate at work: takes its commands one at a time, decides, folds, hands on to the journal.

Rules:
- It does not wait for the disk: command n+1 is decided on the undurable state that n left.
- It folds a decoded copy of the bytes that it hands on, so that nothing is shared with the caller,
  and what cannot be decoded or folded is never written.
- A refusal, an empty result or a repeated key that was decided on undurable events follows the
  last of them; decided on durable state, it is answered at once.
- While an async handler decides, it takes nothing more; the outcome waits for a turn of its own.
- Behind a command that claims a value, or of a timer, it takes nothing until that is settled.
- In a joint decision it stands still, from its turn until the outcome, and decides nothing itself.
  It counts as there when nothing of it is undurable.
- Rejected is an answer only where a handler raises it. After any other exception of the host's
  code, whatever its class and whether a handler, a decoder or an applier raised it, and after a
  deadline that passed while its handler ran, it takes nothing more, waits for what is in flight,
  drops its state and loads again. When its undurable events are voided it does so at once.

It never awaits, and never touches a store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..errors import Closed, EngineError, WrongVersion
from ..model.messages import Event, Receipt
from ..model.returned import as_events
from ..model.stored import StoredEvent
from ..stores.contract.log import Write
from .deliberation import Deliberation
from .encoding import encode_and_fold, failed, is_rejection, log_failure
from .entries import Entry, Follower
from .keys import KeyRecord
from .mailbox import Mail, take, too_late
from .phase import CLAIMING, DECIDING, JOINT, LIVE, SETTLING
from .proving import decide_checked
from .replying import extras_of, first_receipt, recall, timers_of
from .resident import Resident
from .sampling import Caught
from .shared import proof_of, voided_by
from .snapshot import Frozen
from .unpacking import unpack

__all__ = ["Actor"]


class Actor(Resident):
    """One resident aggregate, which decides."""

    __slots__ = ()

    # -- what the journal says --------------------------------------------------------------

    def settled(self, entry: Entry, position: int) -> None:
        """Note that an entry is durable."""
        self.position = position
        if self._tail is not entry:
            return
        self._tail = None
        if self.phase is SETTLING:
            self._reload()
        elif self.phase is CLAIMING:
            self._be_live()
        elif self._joint is not None:
            self._joint.arrived(self, in_turn=False)

    def seal(self, frozen: Frozen, event: StoredEvent) -> None:
        """Keep a snapshot whose version is durable."""
        assert self.kind.freezer is not None
        self.kind.freezer.seal(frozen, event)

    def voided(self) -> None:
        """Drop a state that will never be durable, and load the true one if anybody waits."""
        self.incarnation += 1
        self._tail = None
        self._drop_deliberation(voided_by(self.kind.shared, self.stream))
        if self._joint is not None:
            self.put_back(self._joint.mail)
        self._reload()

    # -- deciding ---------------------------------------------------------------------------

    def work(self, commands_max: int) -> int:
        """Handle waiting commands, at most so many; give how many."""
        done = 0
        journal = self.kind.journal
        # What the last command did is looked at before each: its events may have filled the
        # journal, its handler may be async, or have failed, and then the phase is another one.
        while done < commands_max and journal.has_room:
            if self._waiting is not None and self.phase is LIVE:
                # Out of the mailbox first: whatever it raises, its turn is over.
                mail, self._waiting = take(self._waiting)
                if self._still_wanted(mail):
                    try:
                        self._handle(mail)
                    except BaseException:
                        self._interrupted(mail)
                        raise
            elif self.phase is DECIDING and self.wants_turn:
                self._conclude()  # what waits goes on behind it, in this same turn
            elif self.phase is JOINT and self.wants_turn:
                assert self._joint is not None
                self._joint.take_turn()
            else:
                break
            done += 1
        return done

    def _still_wanted(self, mail: Mail) -> bool:
        """Tell whether a command that comes to its turn is to be run."""
        if not mail.open:
            return False
        if mail.answer.done():
            # The caller was cancelled before its command was run: then it is not run.
            self.kind.intake.drop(mail)
            if mail.joint is not None:
                mail.joint.release()
            return False
        if mail.timer is not None:
            if mail.joint is None:
                mail.timer.cancel()
            if self._is_late(mail):
                # A busy loop comes late to its timers.
                self._refuse_late(mail)
                return False
        return True

    def _is_late(self, mail: Mail) -> bool:
        return self.kind.ports.clock.monotonic() >= mail.due

    def _interrupted(self, mail: Mail) -> None:
        """Answer where the process or the engine is ended: nothing was handed to the journal."""
        if mail.open:
            self.kind.intake.refuse(mail, Closed("the engine was interrupted: not run"))

    def _handle(self, mail: Mail) -> None:
        if self.kind.failpoint is not None:
            self.kind.failpoint("actor.taken")
        if mail.joint is not None:
            self._stand_still(mail)
            return
        envelope = mail.envelope
        if envelope.key is not None and self._answer_repeat(mail, envelope.key):
            return
        expected = envelope.expected
        if expected is not None and expected != self.version:
            assert not isinstance(expected, Mapping), "only joint decisions have one each"
            self._tell(mail, WrongVersion(self.stream, expected, self.version))
            return
        if mail.handler.is_async:
            self._deliberate(mail)
            return
        try:
            returned = self._decide(mail)
        except BaseException as error:
            self._decline(mail, error)
        else:
            self._accept(mail, returned)

    def _decide(self, mail: Mail) -> Any:
        """Run the handler; an async one gives its awaitable."""
        kind, handler, state, command = self.kind, mail.handler, self.state, mail.envelope.command
        samples = kind.samples if kind.samples.take(handler.command) else None
        if not handler.takes and not kind.debug and samples is None:
            return handler.decide(state, command)
        arguments = handler.arguments(lambda: kind.context(mail), kind.resources)
        decide = partial(handler.decide, state, command, *arguments)
        return decide_checked(handler, [state], decide, samples, debug=kind.debug)

    def _accept(self, mail: Mail, returned: Any) -> None:
        """Take what a handler returned."""
        if mail.seconds is not None and self._is_late(mail):
            self._fail(mail, too_late(mail, self.stream, "was decided too slowly"))
            return
        try:
            if mail.handler.gives_decisions:
                returned = unpack(self.kind, mail, returned, self.version)
            events = as_events(mail.handler, returned)
        except BaseException as error:
            self._fail(mail, error)
            return
        if events:
            self._record(mail, events)
        else:
            self._tell(mail)

    def _decline(self, mail: Mail, error: BaseException) -> None:
        """Take what a handler raised: only here is Rejected the domain's answer."""
        if is_rejection(error):
            # Not the error's own method, which may be the host's.
            BaseException.with_traceback(error, None)
            self._tell(mail, error)
        elif isinstance(error, Caught):
            self._fail(mail, error.failure)
        else:
            # In debug mode it may be the engine's own, which has looked at what the handler did.
            self._fail(mail, error, is_foreign=not self.kind.debug)

    # -- async handlers ---------------------------------------------------------------------

    def _deliberate(self, mail: Mail) -> None:
        """Let an async handler decide; nothing else is taken until it has."""
        clock = self.kind.ports.clock
        seconds = float(self.kind.limits.handler_seconds)
        if mail.seconds is not None:
            seconds = min(seconds, mail.due - clock.monotonic())
        full = self.kind.deliberations.full
        if full is not None:
            self._tell(mail, full)
            return
        deliberation = Deliberation(mail, clock, self.kind.intake)
        self._deliberation = deliberation
        self.phase = DECIDING
        try:
            task = deliberation.begin(
                lambda: self._decide(mail), seconds, self.ask_turn, self._ran_out
            )
        except BaseException as error:  # of the host's task factory
            self._deliberation, self.phase = None, LIVE
            self._fail(mail, error)
        else:
            self.kind.deliberations.hold(task)

    def _conclude(self) -> None:
        """Take the outcome of an async handler, and go on."""
        deliberation, self._deliberation = self._deliberation, None
        assert deliberation is not None
        deliberation.take()
        self.phase = LIVE
        mail = deliberation.mail
        try:
            if deliberation.error is not None:
                self._decline(mail, deliberation.error)
            else:
                self._accept(mail, deliberation.returned)
        except BaseException:
            self._interrupted(mail)
            raise

    def _ran_out(self) -> None:
        """Answer for an async handler that takes too long, and trust the state no more."""
        deliberation, self._deliberation = self._deliberation, None
        assert deliberation is not None
        ran_out = deliberation.ran_out
        why = f"ran {deliberation.seconds:g} s" if ran_out else "was decided too slowly"
        self._fail(deliberation.mail, too_late(deliberation.mail, self.stream, why))

    def _record(self, mail: Mail, events: Sequence[Event]) -> None:
        """Encode, fold what was encoded, hand on."""
        if self.kind.failpoint is not None:
            self.kind.failpoint("actor.decided")
        expected = self.version
        try:
            datas, size = encode_and_fold(self.kind, self.state, expected, mail, events)
        except BaseException as error:  # Rejected too: an applier decides nothing
            self._fail(mail, error)
            return
        self.version = expected + len(datas)
        if self.kind.failpoint is not None:
            self.kind.failpoint("actor.folded")
        write, version, count = Write(self.stream, expected, datas), self.version, len(datas)
        key, record = mail.envelope.key, None
        if key is not None:
            assert mail.fingerprint is not None
            record = KeyRecord(mail.fingerprint, expected + 1, version, 0, mail.kept)
            self.remember(key, record)
        frozen = self._frozen(expected)
        entry = Entry(self, self.incarnation, write, version, frozen, mail, size, count, record)
        if mail.claims or mail.timers is not None or mail.fired is not None or mail.led:
            entry.extras = [*extras_of(mail.claims, self.stream), *timers_of(mail, self.stream)]
            if mail.claims or mail.fired is not None:
                self.phase = CLAIMING
        self._tail = entry
        self.kind.journal.submit(entry)

    def _frozen(self, before: int) -> Frozen | None:
        """Give the state as it is kept, if a snapshot is due behind version `before`."""
        freezer = self.kind.freezer
        if freezer is None or not freezer.is_due(before, self.version):
            return None
        return freezer.freeze(self.state, self._keys)

    # -- joint decisions --------------------------------------------------------------------

    def _stand_still(self, mail: Mail) -> None:
        """Take a command that several aggregates decide: nothing more is taken until its outcome.

        Behind undurable events it is not there yet: they may be voided.
        """
        joint = mail.joint
        assert joint is not None
        self.stand(joint)
        if self._tail is None:
            joint.arrived(self, in_turn=True)

    def share(self, entry: Entry, before: int) -> Frozen | None:
        """Have a part in a joint decision's entry, from version `before` on, and wait for it."""
        self._joint = None
        self.phase = CLAIMING
        self._tail = entry
        return self._frozen(before)

    # -- answers that write nothing ---------------------------------------------------------

    def _answer_repeat(self, mail: Mail, key: str) -> bool:
        """Answer a key that is in the window; give whether it was."""
        record = self.recalled(key)
        if record is None:
            return False
        error = recall(mail, key, self.stream, record)
        if error is not None:
            self._tell(mail, error)
        elif self._tail is not None:
            self._tail.follow(Follower(mail, repeated=record))
        else:
            assert record.position, "nothing is undurable, so the first command is not either"
            self.kind.intake.repeat(mail, first_receipt(self.stream, record, mail.reply))
        return True

    def _tell(self, mail: Mail, error: EngineError | None = None) -> None:
        tail, shared = self._tail, self.kind.shared
        if tail is not None and (shared is None or not tail.is_sent):
            tail.follow(Follower(mail, error))
        elif shared is not None:
            self._tail = proof_of([self], mail, error)
            self.kind.journal.submit(self._tail)
        elif error is not None:
            self.kind.intake.refuse(mail, error)
        else:
            receipt = Receipt(self.stream, self.version, self.position, mail.reply)
            self.kind.intake.answer(mail, receipt)

    def _fail(self, mail: Mail, cause: BaseException, *, is_foreign: bool = False) -> None:
        """Answer a command that the aggregate's code could not handle; trust its state no more."""
        error = failed(mail, self.stream, cause, is_foreign=is_foreign)
        # "Not run" is true whatever becomes of the events before it, so it leaves at once.
        self.kind.intake.refuse(mail, error)
        self.distrust()
        log_failure(self.kind.logger, error)
