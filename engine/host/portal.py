"""The engine for code without an event loop: threads, notebooks, scripts, sync frameworks.

Rules: every call runs on the engine's own loop and blocks the calling thread until its answer. A
portal that starts its engine gives it a loop in a thread of its own, and drains and closes it at
the end of the `with`; a portal to an engine that runs already is a door into its loop and ends
nothing. From the engine's own loop it is refused, since it would wait for itself. A caller that
stops waiting is told what it cannot know: whether its command was run. A portal of a function makes
an engine each time that it is entered anew, so that one that could not start is not the end of all.
Who has closed it in this process has ended it: `open` starts nothing again, and `with` does.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Mapping,
)
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar, cast
from weakref import finalize

from ..errors import Closed, EngineError, OutcomeUnknown, UsageError
from ..model.given import as_seconds
from ..model.messages import Command, Envelope, Query, Receipt
from ..retry import Retry
from ..runtime.loops import own_context
from ..runtime.native import in_turn, result_of, start_native
from ..runtime.safely import as_error
from ..write.bulk import as_taken, check_many, enveloped
from .entrance import this_process
from .own_loop import new_loop, serve

__all__ = ["Portal", "PortalEngine"]

Answer = TypeVar("Answer")
Reply = TypeVar("Reply")
T = TypeVar("T")


class PortalEngine(Protocol):
    """An engine, as far as a portal knows it."""

    @property
    def failed(self) -> BaseException | None:
        """What ended it after it had started, if it failed."""
        ...

    def execute(
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
    ) -> Coroutine[Any, Any, Receipt[Reply]]:
        """Run one command."""
        ...

    def execute_many(
        self,
        commands: Iterable[Envelope | Command] | AsyncIterable[Envelope | Command],
        *,
        window: int = 256,
    ) -> AsyncGenerator[Receipt | EngineError, None]:
        """Run many commands."""
        ...

    def query(
        self,
        query: Query[Answer],
        *,
        at: Receipt | str | int | None = None,
        timeout: float | None = None,  # the engine's word
        principal: str | None = None,
    ) -> Coroutine[Any, Any, Answer]:
        """Ask the views."""
        ...

    @property
    def is_new(self) -> bool:
        """Whether it was not started yet."""
        ...

    def usable_loop(self) -> asyncio.AbstractEventLoop:
        """Give the loop in which it runs; raise what prevents its use in this process."""
        ...

    async def __aenter__(self) -> Any:
        """Start it."""
        ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain and close it."""
        ...


class Portal:
    """A way to an engine for threads: `Engine.portal` gives one, as does `Portal(make_engine)`.

    Any number of threads may use one portal at the same time; one of them enters it. For a server,
    give the function: `open` makes a new engine if the last could not start, or has failed, and
    each `with` makes one.
    """

    def __init__(self, engine: PortalEngine | Callable[[], PortalEngine]) -> None:
        """Take an engine, or the function that makes one; start nothing yet."""
        self._make: Callable[[], PortalEngine] | None = None
        self._made: PortalEngine | None = None
        is_class = isinstance(engine, type)
        if hasattr(engine, "usable_loop") and not is_class:
            self._made = cast("PortalEngine", engine)
        elif callable(engine) and not is_class:
            self._make = engine
        else:
            text = "takes an engine, or the function that makes one, as Portal(make_engine)"
            raise UsageError(f"Portal(...) {text}, and not {engine!r:.60}")
        self._opening = in_turn()
        self._failures: list[Exception] = []
        """Why the last start failed; a new list for each, so that who waited for it knows."""
        self._closed_in: int | None = None  # a process; one that is forked later may open it
        self._thread: _LoopThread | None = None
        """Of a portal that has started its engine."""
        self._forsaking: finalize[[_LoopThread, PortalEngine], Portal] | None = None

    # -- life -------------------------------------------------------------------------------

    def __enter__(self) -> Portal:
        """Start the engine on a loop of its own, unless it runs already; raises what it raises."""
        if self._thread is not None:
            raise UsageError("this portal has been entered: use it in other threads without `with`")
        return self._start(self._engine if self._make is None else self._new_engine(self._make))

    def _start(self, engine: PortalEngine) -> Portal:
        if not engine.is_new:
            engine.usable_loop()
            self._made = engine
            return self
        thread = _LoopThread()
        try:
            thread.call(engine.__aenter__)
        except BaseException:
            thread.end()
            raise
        self._made, self._thread = engine, thread
        self._forsaking = finalize(self, _forsaken, thread, engine)
        self._forsaking.atexit = False
        return self

    def _next_engine(self) -> PortalEngine:
        """Give the engine that is to be started, or runs; one that was closed stays closed."""
        is_over = self._made is None or self._made.failed is not None
        if self._make is None or not (is_over or self._closed_in not in (None, this_process())):
            return self._engine
        return self._new_engine(self._make)

    def _new_engine(self, make: Callable[[], PortalEngine]) -> PortalEngine:
        engine: Any = make()
        if not hasattr(engine, "usable_loop"):
            raise UsageError(f"the function of this portal gave {engine!r:.60}, and no Engine")
        return cast("PortalEngine", engine)

    @property
    def engine(self) -> Any:
        """The engine: for what has no method here, as `portal.engine.statistics()`.

        Raises UsageError before the portal of a function has been opened.
        """
        return self._engine

    @property
    def _engine(self) -> PortalEngine:
        if self._made is None:
            raise UsageError("this portal was not opened: write `portal.open()`, or use `with`")
        return self._made

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain and close the engine, if this portal started it; raises EngineFailed as it does.

        In a process that was forked there is nothing to end.
        """
        thread, self._thread = self._thread, None
        if self._forsaking is not None:
            self._forsaking.detach()
        if thread is None or not thread.is_alive():
            return
        self._closed_in = this_process()
        try:
            thread.call(self._engine.__aexit__, kind, error, traceback)
        finally:
            thread.end()

    def open(self) -> Portal:
        """Enter it without a `with`, unless that was done; give it. Leave it with `close`.

        Any number of threads may call this: one starts the engine, and the others wait for it. So
        `portal.open().execute(...)` starts it at the first request, after a server has forked. A
        start that fails raises what the engine raises, in each of these threads. Of a portal with
        a function, the next call tries again, and also starts a new engine where one has failed.
        Raises Closed behind `close` or the end of a `with`, but in a process that was forked since.
        """
        failures = self._failures
        with self._opening:
            if self._make is not None:
                self._drop_failed()
            if self._thread is not None:
                return self
            if self._failures is not failures:
                raise self._failures[0]  # of somebody who tried while this thread waited
            try:
                return self._start(self._next_engine())
            except Exception as error:
                self._failures = [error]
                raise

    def _drop_failed(self) -> None:
        """End an engine that has failed; it stays in place until another one has started."""
        made, thread = self._made, self._thread
        if made is None or thread is None or made.failed is None or not thread.is_alive():
            return
        with suppress(EngineError):  # it was logged as it failed
            self.__exit__(None, None, None)

    def close(self) -> None:
        """Drain and close the engine if this portal has started it; nothing otherwise."""
        self.__exit__(None, None, None)

    # -- calls ------------------------------------------------------------------------------

    def execute(
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
        timeout: float | None = None,
    ) -> Receipt[Reply]:
        """Run one command, as `Engine.execute` does; return when its events are durable.

        `retry` is how often it is sent again where that is safe, within `timeout`, as `Retry(3)`.

        `timeout` is how many seconds the thread waits. When they are over it raises OutcomeUnknown:
        the command may be run all the same, and the same key finds out. `deadline` says instead by
        when the command must be decided, and is answered truly.
        """

        def run() -> Coroutine[Any, Any, Receipt[Reply]]:
            return self._engine.execute(
                command,
                key=key,
                expected=expected,
                deadline=deadline,
                correlation=correlation,
                causation=causation,
                principal=principal,
                headers=headers,
                retry=retry,
            )

        try:
            return self.call(run, timeout=timeout)
        except TimeoutError as error:
            raise OutcomeUnknown(
                f"the thread waited {timeout:g} s for {type(command).__name__} and waits no more: "
                f"it may be run or not. Send it again with the same key; without one, read first."
            ) from error

    def execute_many(
        self, commands: Iterable[Envelope | Command], *, window: int = 256
    ) -> Generator[Receipt | EngineError, None, None]:
        """Run many `commands`, at most `window` at a time; give their answers in order.

        The commands are taken from the iterable in this thread, a window at a time. Answers are
        those of `Engine.execute_many`.
        """
        window = check_many(commands, window, is_async=False)
        waiting: list[Envelope] = []
        failure: BaseException | None = None
        source = iter(commands)
        while failure is None:
            try:
                # As it is now: a source that fills one list for each command goes on at once.
                waiting.append(as_taken(enveloped(next(source))))
            except StopIteration:
                break
            except BaseException as error:
                # What it gave before is run, and its answers are given, as if it had ended there.
                failure = error
            if len(waiting) == window:
                yield from self._run_window(waiting)
                waiting = []
        yield from self._run_window(waiting)
        if failure is not None:
            raise failure

    def _run_window(self, commands: list[Envelope]) -> list[Receipt | EngineError]:
        async def run() -> list[Receipt | EngineError]:
            answers = self._engine.execute_many(commands, window=len(commands))
            return [answer async for answer in answers]

        return self.call(run) if commands else []

    def query(
        self,
        query: Query[Answer],
        *,
        at: Receipt | str | int | None = None,
        timeout: float | None = None,
        principal: str | None = None,
    ) -> Answer:
        """Ask the views; give the answer, and raise what `Engine.query` does."""
        return self.call(
            lambda: self._engine.query(query, at=at, timeout=timeout, principal=principal)
        )

    def call(
        self, function: Callable[[], Coroutine[Any, Any, T]], *, timeout: float | None = None
    ) -> T:
        """Run `await function()` on the engine's loop; give what it returns, raise what it raises.

        For what has no method here: `portal.call(lambda: engine.state(Order, "o-1"))`. Raises
        TimeoutError after `timeout` seconds; the call is cancelled then. Raises OutcomeUnknown
        where the host ended the loop, and its tasks, before there was an answer. Raises UsageError
        after a second in which that loop has not run: nothing was run then.
        """
        seconds = None if timeout is None else as_seconds("timeout", timeout)
        loop = self._engine.usable_loop()
        if _running_loop() is loop:
            text = "a portal is for other threads: here it would block the loop that it waits for"
            raise UsageError(f"{text}. Await the engine itself.")
        inner, turn = function(), dict[str, str]()
        waiting = _without_exit(inner, turn)
        try:
            answer = _begun(waiting, loop)
        except RuntimeError as error:
            waiting.close()
            inner.close()
            raise Closed("the engine has stopped, and its loop is closed: not run") from error
        try:
            return _waited_for(answer, loop, seconds, turn)
        except _NotTakenError:
            answer.cancel()
            inner.close()
            raise UsageError(
                "the engine's event loop does not run now, so nobody would answer: call this while "
                "it runs, or let the portal start the engine. In pytest, give the fixture of the "
                "engine and its tests one loop. Nothing was run."
            ) from None
        except CancelledError as error:
            if inspect.getcoroutinestate(waiting) == inspect.CORO_CREATED:
                waiting.close()
                inner.close()
                raise Closed("the engine's loop was closed before it took this: not run") from None
            raise OutcomeUnknown(
                "the engine's loop was ended before this call was answered: what it began may be "
                "done or not. Send a command again with the same key; without one, read first."
            ) from error
        except BaseException:
            answer.cancel()
            raise


def _begun(waiting: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> Future[T]:
    """Run a call on the loop, which is asyncio's, whatever runs where the caller is."""
    return own_context().run(asyncio.run_coroutine_threadsafe, waiting, loop)


class _NotTakenError(Exception):
    """The loop does not run, and has not taken the call; it will not any more."""


async def _without_exit(waiting: Coroutine[Any, Any, T], turn: dict[str, str]) -> T:
    """Wait for a call; an exit in it, as of middleware, is its error and ends no loop.

    Who waits may have given it up before its turn came.
    """
    if turn.setdefault("has", "loop") != "loop":
        raise asyncio.CancelledError
    try:
        return await waiting
    except (SystemExit, KeyboardInterrupt) as error:
        raise as_error(error) from error


_LOOK_SECONDS: Final = 1.0
"""How often who waits looks whether the loop is there; what it is given as it closes is lost."""


def _waited_for(
    answer: Future[T],
    loop: asyncio.AbstractEventLoop,
    seconds: float | None,
    turn: dict[str, str],
) -> T:
    """Give the answer; raise TimeoutError when its time is over, CancelledError without a loop."""
    left = math.inf if seconds is None else seconds
    while True:
        pause = min(left, _LOOK_SECONDS)
        with suppress(TimeoutError):
            return result_of(answer, pause)
        was_closed = loop.is_closed()  # before the answer is looked at, which it may have given
        if answer.done():
            return answer.result()  # it came in this very moment, or is a TimeoutError itself
        if was_closed:
            raise CancelledError
        if not loop.is_running() and turn.setdefault("has", "caller") == "caller":
            raise _NotTakenError  # as where one thread has both: it would wait for itself
        left -= pause
        if left <= 0:
            raise TimeoutError


class _LoopThread:
    """An event loop in a thread of its own; also a greenlet's, whose own would keep all others.

    It is a daemon thread, and nothing here waits for it where Python takes the program apart: the
    thread stands still by then, and a program that left its portal open would never end. That is
    as if it had been killed.
    """

    def __init__(self) -> None:
        self.loop = new_loop()
        self._thread = start_native(partial(serve, self.loop), "foldline portal")

    def call(self, func: Callable[..., Coroutine[Any, Any, T]], /, *args: Any) -> T:
        """Run `await func(*args)` there; give what it gives."""
        return result_of(_begun(func(*args), self.loop))

    def is_alive(self) -> bool:
        """Whether it is there: a process that was forked has it not."""
        return self._thread.is_alive()

    def end(self) -> None:
        """End the loop, what still runs in it, and the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()


_ending: Final[set[asyncio.Task[None]]] = set()  # a loop keeps no task from being collected


def _forsaken(thread: _LoopThread, engine: PortalEngine) -> None:
    """End what belonged to a portal that nobody has any more, and wait for nothing."""
    if not thread.is_alive():
        return
    loop = thread.loop

    async def end() -> None:
        try:
            await engine.__aexit__(None, None, None)
        finally:
            loop.stop()

    def begin() -> None:
        task = loop.create_task(end())
        _ending.add(task)
        task.add_done_callback(_ending.discard)

    loop.call_soon_threadsafe(begin)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
