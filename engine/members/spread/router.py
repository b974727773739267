"""Finds who decides a command: this process's engine, another member, or nobody just now.

Rules: the view of the members says whose a slot is. This process decides for a slot that it gained
with a view only when all members act by that view: who had the slot before has dropped it then, or
is dead, and no answer of his can be older than what is decided here. What is not to be decided here
any more is dropped in the step in which a view is heeded. A command that was not run goes to the
owner that there is by then, and no caller sees that; one that may have been run and has no key is
unknown to its caller. Who was sent a command by another member never sends it on, and says that it
was not run: that one may have sent it elsewhere already, and of two copies on their way the answer
to one may be old. Commands wait for an owner only so long as the patience.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Final

import msgspec

from ...errors import Closed, EngineError, OutcomeUnknown, Overloaded, Voided
from ...limits import Limits
from ...model.messages import Command, Envelope, Receipt
from ...runtime.futures import retrieve
from ...statistics import OwnerStatistics, SpreadStatistics
from ...stores.contract.membership import SLOTS, Attending, View, ViewChanged, slot_of
from ...wiring import Wiring
from ...write.mailbox import Mail, Origin, Sent
from ..forms import CommandForms
from ..forwarding import PATIENCE_SECONDS, Forwarding
from ..patience import Patience
from ..readable import held_back
from ..sending import Check
from ..waiting import NOBODY, UNKNOWN, Waiting, run_here, settle
from .peer import Meets, Peer

__all__ = ["Router", "is_elsewhere"]

_SOON_SECONDS: Final = 0.01
"""Before a command is tried again that its owner has not taken."""
_LOOK_SECONDS: Final = 0.5
"""How often it is looked whose patience is over."""
_ELSEWHERE: Final = "the aggregate is another process's by now: the command was not run"
_SERVING: ContextVar[bool] = ContextVar("foldline_serving", default=False)
"""Whether what comes to this process's engine was sent by another member."""


def is_elsewhere(error: BaseException) -> bool:
    """Tell whether a command was not run only since another process may be the one to decide it."""
    return isinstance(error, ViewChanged) or isinstance(error.__cause__, ViewChanged)


class _Own(msgspec.Struct, eq=False):
    """The engine of this process, while it is a member."""

    wiring: Wiring
    attending: Attending
    patience: Patience


class Router:
    """The way of the commands of one process."""

    def __init__(
        self,
        check: Check,
        begin: Check,
        check_usable: Callable[[], asyncio.AbstractEventLoop],
        forms: CommandForms,
        limits: Limits,
        stream_of: Callable[[Command], str],
        meets: Meets,
        logger: logging.Logger,
        failpoint: Callable[[str], None] | None,
    ) -> None:
        """Take what checks a command, and what also begins to watch one that is sent on."""
        self._failpoint = failpoint
        self._check_usable = check_usable
        self._commands_max = limits.commands_accepted
        self._known = check, check_usable, forms, limits
        self._limbo = Forwarding(begin, *self._known[1:], astray=self._strayed, failpoint=failpoint)
        """What has no owner at this moment."""
        self._guests = self._forwarding()
        """Makes what other members have sent, whose telemetry has seen it."""
        self._stream_of = stream_of
        self._meets = meets
        self._patience_seconds = max(PATIENCE_SECONDS, meets.patience_seconds)
        self._logger = logger
        self._own: _Own | None = None
        self._view = View()
        self._owners: Sequence[int] = ()
        self._gained: dict[int, int] = {}
        """The slots of this process, and the view with which it gained each."""
        self._ready = bytearray(SLOTS)
        """Whether this process may decide for a slot."""
        self._peers: dict[int, Peer] = {}
        self._ended: set[asyncio.Task[None]] = set()
        self._is_leaving = True
        """Whether this process takes nothing to decide, whatever is its own."""
        self._is_over = False
        self._giving_up: asyncio.Task[None] | None = None
        self._served: set[asyncio.Future[Receipt]] = set()
        """Answers of this process's engine to commands of other members."""
        self.moved = 0
        """Commands that went another way than the first one."""
        self._forwarded = 0
        """Commands that were sent to members which have gone."""
        self._decided = 0
        """Commands that former engines of this process answered, less all that it handed on."""

    def _forwarding(self) -> Forwarding:
        return Forwarding(*self._known, astray=self._strayed, failpoint=self._failpoint)

    # -- what callers do ----------------------------------------------------------------------

    def send(self, envelope: Envelope, /) -> Sent:
        """Take a command; give the future of its answer. Raises as `Reception.send` does."""
        return self._send(envelope)

    def send_of_many(self, envelope: Envelope, /) -> Sent:
        """Do the same with a command of a stream, which waits behind those before it."""
        return self._send(envelope, is_patient=True)

    def send_from(self, envelope: Envelope, origin: Origin | None, /) -> Sent:
        """Do as `send` with what a timer or a reactor of this process has given, which leads.

        It goes one way alone: who gave it sends it again, as long as this process leads.
        """
        if self._own is None and not self._is_over:
            raise Voided("this process is no member at this moment: the command was not run")
        return self._send(envelope, origin=origin)

    def _send(
        self, envelope: Envelope, *, is_patient: bool = False, origin: Origin | None = None
    ) -> Sent:
        if self._is_over:
            raise Closed("this process is stopping: the command was not run")
        own = self._own
        if own is not None and self._is_ready(envelope.command):
            try:
                return own.wiring.reception.send_from(envelope, origin)
            except Closed:
                self._check_usable()  # this process goes, and nobody else is asked
        self._check_room()
        # What no caller has sent is shown to the telemetry of its owner alone.
        waiting = (self._limbo if origin is None else self._guests).made(envelope)
        waiting.is_patient, waiting.origin = is_patient, origin
        self._place(waiting)
        return waiting.answer

    def _check_room(self) -> None:
        count = sum(peer.forwarding.count for peer in self._peers.values())
        if count >= self._commands_max:
            raise Overloaded(
                f"{count} commands wait for the processes that own their aggregates, as many as "
                f"Limits.commands_accepted allows. Nothing was run; send again after a pause."
            )

    def _is_ready(self, command: Command) -> bool:
        try:
            return bool(self._ready[slot_of(self._stream_of(command))])
        except Exception:  # it is malformed: whoever checks it says how
            return False

    def serve(self, envelope: Envelope, origin: Origin | None = None, /) -> Sent:
        """Take the command of another member, if its slot is this one's; raise Closed."""
        own, slot = self._own, slot_of(self._stream_of(envelope.command))
        if own is None or self._is_leaving or slot not in self._gained:
            raise Closed(_ELSEWHERE)
        if self._ready[slot]:
            return self._decide_for_another(envelope, origin)
        waiting = self._guests.made(envelope)
        waiting.is_served, waiting.origin = True, origin
        self._place(waiting)
        return waiting.answer

    def _decide_for_another(self, envelope: Envelope, origin: Origin | None = None, /) -> Sent:
        """Let this process's engine decide what another member has sent."""
        assert self._own is not None
        token = _SERVING.set(True)
        try:
            sent = self._own.wiring.reception.send_from(envelope, origin)
        finally:
            _SERVING.reset(token)
        return self._note(sent) if isinstance(sent, asyncio.Future) else self._let_in(sent)

    async def _let_in(self, sent: Awaitable[asyncio.Future[Receipt]]) -> asyncio.Future[Receipt]:
        token = _SERVING.set(True)
        try:
            return self._note(await sent)
        finally:
            _SERVING.reset(token)

    def _note(self, answer: asyncio.Future[Receipt]) -> asyncio.Future[Receipt]:
        self._served.add(answer)
        answer.add_done_callback(self._served.discard)
        return answer

    # -- where commands go --------------------------------------------------------------------

    def _place(self, waiting: Waiting) -> None:
        """Send a command to its owner, or let it wait for one."""
        if waiting.answer.done():
            return
        slot = slot_of(self._stream_of(waiting.envelope.command))
        own = self._own
        # One that has failed is not disowned yet: what is this process's own waits for the next.
        runs = own is not None and (waiting.is_served or own.wiring.life.state == "running")
        if own is not None and runs and self._ready[slot]:
            send = own.wiring.reception.send_from
            if waiting.is_served:
                send = self._decide_for_another
            run_here(waiting, send, own.patience)
            return
        if waiting.is_served and slot not in self._gained:
            settle(waiting.answer, Closed(_ELSEWHERE))
            return
        peer = self._peers.get(self._owners[slot]) if self._owners else None
        if peer is not None and peer.forwarding.is_connected and not waiting.is_served:
            peer.forwarding.accept(waiting)
            return
        if waiting.since is None:
            waiting.since = asyncio.get_running_loop().time()
        self._limbo.accept(waiting)

    def place_all(self) -> None:
        """Try again what waits."""
        if self._is_over:
            return
        for waiting in self._limbo.take_all():
            self._place(waiting)

    def _strayed(self, waiting: Waiting) -> None:
        """Take back what a member has not run."""
        if waiting.origin is not None:
            unknown = waiting.is_in_doubt
            settle(waiting.answer, OutcomeUnknown(UNKNOWN) if unknown else Voided(_ELSEWHERE))
            return
        self.moved += 1
        if waiting.since is None:
            waiting.since = asyncio.get_running_loop().time()
        self._limbo.accept(waiting)
        if self._own is not None:
            self._own.attending.look()
        asyncio.get_running_loop().call_later(_SOON_SECONDS, self.place_all)

    def astray(self, mail: Mail, stream: str) -> bool:
        """Take over what comes to this process's engine and is not to be decided by it.

        Raises Closed where it cannot be sent on: nothing was run.
        """
        if self._ready[slot_of(stream)]:
            return False
        closed = Closed(_ELSEWHERE)
        is_given = mail.origin is not None
        if self._is_over or _SERVING.get() or is_given or not self._limbo.rescue(mail, closed):
            raise closed
        self.moved += 1
        asyncio.get_running_loop().call_soon(self.place_all)
        return True

    def rescue(self, mail: Mail, error: EngineError) -> bool:
        """Take over what this process's engine refuses, if another member can run it."""
        own = self._own
        if own is None or self._is_over or mail.answer in self._served:
            return False
        if mail.origin is not None:
            return False  # who gave it sends it again, as long as this process leads
        if not is_elsewhere(error) and not getattr(own.wiring.store, "is_succeeded", False):
            return False
        if not self._limbo.rescue(mail, error):
            return False
        self.moved += 1
        self._decided -= 1  # its engine has counted it as answered
        asyncio.get_running_loop().call_soon(self.place_all)
        return True

    def is_another_ones(self, stream: str) -> bool:
        """Tell whether a stream is none that this process decides for."""
        return not self._ready[slot_of(stream)]

    # -- members that come and go -------------------------------------------------------------

    def adopt(self, wiring: Wiring, attending: Attending) -> None:
        """Decide with this engine from now on; its first view was heeded."""
        self._own = _Own(wiring, attending, Patience())
        self._gained, self._view, self._is_leaving = {}, View(), False
        if self._giving_up is None:
            self._giving_up = asyncio.create_task(self._give_up(), name="foldline patience")
            self._giving_up.add_done_callback(retrieve)
        self.heed(wiring, attending, attending.view)

    def disown(self) -> None:
        """Take nothing more to decide: this process is no member, or leaves."""
        self._is_leaving = True
        self._ready = bytearray(SLOTS)

    def forget(self) -> None:
        """Use its engine no more, which has ended and answered everything."""
        if self._own is not None:
            self._decided += self._own.wiring.reception.answered
        self._own = None

    def statistics(self) -> SpreadStatistics:
        """Give the numbers as they are now."""
        own, view, owners, ready = self._own, self._view, self._owners, self._ready
        peers = self._peers.copy()
        sent = sum(peer.forwarding.forwarded for peer in peers.values())
        return SpreadStatistics(
            member=0 if own is None else own.attending.member,
            view=view.number,
            slots=len(self._gained),
            slots_ready=sum(ready),
            lease_seconds_left=0.0 if own is None else own.attending.seconds_left(),
            decided=self._decided + (0 if own is None else own.wiring.reception.answered),
            forwarded=self._forwarded + sent,
            moved=self.moved,
            owners={
                number: _as_seen(peer, view, owners.count(number)) for number, peer in peers.items()
            },
        )

    def heed(self, wiring: Wiring, attending: Attending, view: View) -> None:
        """Act by a view from this step on: drop what is another one's, meet who has come."""
        own = self._own
        if own is None or own.wiring is not wiring:
            return  # it has nothing in memory yet
        me, changed = attending.member, view.number != self._view.number
        self._view = view
        if view.find(me) is None:
            self.disown()
            self._gained = {}
            _drop(wiring, lambda _: True, view.number)
            return
        if changed:
            _know_others(wiring, view, me)
            self._owners = view.slots()
            before = self._gained
            self._gained = {
                slot: before.get(slot, view.number)
                for slot, owner in enumerate(self._owners)
                if owner == me
            }
            self._meet(wiring, attending, view)
            self._hold_back(wiring)
        seen = min((one.view_seen for one in view.members if one.member != me), default=view.number)
        ready = bytearray(SLOTS)
        for slot, gained in self._gained.items():
            ready[slot] = seen >= gained and not self._is_leaving
        self._ready = ready
        if changed:
            self._drop_lost(wiring, view.number)
        self.place_all()

    def _drop_lost(self, wiring: Wiring, number: int) -> None:
        gained = self._gained
        _drop(wiring, lambda stream: slot_of(stream) not in gained, number)

    def _meet(self, wiring: Wiring, attending: Attending, view: View) -> None:
        there = {one.member: one for one in view.members if one.member != attending.member}
        for member in [m for m in self._peers if m not in there]:
            self._part(self._peers.pop(member))
        for member, one in there.items():
            if member not in self._peers:
                self._peers[member] = Peer(
                    one,
                    self._meets,
                    self._forwarding(),
                    wiring.store.log_id,
                    partial(self._connected, wiring),
                    self._strike,
                    self._logger,
                )

    def _connected(self, wiring: Wiring) -> None:
        """Send another member what waits for it, whose word on what it reads has come."""
        self._hold_back(wiring)
        self.place_all()

    def _hold_back(self, wiring: Wiring) -> None:
        """Let nothing be stored that another member of the view may not read."""
        readers = [peer.reader for peer in self._peers.values()]
        wiring.registry.held = held_back(wiring.registry, readers)

    async def _strike(self, member: int) -> None:
        """Note that a member is dead, as the member that this process is now."""
        if self._own is not None:
            await self._own.attending.strike(member)

    def _part(self, peer: Peer) -> None:
        self._forwarded += peer.forwarding.forwarded
        task = peer.close()
        self._ended.add(task)
        task.add_done_callback(self._ended.discard)

    # -- until the end ------------------------------------------------------------------------

    async def _give_up(self) -> None:
        """Answer what has waited for an owner for too long."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for waiting in self._limbo.take_all():
                waiting.since = loop.time() if waiting.since is None else waiting.since
                if loop.time() < waiting.since + self._patience_seconds:
                    self._limbo.accept(waiting)
                    continue
                unknown = waiting.is_in_doubt
                settle(waiting.answer, OutcomeUnknown(UNKNOWN) if unknown else Closed(NOBODY))

    async def drain(self) -> None:
        """Return when other members have answered what they have."""
        for peer in self._peers.values():
            await peer.forwarding.drain()

    async def end(self, why: str) -> None:
        """Answer all that waits, as this process leaves; nothing more is sent."""
        self._is_over = True
        if self._giving_up is not None:
            self._giving_up.cancel()
        peers, self._peers = self._peers, {}
        for peer in peers.values():
            self._part(peer)
        self._limbo.end(why)
        if self._ended:
            await asyncio.wait([*self._ended])


def _as_seen(peer: Peer, view: View, slots: int) -> OwnerStatistics:
    there = view.find(peer.there.member) or peer.there
    forwarding = peer.forwarding
    return OwnerStatistics(
        slots,
        max(0, view.number - there.view_seen),
        max(0.0, there.seconds_left),
        forwarding.count,
        forwarding.is_connected,
    )


def _know_others(wiring: Wiring, view: View, me: int) -> None:
    """Note who makes joint decisions of other kinds, and would not look for what is made here."""
    shared, own = wiring.shared, view.find(me)
    if shared is not None and own is not None:
        others = [one for one in view.members if one.shares != own.shares]
        shared.lacking = " and ".join(one.holder for one in others)


def _drop(wiring: Wiring, is_lost: Callable[[str], bool], number: int) -> None:
    """Let all aggregates go that others have from now on, with what waits for them.

    What is with the store goes its way: it was decided while they were this engine's.
    """
    cause = ViewChanged("the log", number)
    wiring.journal.void_joint(cause)
    if wiring.recorder is not None:
        wiring.recorder.cut()
    lost = [actor for actor in wiring.directory.actors if is_lost(actor.stream)]
    wiring.journal.void_gathered({*lost}, cause)
    error = Voided("another process has the aggregate from now on. Nothing was written.")
    error.__cause__ = cause
    wiring.directory.drop(lost, error)
