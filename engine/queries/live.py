"""Live queries: whoever watches a query is given its answer, and a new one whenever it changes.

Rules: equal queries are asked once for all who watch them, and asked again only when a row has
changed that the last answer has read, and somebody waits. Of one query one ask is under way; what
changes meanwhile asks once more. Nothing is kept for a watcher: who is slow is given the newest
answer and not those between, and none that equals the one before it. What has changed before it was
noted, and after the state that the answer reads, asks once more. A projection that stops ends no
watch. One question to the gate stands before it, however long it lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, Generic, TypeVar, cast

from ..authorization import Gate
from ..errors import Closed, Overloaded, UsageError
from ..limits import Limits
from ..model.messages import Query, Receipt, position_of
from ..runtime.bell import Bell
from ..runtime.safely import as_error, of_a_task
from ..statistics import LiveStatistics
from ..stores.contract.views import Changes, Part, ViewsStore
from .answers import AT_SECONDS, Answers
from .notes import Notes, Projected
from .question import Question, Told, are_same, key_of, own, weigh
from .reading import Reading

__all__ = ["LiveQueries", "LiveQuery"]

A = TypeVar("A")


class LiveQueries:
    """All live queries of one engine; the supervisor runs and stops them like a projector."""

    def __init__(
        self,
        answers: Answers,
        projectors: Mapping[str, Projected],
        store: ViewsStore,
        limits: Limits,
        *,
        check_usable: Callable[[], object],
        gate: Gate | None = None,
    ) -> None:
        self._answers = answers
        self._notes = Notes(projectors, store.transactions, limits.watched_rows)
        self._limits = limits
        self._check_usable = check_usable
        self._gate = gate
        self._questions: dict[object, Question] = {}
        self._due: dict[Question, None] = {}
        """Those that wait to be asked, in the order in which they are."""
        self._askers: set[asyncio.Task[None]] = set()
        self._stopping = Bell()
        self._ended = self._failed = False
        self._weight = 0
        """Bytes of all answers that are held."""
        self._watchers = self._unchanged = 0

    # -- life -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Wait for the end of the engine, and let those that watch know."""
        self._failed = True
        try:
            await self._stopping.wait()
            self._failed = False
        finally:
            self._ended = True
            for asker in self._askers:
                asker.cancel()
            for question in self._questions.values():
                question.wake()
        # The views are closed next, and shall not be so under those that read them.
        if self._askers:
            # An answer that will not be cancelled holds nobody up for longer.
            await asyncio.wait(self._askers, timeout=1.0)

    def stop(self) -> None:
        """Let `run` return; those that watch end with what they have not seen yet."""
        self._stopping.set()

    def have_ended(self) -> bool:
        """Whether the engine has stopped; raise Closed where it has failed."""
        if self._ended and self._failed:
            raise Closed("the engine has failed: watch again in a new one")
        return self._ended

    def statistics(self) -> LiveStatistics:
        """Give the numbers as they are now; called from any thread."""
        return LiveStatistics(
            queries=len(self._questions),
            watchers=self._watchers,
            due=len(self._due),
            asks=self._notes.asks,
            unchanged=self._unchanged,
            torn=self._notes.torn,
        )

    # -- those who watch ----------------------------------------------------------------------

    def watch(
        self,
        query: Query[A],
        at: Receipt | str | int | None,
        timeout: float | None,
        principal: str | None,
    ) -> LiveQuery[A]:
        """Give what watches a query; nothing is asked before it is iterated."""
        self._check_usable()
        if self._gate is None:
            self._answers.projections_of(query)
        return LiveQuery(self, query, at, timeout, principal)

    async def admit(
        self,
        query: Query[Any],
        at: Receipt | str | int | None,
        timeout: float | None,  # noqa: ASYNC109 - running out of it names who lags
        principal: str | None,
    ) -> None:
        """Return when a query may be watched, and the views have the position asked for."""
        self._check_usable()
        if self._gate is not None:
            await self._gate.check(principal, "query", query)
        if at is not None:
            await self._answers.reach(query, at, timeout)

    async def reach_too(self, question: Question, position: int, deadline: float) -> bool:
        """Wait for what an answer reads beside what it names; tell whether that was needed."""
        if self.position(question) >= position:
            return False
        late = [name for name in question.projections if self._notes.position_of(name) < position]
        await self._answers.reach_too(late, position, deadline)
        return True

    def join(self, query: Query[Any]) -> Question:
        """Count one more who watches a query."""
        if (n := self._watchers) >= self._limits.watches:
            raise Overloaded(f"{n} watch queries already (Limits.watches): watch again later")
        key = key_of(query)
        question = self._questions.get(key)
        if question is not None and not are_same(question.query, query):
            # Two that are told apart in Python and not in JSON.
            question, key = None, object()
        if question is None:
            if len(self._questions) >= self._limits.watched_queries:
                raise Overloaded(
                    f"{len(self._questions)} different queries are watched already "
                    f"(Limits.watched_queries): watch again after a pause"
                )
            question = self._questions[key] = Question(query, key)
        question.watchers += 1
        self._watchers += 1
        return question

    def leave(self, question: Question) -> None:
        """Count one less, and forget the query where it was the last."""
        question.watchers -= 1
        self._watchers -= 1
        if not question.watchers and question.failure is None:
            self._forget(question)

    def _forget(self, question: Question) -> None:
        del self._questions[question.key]
        self._weight -= question.weight
        question.weight = 0
        self._due.pop(question, None)
        if not question.asking:
            self._notes.forget(question)

    def wait(self, question: Question, joining: bool) -> asyncio.Future[None]:
        """Give what is done when a question may have another answer; have it asked if it must."""
        woken = question.wait(joining)
        if question.due and not question.asking:
            self._enqueue(question)
        return woken

    def position(self, question: Question) -> int:
        """Give a position that a question's answer surely contains: where settled, that of now."""
        if not question.is_settled:
            return question.position
        return min((self._notes.position_of(name) for name in question.projections), default=0)

    # -- asking -------------------------------------------------------------------------------

    def written(self, part: Part, changes: Changes | None) -> None:
        """Ask again whatever a projector's transaction concerns; called once it is visible.

        None where the projector does not know what has changed.
        """
        for question in self._notes.concerned(part, changes):
            question.due = True
            if question.is_awaited and not question.asking:
                self._enqueue(question)

    def _enqueue(self, question: Question) -> None:
        if question in self._due:
            return
        self._due[question] = None
        if len(self._askers) < self._limits.asks_at_once and not self._ended:
            # In nobody's context: an ask is for many, and belongs to no span of one of them.
            asker = asyncio.get_running_loop().create_task(self._ask_due(), context=Context())
            self._askers.add(asker)
            asker.add_done_callback(self._askers.discard)

    async def _ask_due(self) -> None:
        while self._due:
            question = next(iter(self._due))
            del self._due[question]
            question.asking = True
            reading = Reading(self._notes, question)
            try:
                answer = await self._ask_once(question, reading)
            except Exception as error:
                question.asking = False
                self._fail(question, error)
            else:
                question.asking = False
                try:
                    self._tell(question, reading, answer)
                except BaseException as error:  # of a class of the host's, which is an answer
                    self._fail(question, as_error(error))

    async def _ask_once(self, question: Question, reading: Reading) -> Any:
        seconds, name = self._limits.ask_seconds, type(question.query).__name__
        try:
            return await self._answers.ask(question.query, timeout=seconds, reads=reading)
        except TimeoutError as error:
            raise TimeoutError(
                f"the answer to {name}, which is watched, took longer than {seconds} s "
                f"(Limits.ask_seconds), or than its own limit: make it read less, or raise that"
            ) from error
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            raise of_a_task(error) from error.__cause__

    def _tell(self, question: Question, reading: Reading, answer: Any) -> None:
        if not question.watchers:
            self._notes.forget(question)
            return
        reading.keep()
        question.ended = question.begun
        question.projections = tuple(reading.positions)
        question.position = reading.position()
        told = question.told
        if told is None or not are_same(told.answer, answer):
            weight = weigh(answer)
            if self._weight - question.weight + weight > self._limits.watched_bytes:
                self._fail(question, self._too_heavy(question))
                return
            self._weight += weight - question.weight
            question.weight = weight
            question.told = Told(answer, 1 if told is None else told.number + 1)
            question.wake()
        else:
            self._unchanged += 1
            question.wake_joining()
        if question.due and question.is_awaited:
            self._enqueue(question)

    def _too_heavy(self, question: Question) -> Overloaded:
        return Overloaded(
            f"with the new answer to {type(question.query).__name__} the answers of "
            f"{len(self._questions)} watched queries have more than {self._limits.watched_bytes} "
            f"bytes (Limits.watched_bytes): watch less, or answer in pages. Watching again is safe"
        )

    def _fail(self, question: Question, error: Exception) -> None:
        """Let all who watch a query have the error; who watches it anew has it asked anew."""
        if question.watchers:
            self._forget(question)
        else:
            self._notes.forget(question)
        question.fail(error)


class LiveQuery(Generic[A]):
    """The answers to one query, for one who watches: `async for answer in engine.watch(query)`.

    The first one comes at once, each further one when it has changed. It ends when the engine
    stops; it raises Closed where the engine has failed, and what the answer raised where that
    fails. To leave early, use `contextlib.aclosing`. A caller may change the list that it is given.
    All who watch equal queries share what is in it: change nothing in that.
    """

    def __init__(
        self,
        live: LiveQueries,
        query: Query[A],
        at: Receipt | str | int | None,
        timeout: float | None,
        principal: str | None,
    ) -> None:
        self._live = live
        self._loop = asyncio.get_running_loop()
        self._query = query
        self._at = at
        self._timeout = timeout
        self._principal = principal
        self._question: Question | None = None
        self._told: Told | None = None
        """What was given last."""
        self._number = 0
        """Of the newest answer that was looked at."""
        self._joined = 0
        """How many asks had begun when it joined: its first answer is no older than that."""
        self._position = self._until = 0
        self._deadline = 0.0
        """Until when the first answer is to contain position `_until`."""
        self._woken: asyncio.Future[None] | None = None
        """What it waits for."""
        self._is_busy = self._is_closed = False

    @property
    def position(self) -> int:
        """A position that the answer given last surely contains; 0 before the first one.

        It moves on, without a new answer, where what happens since does not change the answer.
        """
        question = self._question
        if question is not None and self._told is not None and self._told is question.told:
            self._position = self._live.position(question)
        return self._position

    @property
    def json(self) -> bytes:
        """The answer given last as JSON, encoded once for all who were given it."""
        if self._told is None:
            raise UsageError("this live query has given no answer yet: iterate it first")
        return self._told.json

    def __aiter__(self) -> LiveQuery[A]:
        """Give itself."""
        return self

    async def __anext__(self) -> A:
        """Give the next answer. If the wait for it is cancelled, nothing is lost.

        The first one raises Forbidden, ProjectionLag, Closed, and Overloaded
        (Limits.watched_queries, Limits.watches).
        """
        if self._is_busy:
            raise UsageError("this live query is waited for in another task: give each its own")
        self._is_busy = True
        try:
            if self._question is None and not self._is_closed:
                await self._begin()
            return await self._next()
        except Exception:  # also the end, a StopAsyncIteration
            self._close()
            raise
        finally:
            self._is_busy = False

    async def aclose(self) -> None:
        """Watch no more; a wait for the next answer ends."""
        self._close()

    async def _begin(self) -> None:
        if self._at is not None:
            seconds = AT_SECONDS if self._timeout is None else self._timeout
            self._deadline = self._loop.time() + seconds
            self._until = position_of(self._at)
        await self._live.admit(self._query, self._at, self._timeout, self._principal)
        if not self._is_closed:
            self._question = self._live.join(self._query)
            self._joined = self._question.begun

    async def _next(self) -> A:
        question = self._question
        while question is not None and not self._is_closed:
            if self._told is None and self._until and question.told is not None:
                await self._live.reach_too(question, self._until, self._deadline)
            if self._take(question):
                assert self._told is not None
                return cast("A", own(self._told.answer))
            question.raise_failure()
            if self._live.have_ended():
                break
            await self._wait(question)
        raise StopAsyncIteration

    async def _wait(self, question: Question) -> None:
        self._woken = self._live.wait(question, joining=self._told is None)
        try:
            await self._woken
        finally:
            question.wait_no_more(self._woken)

    def _take(self, question: Question) -> bool:
        """Take the newest answer, if it is one to give."""
        told = question.told
        if told is None or told.number == self._number:
            return False
        if self._told is None and not question.is_settled and question.ended <= self._joined:
            return False
        if self._told is None and self._live.position(question) < self._until:
            return False
        passed_over = told.number > self._number + 1
        self._number = told.number
        if passed_over and self._told is not None and are_same(self._told.answer, told.answer):
            self._told = told
            return False
        self._told = told
        return True

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            if self._question is not None:
                self._live.leave(self._question)
            if self._woken is not None and not self._woken.done():
                self._woken.set_result(None)

    def __del__(self) -> None:
        """Leave where nobody closed it, as a `break` out of `async for` does."""
        if self._question is not None and not self._is_closed:
            # Whatever collects the garbage may do so in any thread.
            with contextlib.suppress(RuntimeError):  # the loop has been closed, and all with it
                self._loop.call_soon_threadsafe(self._live.leave, self._question)
