"""The owner's side: takes what members send, has it done by this process's engine, and answers.

Rules: what comes over a line is done as if its caller were here: the same checks, the same gate,
the same bounds. Whoever asks is answered once, in the order in which the answers are there. A
member that is gone takes nothing back: what it has sent is run. A member of another protocol is
refused by name. Who does not read his answers is read no more. The socket is the owner's alone, and
goes with it; where it cannot be made, or is taken away, it is made again as soon as that can be.
A line that repeats a number is given up: what came twice would be run twice. Who comes over a
network is not heard before he has shown the token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, cast

import msgspec

from ..errors import Closed, EngineError, OutcomeUnknown, UsageError, Voided
from ..health.facts import Facts
from ..model.messages import Envelope, Receipt
from ..model.numbers import names_in
from ..projections.operations import Projections
from ..runtime.futures import retrieve
from ..runtime.machine import process_number
from ..runtime.safely import as_error, described
from ..write.mailbox import Sent as Posted
from .forms import CommandForms, as_failure, decode_values, encode_values
from .meeting import Meeting
from .patience import Patience
from .readable import Reader, Readers, Versions, digest_of
from .releases import Release
from .waiting import Post
from .wire import (
    FRAME_MAX,
    PROTOCOL,
    Answer,
    Called,
    Done,
    Failed,
    Hello,
    Leaving,
    Left,
    Line,
    Listing,
    Member,
    Message,
    Reads,
    Refused,
    Sent,
    Told,
    Welcome,
)

__all__ = ["CALLS", "HEALTH", "Serving"]

_OPERATIONS: Final = ("list", "status", "parked", "decisions", "retry", "skip")
CALLS: Final = frozenset((*_OPERATIONS, "pause", "resume", "reset", "rebuild", "cancel", "drop"))
"""What of `engine.projections` members may call."""
HEALTH: Final = "health"
"""What members call for the owner's own numbers, which needs no right."""
_STRANGERS_MAX: Final = 64
"""Lines of who has not shown a token yet."""
_STRANGER_SECONDS: Final = 5.0
"""How long one may take to show it."""
_STRANGER_BYTES: Final = 4_096
"""Of a frame of one."""
_FAREWELL_SECONDS: Final = 1.0
"""How long an owner that leaves waits for the last words of its members."""
_LOOK_SECONDS: Final = 1.0
"""How often an owner looks whether members still find it."""


class _Served(msgspec.Struct, eq=False):
    """One member, as its owner sees it."""

    process: int
    since: float
    behind: float
    """Seconds to add to a time of its clock, for one of the owner's."""
    patience: Patience
    release: str
    commands: int = 0
    waiting: int = 0
    last: int = -1
    """The number of what it has sent last."""


class Serving:
    """The service of one owner to its members, from `open` to `close`."""

    def __init__(
        self,
        meeting: Meeting,
        forms: CommandForms,
        *,
        log_id: str,
        session: int,
        release: Release,
        send: Post,
        projections: Projections,
        facts: Callable[[], Awaitable[Facts]],
        is_owner: Callable[[], bool],
        logger: logging.Logger,
        is_another_ones: Callable[[EngineError], bool],
        failpoint: Callable[[str], None] | None = None,
        own: Callable[[Member], Member] | None = None,
        readers: Readers | None = None,
    ) -> None:
        """Take what tells whether the log is this process's, and how its engine takes a command.

        `is_another_ones` tells of an error whether the next owner runs what was not written. `own`
        gives what one of several owners tells of itself, out of what any owner tells.
        """
        self._own = own
        self._meeting = meeting
        self._forms = forms
        self._log_id = log_id
        self._session = session
        self._release = release
        self._is_another_ones = is_another_ones
        self._failpoint = failpoint
        self._readers = readers
        self._send = send
        self._projections = projections
        self._facts = facts
        self._is_owner = is_owner
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._is_listening = False
        self._keeper: asyncio.Task[None] | None = None
        self._told = ""
        """Why nobody can connect, as it was logged last."""
        self._is_leaving = False
        self._strangers: set[Line] = set()
        """Those who must show a token first."""
        self._answers: set[asyncio.Future[Receipt]] = set()
        """Of the commands of members that are not answered yet."""
        self._members: dict[Line, _Served] = {}
        self._lines: dict[Line, None] = {}
        """In the order in which they came; a set has another order in each run."""
        self._at_work: set[asyncio.Future[Any]] = set()
        """Calls that are not answered yet."""
        self._left: asyncio.Future[None] = self._loop.create_future()
        """Done when a member goes."""

    async def open(self) -> None:
        """Let members connect, as soon as that can be."""
        await self._listen()
        self._keeper = asyncio.create_task(self._keep(), name="foldline members")
        self._keeper.add_done_callback(retrieve)

    async def _listen(self) -> None:
        try:
            await self._meeting.listen(self._line)
        except OSError as error:
            if (why := described(error)) != self._told:
                self._told = why
                self._logger.error(
                    "no process can join this one, which owns the log: %s cannot be listened at "
                    "(%s). Mend that: it is tried again each second",
                    self._meeting.place,
                    why,
                )
            return
        self._is_listening = True
        if self._told:
            self._told = ""
            self._logger.warning("processes can join this one again, at %s", self._meeting.place)

    async def _keep(self) -> None:
        """See that members find this process, also where their way to it is taken away."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if not self._is_owner() or (self._is_listening and self._meeting.is_findable()):
                continue
            if self._is_listening:
                self._told = f"{self._meeting.place} was removed or replaced"
                self._logger.warning("%s: it is made again", self._told)
                self._is_listening = False
            await self._listen()

    def leave(self) -> None:
        """Take no more members, and ask those that there are to send nothing more.

        Called while the log is still this process's: the next owner listens at the same path.
        """
        self._is_leaving = True
        if self._keeper is not None:
            self._keeper.cancel()
        self._meeting.leave()
        for line in [*self._lines]:
            if line in self._members:
                line.send(Leaving())
            else:
                line.close()  # it has sent nothing, and shall not begin

    async def close(self) -> None:
        """Let the members go when all that they have sent is answered; the engine has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._empty()
        for line in [*self._lines]:
            line.close()
        if self._readers is not None:
            self._readers.close()

    async def _empty(self) -> None:
        """Return when each member has said that nothing more comes, or is gone."""
        while self._members:
            self._left = asyncio.get_running_loop().create_future()
            await self._left
        if self._at_work:
            await asyncio.wait(self._at_work)

    def members(self) -> list[Member]:
        """Give who is connected, and this process before them."""
        now = self._loop.time()
        own = Member(process_number(), "owner", now - self._since, 0, 0, self._release.name)
        if self._own is not None:
            own = self._own(own)
        others = [
            Member(m.process, "member", now - m.since, m.commands, m.waiting, m.release)
            for m in self._members.values()
        ]
        return [own, *others]

    def serves(self, answer: asyncio.Future[Receipt]) -> bool:
        """Tell whether an answer is for a member."""
        return answer in self._answers

    def _line(self, trusted: bool) -> Line:
        line = Line(self._receive, self._lost, holds_back=True)
        self._lines[line] = None
        if not trusted:
            line.frame_max = _STRANGER_BYTES
            self._strangers.add(line)
            self._loop.call_later(_STRANGER_SECONDS, self._give_up, line)
            if len(self._strangers) > _STRANGERS_MAX:
                self._loop.call_soon(line.abort)
        return line

    def _give_up(self, line: Line) -> None:
        if line in self._strangers:
            line.abort()

    def _lost(self, line: Line) -> None:
        self._lines.pop(line, None)
        self._strangers.discard(line)
        self._remove(line)

    def _remove(self, line: Line) -> None:
        self._members.pop(line, None)
        if self._readers is not None:
            self._readers.goes(line)
        if not self._left.done():
            self._left.set_result(None)

    def _receive(self, line: Line, message: Message) -> None:
        if isinstance(message, Hello):
            self._welcome(line, message)
        elif line in self._strangers:
            line.abort()
        elif isinstance(message, Listing):
            found = self.members() if message.number else []  # 0 is to hear whether this one lives
            line.send(Told(message.number, encode_values(found)))
        elif line not in self._members:
            line.abort()  # who does not say who he is first
        elif isinstance(message, Left):
            self._remove(line)
        elif isinstance(message, Reads):
            self._hear(line, message.reads)
        elif not isinstance(message, Sent | Called) or message.number <= self._members[line].last:
            line.abort()
        elif isinstance(message, Sent):
            self._run(line, message)
        else:
            self._members[line].last = message.number
            self._members[line].waiting += 1
            self._begin(line, message.number, self._call(message))

    def _welcome(self, line: Line, hello: Hello) -> None:
        if self._is_leaving:
            line.close()
            return
        if line in self._strangers:
            if not self._meeting.admits(hello.token):
                self._logger.warning("somebody has shown a wrong token: he cannot join this log")
                line.send(Refused("the token of listen= is not the one that the owner has"))
                line.close()
                return
            self._strangers.discard(line)
            line.frame_max = FRAME_MAX
        own, process = self._release, process_number()
        says = self._log_id, self._session, own.name, own.keeps, own.reads
        line.send(Welcome(PROTOCOL, process, *says))
        if hello.protocol != PROTOCOL:
            self._logger.warning(
                "process %d speaks protocol %d with the process that owns the log, which speaks "
                "%d: it runs another release, and cannot join",
                hello.process,
                hello.protocol,
                PROTOCOL,
            )
            line.close()
            return
        now = self._loop.time()
        self._members[line] = _Served(
            hello.process, now, now - hello.clock, Patience(), hello.release
        )
        is_same = hello.reads == digest_of(self._release.reads)
        self._hear(line, self._release.reads if is_same else None)

    def _hear(self, line: Line, reads: Versions | None) -> None:
        """Note what a member reads of the log, or that it has not said so yet."""
        if self._readers is not None:
            member = self._members[line]
            who = f"process {member.process} of release {member.release!r}"
            self._readers.joins(line, Reader(who, reads))

    # -- commands -----------------------------------------------------------------------------

    def _run(self, line: Line, sent: Sent) -> None:
        member = self._members[line]
        member.last = sent.number
        member.commands += 1
        member.waiting += 1
        if self._failpoint is not None:
            self._failpoint("owner.asked")
        if sent.is_patient:
            post = partial(self._post, member, sent)
            begun = member.patience.take(post, partial(self._sent, line, sent.number))
            if begun is not None:
                self._at_work.add(begun)
                begun.add_done_callback(self._at_work.discard)
            return
        try:
            answer = self._post(member, sent)
        except BaseException as error:  # of a class of the host's, whatever it is
            self._answer(line, Failed(sent.number, *as_failure(as_error(error))))
            return
        if isinstance(answer, asyncio.Future):
            self._answers.add(answer)
            answer.add_done_callback(partial(self._done, line, sent.number))
        else:
            self._begin(line, sent.number, self._received(sent.number, answer))

    def _post(self, member: _Served, sent: Sent) -> Posted:
        return self._send(self._envelope_of(member, sent), sent.origin)

    def _envelope_of(self, member: _Served, sent: Sent) -> Envelope:
        """Give a command as it came; raise Voided if this process does not know it so."""
        return Envelope(
            command=self._forms.decode(sent.name, sent.body, sent.names),
            key=sent.key,
            expected=sent.expected,
            correlation=sent.correlation,
            causation=sent.causation,
            principal=sent.principal,
            headers=sent.headers,
            deadline=self._time_left(member, sent),
        )

    def _sent(self, line: Line, number: int, answer: asyncio.Future[Receipt] | Exception) -> None:
        if isinstance(answer, Exception):
            self._answer(line, Failed(number, *as_failure(answer)))
        else:
            self._answers.add(answer)
            answer.add_done_callback(partial(self._done, line, number))

    def _time_left(self, member: _Served, sent: Sent) -> float | None:
        """Give the seconds until a deadline, which may be over."""
        if sent.deadline is None:
            return None
        return sent.deadline + member.behind - self._loop.time()

    def _done(self, line: Line, number: int, future: asyncio.Future[Receipt]) -> None:
        self._answers.discard(future)
        self._answer(line, self._answer_of(number, future))

    async def _received(self, number: int, sent: Awaitable[asyncio.Future[Receipt]]) -> Answer:
        """Give the answer to a command that the gate has to let in."""
        future = await sent
        self._answers.add(future)
        await asyncio.wait([future])
        self._answers.discard(future)
        return self._answer_of(number, future)

    def _answer_of(self, number: int, future: asyncio.Future[Receipt]) -> Answer:
        error = future.exception()
        if error is None:
            return _done(number, future.result())
        if isinstance(error, Voided) and self._is_another_ones(error):
            # Nothing was written, and the next owner runs it.
            error = Closed(str(error))
        return Failed(number, *as_failure(error))

    def _answer(self, line: Line, answer: Answer) -> None:
        member = self._members.get(line)
        if member is not None:
            member.waiting -= 1
        if self._failpoint is not None:
            self._failpoint("owner.answering")
        try:
            line.send(answer)
        except Exception as error:
            line.send(_instead(answer, error))

    # -- what takes its time ------------------------------------------------------------------

    def _begin(self, line: Line, number: int, call: Awaitable[Answer]) -> None:
        task = asyncio.ensure_future(call)
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        task.add_done_callback(retrieve)
        task.add_done_callback(partial(self._called, line, number))

    def _called(self, line: Line, number: int, task: asyncio.Future[Answer]) -> None:
        if task.cancelled():
            return  # with the loop, which ends
        error = task.exception()
        answer = task.result() if error is None else Failed(number, *as_failure(error))
        self._answer(line, answer)

    async def _call(self, called: Called) -> Answer:
        if called.method == HEALTH:
            return Told(called.number, encode_values(await self._facts()))
        if called.method not in CALLS:
            raise UsageError(f"members call {sorted(CALLS)}, and not {called.method!r:.100}")
        call = cast("Callable[..., Awaitable[object]]", getattr(self._projections, called.method))
        try:
            values = decode_values(called.values, dict[str, Any])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise UsageError(f"a call came malformed: {described(error)}") from error
        return Told(called.number, encode_values(await call(**values)))


def _instead(answer: Answer, error: Exception) -> Failed:
    """Give what is told where an answer cannot be sent as it is."""
    assert isinstance(answer, Done | Told | Failed), "no other one is so large"
    why = f"the answer of the process that owns the log cannot be sent ({described(error)})"
    if isinstance(answer, Done):
        told: Exception = OutcomeUnknown(
            f"{why}. The command was run, and its last event is at position {answer.position} of "
            f"the log: do not send it again without its key"
        )
    else:
        told = UsageError(f"{why}: ask for less at a time")
    return Failed(answer.number, *as_failure(told))


def _done(number: int, receipt: Receipt) -> Done:
    given = receipt.reply
    reply = None if given is None else msgspec.json.encode(given)
    place = receipt.stream, receipt.version, receipt.position
    return Done(number, *place, reply, receipt.others, tuple(names_in(given)))
