"""An aggregate that lives in memory: its mailbox, its turn, how it loads, stands still and leaves.

Rules:
- A command is accepted whole or not at all, also where the caller's stack has no room left.
- It loads when a command comes and it is cold, and leaves memory only at rest.
- Who stands still for a joint decision, or distrusts its state, takes nothing from its mailbox.

It decides nothing and folds nothing new; `Actor` does. It never awaits, and never touches a store.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

from ..errors import EngineError, Overloaded, Rejected, StoreFailed, StreamUnreadable
from ..model.footprint import footprint
from ..model.stored import StoredEvent
from ..runtime.safely import described
from .deliberation import Deliberation
from .encoding import not_now
from .entries import Entry
from .folded import Folded
from .kind import Kind
from .mailbox import Mail, Together, Waiting, count, take, too_late
from .phase import COLD, DECIDING, JOINT, LIVE, LOADING, SETTLING, Phase

__all__ = ["Resident"]


class Resident(Folded):
    """What an actor is apart from its decisions."""

    __slots__ = (
        "_deliberation",
        "_joint",
        "_tail",
        "_waiting",
        "idle",
        "incarnation",
        "phase",
        "queued",
        "used",
    )

    def __init__(self, kind: Kind[Any], stream: str, id: str) -> None:  # noqa: A002 - the domain's word
        super().__init__(kind, stream, id)
        self.phase: Phase = COLD
        self.incarnation: int = 0
        self.queued = False
        """Whether it stands in the dispatcher's queue."""
        self.used = True
        """Whether it had a command since the directory last looked for one to let go."""
        self.idle = 0
        """How often the directory has looked for idle ones since its last command."""
        self._waiting: Waiting = None
        self._deliberation: Deliberation | None = None
        self._joint: Together | None = None
        """For whom it stands still."""
        self._tail: Entry | None = None
        """The last undurable entry."""

    # -- the mailbox ------------------------------------------------------------------------

    @property
    def wants_turn(self) -> bool:
        """Whether there is something that it could do now."""
        if self.phase is DECIDING:
            assert self._deliberation is not None
            return self._deliberation.ended
        if self.phase is JOINT:
            assert self._joint is not None
            return self._joint.turn is self
        return self._waiting is not None and self.phase is LIVE

    @property
    def at_rest(self) -> bool:
        """Whether it can leave memory: nothing waits, nothing is undurable, nothing is loading."""
        return (
            self._waiting is None
            and self._tail is None
            and not self.queued
            and (self.phase is LIVE or self.phase is COLD)
        )

    @property
    def waiting(self) -> int:
        """How many commands wait for it."""
        return 0 if self._waiting is None else count(self._waiting)

    def check_room(self) -> None:
        """Raise Overloaded if too many commands wait already."""
        if self.waiting >= self.kind.limits.mailbox_commands:
            self.kind.intake.overloaded += 1
            raise Overloaded(
                f"{self.waiting} commands wait for {self.stream}, as many as "
                f"Limits.mailbox_commands allows. Nothing was run; send again after a pause."
            )

    def post(self, mail: Mail) -> None:
        """Accept a command; raise Overloaded if too many wait already."""
        waiting = self._waiting
        if waiting is not None:
            self.check_room()
        # The caller's stack may be nearly used up, and each call here may raise RecursionError. So
        # what takes calls inside each other comes first, and can be left undone; what follows takes
        # one call at a time, no deeper than what has been done.
        more: deque[Mail] | None = None
        if waiting is not None:
            more = deque((waiting, mail)) if isinstance(waiting, Mail) else waiting
        if mail.seconds is not None:
            mail.due = self.kind.ports.clock.monotonic() + mail.seconds
            loop = mail.answer.get_loop()
            mail.timer = loop.call_later(mail.seconds, self._refuse_late, mail)
        self.go_on()
        self.kind.intake.accepted()
        mail.open = True
        if more is None:
            self._waiting = mail
        else:
            if more is waiting:
                more.append(mail)
            self._waiting = more
        self.used = True
        self.idle = 0

    def go_on(self) -> None:
        """See that waiting commands come to their turn, also one that is about to be taken."""
        if self.phase is LIVE:
            self.ask_turn()
        elif self.phase is COLD:
            self.kind.residents.load(self)
            self.phase = LOADING

    def ask_turn(self) -> None:
        """Stand in the dispatcher's queue."""
        if not self.queued:
            self.kind.turns.ready(self)
            self.queued = True

    def refuse_waiting(self, error: EngineError) -> None:
        """Answer every command that waits, or is being decided, with an error."""
        self._drop_deliberation(error)
        if self._joint is not None:
            self._joint.give_up(error)
        while self._waiting is not None:
            mail, self._waiting = take(self._waiting)
            if mail.open:
                self._refuse_waiting(mail, error)
        if self.phase is DECIDING:
            self.distrust()

    def _refuse_late(self, mail: Mail) -> None:
        """Answer a command whose deadline has passed before its turn came."""
        if mail.open:
            self._refuse_waiting(mail, too_late(mail, self.stream, "waited for its turn"))

    def _refuse_waiting(self, mail: Mail, error: EngineError) -> None:
        self.kind.intake.refuse(mail, error)
        if mail.joint is not None:
            mail.joint.release()

    def _drop_deliberation(self, error: EngineError) -> None:
        deliberation, self._deliberation = self._deliberation, None
        if deliberation is not None:
            deliberation.drop()
            self.kind.intake.refuse(deliberation.mail, error)

    def footprint(self) -> int:
        """Estimate the bytes that it holds: itself, its state, its keys."""
        return sys.getsizeof(self) + sum(map(footprint, (self.stream, self.state, self._keys)))

    # -- loading ----------------------------------------------------------------------------

    def begin_load(self) -> None:
        """Start from nothing; `replay` and `loaded` follow.

        Raises what the aggregate's own class raises where it is made.
        """
        assert self.phase is LOADING
        assert self._tail is None, "an actor loads only when nothing of it is in flight"
        self._begin()

    def loaded(self, last: StoredEvent | None) -> None:
        """Take commands from now on; `last` is the event that was folded last, if one was."""
        assert self.phase is LOADING
        freezer = self.kind.freezer
        if freezer is not None and last is not None and freezer.is_due(0, self._replayed):
            # The next load shall not take as long.
            frozen = freezer.freeze(self.state, self._keys)
            if frozen is not None:
                freezer.seal(frozen, last)
        self._be_live()

    def _be_live(self) -> None:
        self.phase = LIVE
        if self._waiting is not None:
            self.go_on()

    def unreadable(self, cause: BaseException) -> None:
        """Answer what waits, and leave; the next command tries to load again."""
        error: EngineError
        if isinstance(cause, StoreFailed) and cause.passes:
            error = not_now(self.stream, cause)
        else:
            is_own = isinstance(cause, EngineError) and not isinstance(cause, Rejected)
            why = described(cause) if is_own else type(cause).__name__
            error = StreamUnreadable(f"{self.stream} cannot be loaded: {why}")
            error.__cause__ = cause
        self.kind.residents.forget(self)
        self.refuse_waiting(error)

    def _reload(self) -> None:
        self.phase = COLD
        if self._waiting is None:
            self.kind.residents.forget(self)
        else:
            self.go_on()

    # -- standing still ---------------------------------------------------------------------

    def stand(self, joint: Together) -> None:
        """Stand still for a joint decision."""
        self._joint = joint
        self.phase = JOINT
        self.used = True
        self.idle = 0

    @property
    def is_free(self) -> bool:
        """Whether it has nothing before a command that comes now: it could stand still at once."""
        return self._waiting is None and self.phase is LIVE and self._tail is None

    def put_in(self, mail: Mail) -> None:
        """Have a command behind those that wait; `check_room` and `go_on` come before it."""
        waiting = self._waiting
        if waiting is None:
            self._waiting = mail
        elif isinstance(waiting, deque):
            waiting.append(mail)
        else:
            self._waiting = deque((waiting, mail))
        self.used = True
        self.idle = 0

    def put_back(self, mail: Mail) -> None:
        """Stand still no more; take that command again before all others."""
        self._joint = None
        waiting = self._waiting
        rest = () if waiting is None else waiting if isinstance(waiting, deque) else (waiting,)
        self._waiting = deque((mail, *rest)) if rest else mail

    def leave(self, joint: Together) -> None:
        """Stand still no more, if it does so for that one; what waits goes on."""
        if self._joint is joint:
            self._joint = None
            self._be_live()

    def distrust(self) -> None:
        """Take nothing more, and load again when nothing of it is in flight."""
        self._joint = None
        if self._tail is None:
            self._reload()
        else:
            self.phase = SETTLING

    def is_next(self, mail: Mail) -> bool:
        """Whether it takes that command in its next turn, and is there then."""
        return self._waiting is mail and self.phase is LIVE and self._tail is None
