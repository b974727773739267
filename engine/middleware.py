"""What a host puts around its calls: around each command and each query, in the order given.

Rules: the first of the list is the outermost. It stands where the call is made, in whichever
process, and is not asked about what reactions and timers send. A deadline counts from the call,
whatever stands around it. In a stream of commands one begins when the one before has been taken,
so that nothing overtakes. A value of a wrong type never comes to it. It is never run where no class
of the list has overridden what is asked for: then a call costs one look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar, cast

import msgspec

from .errors import (
    DeadlinePassed,
    DefinitionError,
    EngineError,
    HandlerFailed,
    OutcomeUnknown,
    Overloaded,
    UsageError,
)
from .model.checking import checked_copy
from .model.given import as_seconds, shown
from .model.messages import Envelope, Query, Receipt
from .runtime.futures import is_being_cancelled, retrieve
from .runtime.ports import Ports
from .write.bulk import as_taken

Send = Callable[
    [Envelope], "asyncio.Future[Receipt[Any]] | Awaitable[asyncio.Future[Receipt[Any]]]"
]
"""Sends a command into the engine; see `write.bulk.Send`."""

__all__ = ["Around", "Middleware", "QueryCall", "checked_middleware"]

T = TypeVar("T")


class QueryCall(msgspec.Struct, frozen=True):
    """A query with what travels beside it, as `Engine.query` takes it."""

    query: Query[Any]
    """What is asked."""
    at: Receipt | str | int | None = None
    """What the answer must contain."""
    timeout: float | None = None
    """Seconds from the call on."""
    principal: str | None = None
    """On whose behalf."""


class Middleware:
    """Base of what stands around calls: `Engine(middleware=[Measured(), Retry(3)])`.

    Override what is to be done something about; what is not overridden costs nothing. A method may
    look at the call, pass on a changed one (`msgspec.structs.replace(envelope, principal=...)`),
    raise instead, and look at the answer. It returns what `go_on` gave.

    One object is used by all calls of its engine at once, so what belongs to one call is kept in
    local variables. What it raises is raised by the call.
    """

    async def execute(
        self, envelope: Envelope, go_on: Callable[[Envelope], Awaitable[Receipt[Any]]]
    ) -> Receipt[Any]:
        """Stand around one command; `await go_on(envelope)` executes it, with the rest of the list.

        When `go_on` raises NotRun, nothing was written. What is raised after it has given a receipt
        changes nothing of that: the events are durable.
        """
        return await go_on(envelope)

    async def query(self, call: QueryCall, go_on: Callable[[QueryCall], Awaitable[Any]]) -> Any:
        """Stand around one query; `await go_on(call)` gives its answer."""
        return await go_on(call)

    def of_engine(self, ports: Ports) -> Middleware:  # noqa: ARG002 - for who overrides it
        """Give what an engine with these ports uses; called once, when the engine is made."""
        return self

    def watch(self, call: QueryCall) -> QueryCall:
        """Give what a watch is begun with; it is not async, and each new answer passes by it."""
        return call


def checked_middleware(given: object) -> Sequence[Middleware]:
    """Give what stands around calls; raise DefinitionError for anything else."""
    found = cast("Any", given)
    if not isinstance(given, list | tuple) or not all(isinstance(m, Middleware) for m in found):
        listed: Sequence[object] = found if isinstance(given, list | tuple) else [given]
        what = next((shown(m) for m in listed if not isinstance(m, Middleware)), "this")
        raise DefinitionError(
            f"middleware= is a list of objects of subclasses of Middleware, as "
            f"Engine(middleware=[Measured()]), and {what} is none"
        )
    return tuple(found)


def _overrides(middleware: Middleware, name: str) -> bool:
    return getattr(type(middleware), name) is not getattr(Middleware, name)


class _Progress:
    """How far one command has come."""

    __slots__ = ("is_over", "is_taken")

    def __init__(self) -> None:
        self.is_taken = False
        """Whether the engine has taken it."""
        self.is_over = False
        """Whether its caller has an answer."""


class Around:
    """What stands around the calls of one engine."""

    def __init__(self, middleware: Sequence[Middleware], ports: Ports) -> None:
        """Take it in the order given, the outermost first."""
        self._ports, self._clock = ports, ports.clock
        middleware = [each.of_engine(ports) for each in middleware]
        self._tasks: set[asyncio.Task[Any]] = set()
        """Of streams of commands: asyncio itself keeps none alive."""
        self.commands = [each.execute for each in middleware if _overrides(each, "execute")]
        """What stands around commands."""
        self.queries = [each.query for each in middleware if _overrides(each, "query")]
        """What stands around queries."""
        self.watches = [each.watch for each in middleware if _overrides(each, "watch")]
        """What stands before a watch."""
        self.streams = [
            each.execute
            for each in middleware
            if _overrides(each, "execute") and not getattr(each, "repeats", False)
        ]
        """What stands around commands of a stream: nothing that sends one again, out of order."""

    async def execute(
        self,
        envelope: Envelope,
        send: Send,
        more: Middleware | None = None,
    ) -> Receipt[Any]:
        """Execute a command with all that stands around it, `more` the innermost."""
        around = self.commands
        if more is not None:
            around = [
                *around,
                *(e.of_engine(self._ports).execute for e in checked_middleware([more])),
            ]
        return await self._run(envelope, send, around, _unheard)

    def send(self, envelope: Envelope, send: Send) -> Any:
        """Do so with a command of a stream; to be awaited until it is taken, or answered."""
        return self._sent(envelope, send)

    async def _sent(self, envelope: Envelope, send: Send) -> asyncio.Future[Receipt[Any]]:
        taken = asyncio.Event()
        running = asyncio.ensure_future(self._guarded(envelope, send, taken))
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)
        running.add_done_callback(retrieve)  # who asks may have left
        waiting = asyncio.ensure_future(taken.wait())
        try:
            await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if not taken.is_set():
                running.cancel()  # who leaves gives up what was not taken
            raise
        finally:
            waiting.cancel()
        if not taken.is_set() and not running.cancelled():
            refused = running.exception()
            if isinstance(refused, Overloaded):
                raise refused  # the stream waits for room, and sends it again
        return running

    async def _guarded(self, envelope: Envelope, send: Send, taken: asyncio.Event) -> Receipt[Any]:
        """Answer a command of a stream, whose other commands go on whatever is raised here."""
        try:
            return await self._run(envelope, send, self.streams, taken.set)
        except (EngineError, GeneratorExit):
            raise
        except BaseException as error:  # an exit too: it would end the loop
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            name = type(envelope.command).__name__
            what = f"middleware around {name} failed with {type(error).__name__}"
            if taken.is_set():
                raise OutcomeUnknown(
                    f"{what} after the command was taken: send it again with its key to find out"
                ) from error
            raise HandlerFailed(f"{what}. Nothing was written.") from error

    async def _run(
        self,
        envelope: Envelope,
        send: Send,
        around: Sequence[Callable[..., Awaitable[Receipt[Any]]]],
        taken: Callable[[], None],
    ) -> Receipt[Any]:
        if type(cast("object", envelope)) is Envelope:
            # The caller's own: middleware awaits, and he may change it meanwhile.
            own = checked_copy(envelope.command)
            envelope = as_taken(msgspec.structs.replace(envelope, command=own))
        begun = self._clock.monotonic()
        limit = asyncio.timeout(_seconds(envelope.deadline))
        progress = _Progress()

        async def innermost(given: Envelope) -> Receipt[Any]:
            if not isinstance(cast("object", given), Envelope):
                raise UsageError(_not_passed_on(given, "an Envelope", progress))
            if progress.is_over:
                raise UsageError(_GO_ON_LATE)
            if limit.expired():
                raise _held_too_long(given)  # whoever was cancelled for that has gone on
            if given.deadline is not None:
                left = as_seconds("deadline", given.deadline) - (self._clock.monotonic() - begun)
                given = msgspec.structs.replace(given, deadline=left)
            sent = send(given)
            answer = await sent if not isinstance(sent, asyncio.Future) else cast("Any", sent)
            progress.is_taken = True
            taken()
            with suppress(RuntimeError):  # of one that is over, where `go_on` is in another task
                limit.reschedule(None)  # it has a deadline of its own from here on
            receipt: Receipt[Any] = await answer
            return receipt

        try:
            async with limit:
                receipt: Any = await _chained(around, innermost)(envelope)
        except TimeoutError:
            if not limit.expired():
                raise
            raise _held_too_long(envelope, progress) from None
        finally:
            progress.is_over = True
        if type(receipt) is not Receipt:
            told = _not_passed_on(receipt, "the receipt", progress)
            raise OutcomeUnknown(told) if progress.is_taken else UsageError(told)
        return receipt

    async def query(self, call: QueryCall, ask: Callable[[QueryCall], Awaitable[Any]]) -> Any:
        """Ask a query with all that stands around it."""
        begun = self._clock.monotonic()
        limit = asyncio.timeout(_seconds(call.timeout))

        async def innermost(given: QueryCall) -> Any:
            given = _checked(given, call)
            if limit.expired():
                raise TimeoutError  # whoever was cancelled for that has gone on
            if given.timeout is not None:
                left = as_seconds("timeout", given.timeout) - (self._clock.monotonic() - begun)
                given = msgspec.structs.replace(given, timeout=max(0.0, left))
            with suppress(RuntimeError):  # of one that is over, where `go_on` is in another task
                limit.reschedule(None)
            return await ask(given)

        try:
            async with limit:
                return await _chained(self.queries, innermost)(call)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(
                f"{type(call.query).__name__} was still in middleware after its timeout"
            ) from None

    def watch(self, call: QueryCall) -> QueryCall:
        """Give what a watch is begun with."""
        for each in self.watches:
            call = _checked(each(call), call)
        return call


def _chained(
    around: Sequence[Callable[..., Awaitable[Any]]], innermost: Callable[[T], Awaitable[Any]]
) -> Callable[[T], Awaitable[Any]]:
    """Give what calls all of them, the first one first."""
    go_on = innermost
    for each in reversed(around):
        go_on = partial(each, go_on=go_on)
    return go_on


_LONGEST: Final = 1e9


def _seconds(given: object) -> float | None:
    """Give how long all may wait in front; what is no number is told by who takes it."""
    if isinstance(given, int | float) and not isinstance(given, bool) and given == given:
        return min(max(0.0, given), _LONGEST)
    return None


def _unheard() -> None:
    """Tell nobody."""


def _checked(given: QueryCall, before: QueryCall) -> QueryCall:
    """Give what middleware has passed on, with a query of the types that it declares."""
    if not isinstance(cast("object", given), QueryCall):
        raise UsageError(_not_passed_on(given, "a QueryCall"))
    if given.query is before.query:
        return given
    return msgspec.structs.replace(given, query=checked_copy(given.query))


_GO_ON_LATE: Final = (
    "middleware called go_on when its own method had returned or raised already: call it in the "
    "method itself, and await it. Nothing was run."
)


def _held_too_long(envelope: Envelope, progress: _Progress | None = None) -> EngineError:
    """Say that a deadline has passed in middleware, and what that means."""
    what = f"{type(envelope.command).__name__} was still in middleware at its deadline."
    if progress is not None and progress.is_taken:
        return OutcomeUnknown(f"{what} It was taken before: send it again with its key to find out")
    return DeadlinePassed(f"{what} Nothing was run.")


def _not_passed_on(given: object, wanted: str, progress: _Progress | None = None) -> str:
    ending = "Nothing was run."
    if progress is not None and progress.is_taken:
        ending = "The command was taken: send it again with its key to find out."
    return (
        f"middleware gave {shown(given)} in place of {wanted}: call `await go_on(...)` with what "
        f"you were given, or a changed one, and return what that gives. {ending}"
    )
