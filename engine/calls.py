"""What a host calls: commands, queries and watches, with what stands around them.

Rules: a call is one look-up and one step where nothing stands around it. Everything given with it
is checked before anything is run. How a command is sent, here or to another process, is chosen when
the engine is made. It decides nothing, and opens nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from .authorization import Gate
from .errors import EngineError
from .members.reading import MemberAnswers, MemberLive
from .middleware import Around, QueryCall
from .model.checking import checked_copy
from .model.given import as_seconds
from .model.messages import Command, Envelope, Query, Receipt
from .queries.answers import Answers
from .queries.live import LiveQueries, LiveQuery
from .retry import Retry
from .timers.scheduling import Scheduling
from .write.bulk import Send, run_many

__all__ = ["Calls"]

Answer = TypeVar("Answer")
Reply = TypeVar("Reply")


class Calls(Scheduling):
    """The calls of an engine, which says how each is answered."""

    _around: Around
    _send: Send
    _send_of_many: Send
    _gate: Gate | None
    _answers: Answers | MemberAnswers
    _live: LiveQueries | MemberLive
    _check_usable: Callable[[], Any]

    # -- commands ---------------------------------------------------------------------------

    async def execute(
        self,
        command: Command[Reply],
        *,
        key: str | None = None,
        expected: int | Mapping[str, int] | None = None,
        deadline: float | None = None,
        correlation: str | None = None,
        causation: str | None = None,
        principal: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry: Retry | None = None,
    ) -> Receipt[Reply]:
        """Run one command; return when its events are durable.

        - `command`: is copied when it is taken; a later change of it changes nothing here.
        - `key`: the caller's name for this command to this aggregate, at most 255 characters. The
          same key with an equal command gets the first receipt, and nothing is written. It is
          remembered for `key_window` versions of the aggregate (1,000 unless its kind says
          otherwise).
        - `expected`: the version that the aggregate must have when the command is decided. For a
          joint decision, the versions of some or all of its aggregates, by stream.
        - `deadline`: seconds from now. A command that is not decided by then is not run. What is
          decided by then gets its true answer, however long the disk takes.
        - `correlation`, `causation`, `principal`: texts that the events keep: what the command
          belongs to, what led to it, and who sent it. `authorize` is asked about this `principal`.
        - `headers`: other texts by name; the events keep them too.
        - `retry`: how often it is sent again where that is safe, as `Retry(3)`.

        Returns the aggregate's stream and version, the position of its last event in the log, and
        the reply if the command's class declares one. A command without events gets a receipt too.

        Raises Rejected if the domain says no. Raises NotRun (Overloaded, Conflict, Closed, Voided,
        WrongVersion, DeadlinePassed, HandlerFailed, StreamUnreadable) if nothing was written and
        sending again is safe. Raises OutcomeUnknown if nobody knows: send it again with its key.
        Raises KeyReused if the key was another command's, Forbidden, and UsageError. A caller that
        is cancelled does not half-do a command: it is run whole or not at all.
        """
        envelope = Envelope(
            command=command,
            key=key,
            expected=expected,
            correlation=correlation,
            causation=causation,
            principal=principal,
            headers=headers,
            deadline=deadline,
        )
        if self._around.commands or retry is not None:
            self._check_usable()
            return await self._around.execute(envelope, self._send, retry)
        sent = self._send(envelope)
        answer: Any = sent if isinstance(sent, asyncio.Future) else await sent
        receipt: Receipt[Reply] = await answer
        return receipt

    def execute_many(
        self,
        commands: Iterable[Envelope | Command] | AsyncIterable[Envelope | Command],
        *,
        window: int = 256,
    ) -> AsyncGenerator[Receipt | EngineError, None]:
        """Run many commands; give their answers in the order of the commands.

        - `commands`: commands, or envelopes if a command has a key, a deadline or the like.
        - `window`: how many are in the engine at a time, at most.

        Commands for one aggregate run in the order given. An answer that is an error is given, not
        raised, so that the rest continues. If the engine is overloaded, the next command waits for
        an earlier one's answer. To stop early, leave it through `contextlib.aclosing`; what was
        sent is run all the same. Raises UsageError for a `window` below 1, and Closed.
        """
        send = self._send_of_many
        if self._around.streams:
            send = partial(self._around.send, send=send)
        return run_many(commands, window, send, self._check_usable)

    # -- queries ----------------------------------------------------------------------------

    async def query(
        self,
        query: Query[Answer],
        *,
        at: Receipt | str | int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the answer names who lags
        principal: str | None = None,
    ) -> Answer:
        """Ask the views; give the answer that the query's class names.

        - `query`: is copied when it is taken.
        - `at`: a receipt, its token, or a position. The answer then contains the events up to
          there.
        - `timeout`: seconds for `authorize`, the wait and the answer; with `at` 5 unless given,
          without it unlimited.
        - `principal`: who asks; for `authorize`.

        Raises ProjectionLag if the views are not there in time, naming who lags and by how much.
        Raises ProjectionUnserved if other tables than it reads serve. Raises Forbidden if
        `authorize` says no, Overloaded (`Limits.waits_at`), TimeoutError, and what the answer
        itself raises.
        """
        self._check_usable()
        call = QueryCall(checked_copy(query), at, timeout, principal)
        if self._around.queries:
            answer: Answer = await self._around.query(call, self._ask)
        else:
            answer = await self._ask(call)
        return answer

    async def _ask(self, call: QueryCall) -> Any:
        """Ask the views, behind the gate where there is one."""
        seconds = None if call.timeout is None else as_seconds("timeout", call.timeout)
        if self._gate is not None:
            seconds = await self._gate.check_within(seconds, call.principal, "query", call.query)
        return await self._answers.ask(call.query, at=call.at, timeout=seconds)

    def watch(
        self,
        query: Query[Answer],
        *,
        at: Receipt | str | int | None = None,
        timeout: float | None = None,
        principal: str | None = None,
    ) -> LiveQuery[Answer]:
        """Give a query's answer and each new one: `async for answer in engine.watch(query)`.

        - `query`: is copied when it is taken.
        - `at`: the first answer contains that position, as for `query`.
        - `timeout`: seconds that the first answer may wait for `at`; 5 unless given.
        - `principal`: who asks; `authorize` is asked once, when the watch begins.

        A slow reader is given the newest answer and not all of them; `.position` says what it
        contains. The watch ends when the engine stops. To leave early, use `contextlib.aclosing`.
        Raises what `query` does, Overloaded (`Limits.watched_queries`, `Limits.watches`,
        `Limits.watched_bytes`), and Closed if the engine fails.
        """
        call = QueryCall(checked_copy(query), at, timeout, principal)
        if self._around.watches:
            call = self._around.watch(call)
        seconds = None if call.timeout is None else as_seconds("timeout", call.timeout)
        return self._live.watch(call.query, call.at, seconds, call.principal)
