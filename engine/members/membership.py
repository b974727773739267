"""Who owns the log: this process or another, from the start of an engine to its end.

Rules: the store's own lock or lease decides who owns the log, and nothing else does. Whoever gets
it runs an engine and lets the others connect; whoever does not connects. Where the owner goes, all
try for it at once, and again until one has it. An engine that failed is not started again in the
same process: this one leaves, and another takes its place. A member whose engine cannot start stays
one, says why, and tries again: another may have what it lacks. An owner whose lease has ended is a
member from then on. Nothing is decided by time but by the store, how long one waits between two
tries, and when an owner is said to stand still.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

from ..errors import EngineError, EngineFailed, StoreLocked, StoreRefused
from ..health.facts import facts_of
from ..host.supervisor import Life
from ..runtime.machine import process_number
from ..runtime.safely import described
from ..runtime.uncancelled import ended
from ..statistics import MembershipStatistics
from ..stores.contract.traits import Leased
from ..wiring import Wiring
from ..write.mailbox import Mail
from .forms import CommandForms
from .forwarding import PATIENCE_SECONDS, Forwarding
from .hearing import LOOKS, Hearing
from .meeting import Meeting
from .readable import Readers, digest_of
from .releases import Release
from .same_log import SameLog
from .serving import Serving
from .waiting import Post
from .wire import PROTOCOL, Hello, Leaving, Left, Line, Message, Reads, Refused, Welcome

__all__ = ["Member", "Membership"]

_REST_SECONDS: Final = 0.02
"""Between two tries to connect with an owner that has just begun."""
_TRIES: Final = 10
"""To connect, before the lock is tried for again."""
_AGAIN_SECONDS: Final = 1.0
"""Between two tries of a process that could not take the log over, or not join its owner."""
_WELCOME_SECONDS: Final = 2.0
"""How long an owner is waited for that has a socket and says nothing, before the lock is tried for
again."""


class Member(Protocol):
    """What a process does while another one owns the log."""

    async def begin_owning(self, wiring: Wiring) -> None:
        """Use an engine of this process."""
        ...

    def end_owning(self) -> None:
        """Use it no more: another process has the log."""
        ...

    async def begin_joining(self, owner: Welcome | None) -> None:
        """Use what the process has without one; `owner` says what its owner keeps."""
        ...

    @property
    def log_id(self) -> str:
        """Of the log that it reads; known when it has joined."""
        ...


class Membership:
    """One process's part in the ownership of a log."""

    def __init__(
        self,
        life: Life,
        make: Callable[[], Wiring],
        meeting: Meeting,
        same: SameLog,
        member: Member,
        forwarding: Forwarding,
        forms: CommandForms,
        release: Release,
        logger: logging.Logger,
        serve_by: Post | None = None,
        failpoint: Callable[[str], None] | None = None,
    ) -> None:
        """Take how commands of members are run, where that is not by the owner's own engine."""
        self._serve_by = serve_by
        self._failpoint = failpoint
        self._life = life
        self._release = release
        self._make = make
        self._meeting = meeting
        self._same = same
        self._member = member
        self._forwarding = forwarding
        self._forms = forms
        self._logger = logger
        self._stop = asyncio.Event()
        self._wiring: Wiring | None = None
        self._line: Line | None = None
        self._owner = 0
        """The process that owns the log, 0 where that is not known."""
        self._log_id = ""
        """Of the log that this process has taken part in."""
        self._terms = 0
        """How often this process has become the owner."""
        self._changes = 0
        self._task: asyncio.Task[None] | None = None
        self._welcomed: asyncio.Future[Welcome] | None = None
        self._lost = asyncio.Event()
        self._serving: Serving | None = None
        self._told = ""
        """What kept this process from taking part, as it was logged last."""
        self._unreached = ""
        """Why the owner could not be joined."""

    # -- from start to end --------------------------------------------------------------------

    async def start(self) -> None:
        """Become the owner, or connect with it; raise what prevents both."""
        self._life.state = "starting"
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(started), name="foldline membership")
        try:
            await asyncio.shield(started)
        except BaseException:
            self._stop.set()
            await ended(self._task)
            if started.done() and not started.cancelled():
                started.exception()
            raise

    async def end(self) -> None:
        """Leave: an owner drains first, and answers its members."""
        assert self._task is not None, "what was not started does not end"
        if self._life.state == "running":
            self._life.state = "stopping"
        self._stop.set()
        await ended(self._task)

    def statistics(self) -> MembershipStatistics:
        """Give the numbers as they are now."""
        role = "owner" if self._wiring is not None else "member" if self._owner else "waiting"
        return MembershipStatistics(
            role=role,
            owner=self._owner or None,
            owners_seen=self._changes,
            terms=self._terms,
            forwarded=self._forwarding.forwarded,
        )

    async def _run(self, started: asyncio.Future[None]) -> None:
        try:
            await self._take_part(started)
        except BaseException as error:
            if not started.done():
                self._life.state = "failed"
                started.set_exception(error)
            else:
                self._fail(error)
        finally:
            self._forwarding.end("this process is stopping: the command was not run")
            await self._meeting.close()
        if self._life.state != "failed":
            self._life.state = "stopped"

    def _fail(self, error: BaseException) -> None:
        self._life.state, self._life.failed = "failed", error

    async def _take_part(self, started: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_SECONDS
        while not self._stop.is_set():
            locked, next_try = None, loop.time() + _REST_SECONDS
            is_vacant = False
            try:
                is_vacant = await self._meeting.is_vacant()
                if is_vacant:
                    locked = await self._own(started)
                if (locked is not None or not is_vacant) and not self._stop.is_set():
                    await self._join_often(started)
            except Exception as error:
                # What ran and failed is at its end; what could not begin may find another owner.
                over = self._life.state == "failed" or not self._meeting.keeps_reading
                if not started.done() or (self._terms and over):
                    raise
                self._tell(error)
                next_try = loop.time() + _AGAIN_SECONDS
            is_left_out = locked is not None or not is_vacant
            if is_left_out and not started.done() and loop.time() > deadline:
                held = locked or "another process has the log."
                raise StoreLocked(f"{held} {self._unreached}") from locked
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_try):
                    await self._stop.wait()

    async def _join_often(self, started: asyncio.Future[None]) -> None:
        """Be a member until the owner goes; return where none can be joined just now."""
        time = asyncio.get_running_loop().time
        end = time() + _WELCOME_SECONDS
        for _ in range(_TRIES):
            if await self._join(started) or self._stop.is_set() or time() >= end:
                return
            await asyncio.sleep(_REST_SECONDS)

    def _tell(self, error: Exception) -> None:
        """Log why this process takes no part, once for each reason."""
        if (why := described(error)) != self._told:
            self._told = why
            if self._life.is_displaced:  # for good, as it looks: nobody waits for that
                self._forwarding.silence(f"{str(error).removesuffix('.')}.")
            self._logger.error(
                "this process can neither take the log over nor join its owner: %s. It tries again "
                "each second, and answers queries meanwhile",
                why,
            )

    def _begin(self, started: asyncio.Future[None]) -> None:
        self._changes += 1
        self._told, self._life.is_displaced = "", False
        self._life.state = "stopping" if self._stop.is_set() else "running"
        if not started.done():
            started.set_result(None)

    # -- as the owner -------------------------------------------------------------------------

    async def _own(self, started: asyncio.Future[None]) -> StoreLocked | None:
        """Run an engine until this process leaves; give why it cannot, where another one does."""
        if self._log_id:
            await self._same.check(self._log_id, self._life)
        wiring = self._make()
        wiring.entrance.open()
        await self._meeting.prepare(wiring.store)
        try:
            await wiring.supervisor.start()
        except BaseException as error:
            self._meeting.leave()
            if isinstance(error, StoreLocked):
                return error
            raise
        self._told = ""
        self._terms += 1
        serving = self._serve(wiring)
        try:
            await serving.open()
            self._wiring, self._owner = wiring, process_number()
            self._log_id = wiring.store.log_id
            await self._member.begin_owning(wiring)
            self._forwarding.adopt(wiring.reception.send_from)
            self._begin(started)
            await self._until_the_end(wiring)
        finally:
            await self._leave_ownership(wiring, serving)
        if wiring.life.failed is not None:
            if _is_succeeded(wiring):
                self._logger.warning("%s This process is a member from now on.", wiring.life.failed)
                return None
            self._life.state = "failed"
            raise wiring.life.failed
        return None

    def _serve(self, wiring: Wiring) -> Serving:
        serving = self._serving = Serving(
            self._meeting,
            self._forms,
            log_id=wiring.store.log_id,
            session=getattr(wiring.store, "session", 0),
            send=self._serve_by or wiring.reception.send_from,
            projections=wiring.projections,
            facts=partial(facts_of, wiring),
            logger=self._logger,
            release=self._release,
            is_owner=lambda: wiring.life.state == "running",
            is_another_ones=lambda _: _is_succeeded(wiring),
            failpoint=self._failpoint,
            readers=Readers(wiring.registry),
        )
        if self._meeting.keeps_reading:

            def rescue(mail: Mail, error: EngineError) -> bool:
                if mail.fired is not None or mail.depth:
                    return False  # the next owner finds in the log what timers and reactors send
                own = _is_succeeded(wiring) and not serving.serves(mail.answer)
                return own and not self._stop.is_set() and self._forwarding.rescue(mail, error)

            wiring.rescue_by(rescue)
            wiring.supervisor.goes_on = lambda: _is_succeeded(wiring)  # as a member
        return serving

    async def _until_the_end(self, wiring: Wiring) -> None:
        task = wiring.supervisor.task
        assert task is not None, "it was started"
        await _first(self._stop.wait(), _ended(task))

    async def _leave_ownership(self, wiring: Wiring, serving: Serving) -> None:
        if _is_succeeded(wiring) and not self._stop.is_set():
            self._forwarding.disown()
            self._member.end_owning()
        serving.leave()
        try:
            # Members whose commands are refused meanwhile send them to the next owner.
            await wiring.supervisor.end()
        finally:
            await serving.close()
            self._wiring, self._owner = None, 0

    # -- as one of the others -----------------------------------------------------------------

    async def _join(self, started: asyncio.Future[None]) -> bool:
        """Send commands to the owner until it goes; give False where there is none to be had."""
        self._lost.clear()
        self._welcomed = asyncio.get_running_loop().create_future()
        line = Line(self._receive, self._was_lost)
        try:
            token = await self._meeting.connect(line)
        except OSError as error:
            self._unreached = (
                f"It cannot be joined at {self._meeting.place} ({described(error)}): give every "
                f"engine of this log join=True; if it has that, its own log says what is wrong."
            )
            return False
        self._line = line
        try:
            clock = asyncio.get_running_loop().time()
            own = self._release
            says = own.name, digest_of(own.reads)
            line.send(Hello(PROTOCOL, process_number(), clock, token, *says))
            if not await self._be_welcomed():
                return False
            welcome = self._welcomed.result()
            if welcome.reads is not None and welcome.reads != own.reads:
                line.send(Reads(own.reads))
            await self._member.begin_joining(welcome)
            self._check_log(welcome.log_id)
            self._forwarding.connected(line)
            self._begin(started)
            gone = self._meeting.until_gone()
            await _first(self._stop.wait(), self._lost.wait(), self._listen(line), gone)
            await self._drain()
            return True
        finally:
            self._owner = 0
            self._line = None
            self._forwarding.lost()
            line.close()

    async def _be_welcomed(self) -> bool:
        assert self._welcomed is not None, "it is made before the line"
        silence = asyncio.sleep(_WELCOME_SECONDS)
        await _first(_settled(self._welcomed), self._lost.wait(), self._stop.wait(), silence)
        if not self._welcomed.done():
            self._unreached = (
                f"It does not answer at {self._meeting.place}: its event loop is blocked, or the "
                f"process stands still."
            )
            return False
        welcome = self._welcomed.result()
        if welcome.protocol != PROTOCOL:
            raise EngineFailed(
                f"process {welcome.process} owns the log and speaks protocol {welcome.protocol}; "
                f"this release speaks {PROTOCOL}. Run one release, or stop the older first."
            )
        if not self._meeting.is_owner(welcome):
            self._unreached = f"Another one answers at {self._meeting.place}: it lets nobody join."
            return False
        self._owner = welcome.process
        return True

    def _check_log(self, log_id: str) -> None:
        """Raise StoreRefused where the owner has another log than the one that is read here."""
        if self._member.log_id != log_id:
            self._life.is_displaced = True
            raise StoreRefused(
                f"process {self._owner} owns another log than the one at this path: the file was "
                f"replaced while it ran. Stop all engines of this log, and see which file is right."
            )
        self._log_id = log_id

    async def _listen(self, line: Line) -> None:
        """Say so where the owner says nothing to who waits for it, and again when it does."""
        hearing = Hearing(line, lambda: self._forwarding.is_waiting)
        try:
            while True:
                was_silent = hearing.is_silent
                await hearing.look(PATIENCE_SECONDS / LOOKS)
                if hearing.is_silent:
                    self._forwarding.silence(self._silent(hearing.silent))
                elif was_silent:
                    self._logger.warning("process %d answers again", self._owner)
                    self._forwarding.hear()
        finally:
            if hearing.is_silent:
                self._forwarding.hear()

    def _silent(self, silent: int) -> str:
        why = (
            f"process {self._owner} owns the log and has said nothing for "
            f"{silent * PATIENCE_SECONDS / LOOKS:.0f} s: its event loop is blocked, or it stands "
            f"still."
        )
        if silent == LOOKS:
            self._logger.error("%s Commands of this process are refused until it answers", why)
        return why

    async def _drain(self) -> None:
        """Let the owner answer what it has, where this process leaves."""
        if self._stop.is_set() and not self._lost.is_set():
            patience = asyncio.sleep(PATIENCE_SECONDS)
            await _first(self._forwarding.drain(), self._lost.wait(), patience)

    def _receive(self, line: Line, message: Message) -> None:
        if isinstance(message, Welcome):
            if self._welcomed is not None and not self._welcomed.done():
                self._welcomed.set_result(message)
        elif isinstance(message, Refused):
            if self._welcomed is not None and not self._welcomed.done():
                self._welcomed.set_exception(
                    StoreRefused(f"the owner of the log lets this process not join: {message.why}")
                )
        elif isinstance(message, Leaving):
            self._forwarding.hold()
            line.send(Left())
        elif line is self._line:
            try:
                self._forwarding.received(message)
            except Exception as error:
                self._logger.error("an answer of the owner is malformed: %s", described(error))
                line.abort()

    def _was_lost(self, line: Line) -> None:
        if self._line is None or line is self._line:
            self._lost.set()


def _is_succeeded(wiring: Wiring) -> bool:
    """Tell whether an engine ended only since another one has the log, or may have it."""
    return isinstance(wiring.store, Leased) and wiring.store.is_succeeded


async def _first(*waits: Awaitable[object]) -> None:
    """Return when the first of these is done."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])


async def _settled(future: asyncio.Future[Welcome]) -> None:
    await asyncio.wait([future])
