"""Answers: the functions that answer queries, found by the type of query that they are for.

Rules: an answer reads views and nothing else; it never touches the write side. A query asked `at` a
position waits until the projections concerned have reached it, or fails and names who lags, by how
much and in which state; those are concerned that it names, and those that it is seen to read. All
that it reads is of one state of the views. A position that the log has not is refused at once, and
how many wait is bounded.
"""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import msgspec

from ..errors import InvalidInput, Overloaded, ProjectionLag, ProjectionUnserved, UsageError
from ..histogram import Histogram
from ..limits import Limits
from ..model.copying import own_copy
from ..model.messages import Query, Receipt, instead_text, position_of
from ..runtime.futures import is_being_cancelled
from ..runtime.safely import as_error
from ..runtime.within import within
from ..statistics import QueryStatistics
from ..stores.contract.log import Head
from ..stores.contract.views import ViewsState, ViewsStates
from ..telemetry import Observation, Observer, QueryBegan
from .declared import AnswerDefinition, answers_of, check_awaited, judged
from .inside import ViewsFor, answering, views_inside
from .notes import Placed
from .views import Reads, Views

__all__ = ["AT_SECONDS", "Answers", "Followed", "given_by"]

A = TypeVar("A")

AT_SECONDS: Final = 5.0
"""How long a query `at` a position may take, unless it says otherwise."""
HOLDING: Final = (0, 0, 0.5)
"""A query whose answer may have seen two states, in memory alone, is asked again: for how many
seconds writes wait for each try at most. For the last one it is `Limits.state_seconds`."""


class Followed(Placed, Protocol):
    """A projection at work, as far as a query is concerned."""

    @property
    def state(self) -> str:
        """Told where it lags."""
        ...

    async def wait_for(self, position: int, deadline: float) -> bool:
        """Return whether queries see the event at this position, as soon as that is known."""
        ...


class Ended(Protocol):
    """A log that is asked for its end."""

    async def head(self) -> Head | None:
        """Give the end of the log; None where it is not known."""
        ...


class _Asked(msgspec.Struct):
    """A query on its way to its answer."""

    query: Query[Any]
    definition: AnswerDefinition
    position: int
    timeout: float | None
    reads: Reads | None
    inside: ViewsFor | None
    """What the answer reads that has asked it, if one has."""
    read: set[str] = msgspec.field(default_factory=set)
    """The projections that the answer has read."""
    positions: Mapping[str, int] | None = None
    """How far the projections are in what it has read, where the state says so."""
    waited: float = 0.0
    """Seconds until the views had the position, or could not have it."""


class _Numbers:
    """What is counted of one type of query."""

    def __init__(self) -> None:
        self.answered = self.lagged = self.failed = 0
        self.seconds = Histogram.of_seconds()
        self.wait_seconds = Histogram.of_seconds()

    def failure(self, error: BaseException) -> None:
        """Count a query without an answer."""
        if isinstance(error, ProjectionLag):
            self.lagged += 1
        else:
            self.failed += 1

    def statistics(self) -> QueryStatistics:
        """Give the numbers as they are now."""
        return QueryStatistics(
            answered=self.answered,
            lagged=self.lagged,
            failed=self.failed,
            seconds=self.seconds.copy(),
            wait_seconds=self.wait_seconds.copy(),
        )


class Answers:
    """All answers of an engine, or of who looks on."""

    def __init__(
        self,
        functions: Sequence[Callable[..., Any]],
        store: ViewsStates,
        projectors: Mapping[str, Followed],
        limits: Limits,
        stopwatch: Callable[[], float],
        watch: Observer | None = None,
        log: Ended | None = None,
        *,
        debug: bool = False,
    ) -> None:
        """Take the decorated functions; raise DefinitionError for what does not fit together.

        `log` is asked for its end where the views have not yet come as far as a query asks for.
        With `debug` each answer is compared with the type that its query declares.
        """
        self._store = store
        self._log = log
        self.acknowledged: Callable[[], int] = int
        """Gives a position that the log surely has: then it is not asked for its end."""
        self._waits_max = limits.waits_at
        self._state_seconds = limits.state_seconds
        self._waits = 0
        self._projectors = projectors
        self._stopwatch = stopwatch
        self._watch = watch
        self._left_out: Set[str] = frozenset()
        self._numbers: dict[str, _Numbers] = {}
        tables = {
            table.name: table
            for projector in projectors.values()
            for table in projector.definition.tables.values()
        }
        projections = {
            table.lower(): name
            for name, projector in projectors.items()
            for table in projector.definition.table_names
        }
        self._views = Views(store, tables, limits, None, projections)
        found = answers_of(functions, projectors)
        self._by_query = {q: judged(d) for q, d in found.items()} if debug else found
        self.engine: object = self._by_query
        """Whose answers they are, for one that asks again: several may be those of one engine."""
        for query in self._by_query:
            self._numbers.setdefault(query.query_name, _Numbers())

    @property
    def definitions(self) -> Mapping[type[Query[Any]], AnswerDefinition]:
        """What answers each type of query."""
        return self._by_query

    def leave_out(self, projections: Set[str]) -> None:
        """Answer nothing from these projections."""
        self._left_out = projections

    def observe(self, watch: Observer | None) -> None:
        """Tell a telemetry of each query from now on."""
        self._watch = watch

    def statistics(self) -> Mapping[str, QueryStatistics]:
        """Give the numbers as they are now, by the query's name; called from any thread."""
        # Every name is there from the start, so that the dict does not change under a reader.
        return {name: numbers.statistics() for name, numbers in self._numbers.items()}

    async def ask(
        self,
        query: Query[A],
        at: Receipt | str | int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - running out of it names who lags
        reads: Reads | None = None,
    ) -> A:
        """Answer a query; with `at`, from views that contain that position.

        `reads` gets to know what the answer reads. Raises ProjectionLag where the views are not
        there in time, TimeoutError where the answer itself takes longer than `timeout` seconds,
        UsageError for a query that nothing here answers, and for `at` inside of another answer.
        """
        definition = self._definition_of(query)
        position, inside = position_of(at), views_inside(self.engine)
        if inside is not None and at is not None:
            raise UsageError(
                f"an answer asks {type(query).__name__} with `at`, and all that it reads is one "
                f"state of the views: ask without, and give `at` to the query that it answers"
            )
        if timeout is None and at is not None:
            timeout = AT_SECONDS
        answer: A = await self._ask(_Asked(query, definition, position, timeout, reads, inside))
        return answer

    async def look(self, query: Query[A]) -> tuple[A, Mapping[str, int] | None]:
        """Answer a query; give how far the projections are that the answer has read, too.

        That is None where it has read nothing. Raises what `ask` does.
        """
        asked = _Asked(query, self._definition_of(query), 0, None, None, None)
        answer: A = await self._ask(asked)
        positions = asked.positions
        if positions is None or not asked.read:
            return answer, None
        return answer, {name: positions[name] for name in asked.read}

    async def _ask(self, asked: _Asked) -> Any:
        query = asked.query
        numbers, watch = self._numbers[query.query_name], self._watch
        seen = None if watch is None else watch.begin(QueryBegan(own_copy(query), asked.position))
        begin = self._stopwatch()
        try:
            answer = await self._answer(asked, numbers)
        except BaseException as error:
            numbers.failure(error)
            self._ended(asked, seen, begin, error)
            raise
        numbers.answered += 1
        self._ended(asked, seen, begin)
        return answer

    def _ended(
        self,
        asked: _Asked,
        seen: Observation | None,
        begin: float,
        error: BaseException | None = None,
    ) -> None:
        seconds = self._stopwatch() - begin
        self._numbers[asked.query.query_name].seconds.record(seconds)
        if self._watch is not None:
            waited = {"wait_seconds": asked.waited} if asked.position else {}
            self._watch.end(seen, error, seconds=seconds, **waited)

    async def _answer(self, asked: _Asked, numbers: _Numbers) -> Any:
        if asked.timeout is None:
            return await self._read(asked)
        deadline = asyncio.get_running_loop().time() + asked.timeout
        if not asked.position:
            return await within(deadline, self._read(asked), partial(_too_slow, asked))
        names = self._named(asked.definition)
        while True:
            begin = self._stopwatch()
            try:
                await self._wait_for(names, asked.position, deadline, again=bool(asked.read))
            finally:
                asked.waited += self._stopwatch() - begin
                numbers.wait_seconds.record(asked.waited)
            # Before the answer reads: what it reads contains that much, unless it is taken back.
            reached = {name: (p.position, p.resets) for name, p in self._projectors.items()}
            try:
                answer = await within(deadline, self._read(asked), partial(_too_slow, asked))
            except TimeoutError:
                raise
            except Exception:
                # What is missing is no answer either, where it is missing for a moment.
                if not (names := self._not_in(asked, reached)):
                    raise
            else:
                if not (names := self._not_in(asked, reached)):
                    return answer

    def _not_in(self, asked: _Asked, reached: Mapping[str, tuple[int, int]]) -> Sequence[str]:
        """Give which projections did not contain the position in what an answer has read."""
        seen = asked.positions
        if seen is not None:
            return [n for n in asked.read if n in seen and seen[n] < asked.position]
        return [
            name
            for name in asked.read
            if reached[name][0] < asked.position
            or reached[name][1] != self._projectors[name].resets
        ]

    def _unserved(self, names: Iterable[str], state: ViewsState) -> Sequence[str]:
        """Give which of these projections serve nothing: others keep them, or they are built."""
        there = state.positions
        with_tables = [n for n in names if self._projectors[n].definition.has_tables]
        return [
            name
            for name in with_tables
            if name in self._left_out or (there is not None and name not in there)
        ]

    async def _read(self, asked: _Asked) -> Any:
        """Let a query be answered from one state of the views."""
        for name in asked.definition.projections or ():
            if name in self._left_out:
                raise ProjectionUnserved(name)
        if asked.inside is not None:
            return await given_by(asked.definition, asked.query, asked.inside(asked.definition))
        for holding in (*HOLDING, self._state_seconds):
            state = self._store.state(holding=holding)
            views = self._views.of(state, asked.reads)
            if asked.reads is not None:
                asked.reads.begin()
            try:
                with answering(self.engine, partial(_same, views)):
                    answer = await given_by(asked.definition, asked.query, views)
            except Exception as error:
                if not state.is_torn or holding == self._state_seconds:
                    for name in self._unserved(asked.definition.projections or (), state):
                        raise ProjectionUnserved(name) from error  # its tables are others
                    raise
            else:
                for name in self._unserved(views.read, state):
                    raise ProjectionUnserved(name)  # a statement has read what nobody keeps
                if not state.is_torn:
                    return answer
            finally:
                asked.read |= views.read - self._left_out
                asked.positions = state.positions
                state.end()
        raise TimeoutError(
            f"the answer to {type(asked.query).__name__} takes longer than {self._state_seconds} "
            f"s, for which views in memory stand still for it (Limits.state_seconds): make it read "
            f"less, or raise the limit. Asking again is safe"
        )

    def projections_of(self, query: Query[Any]) -> Sequence[str]:
        """Give which projections a query `at` a position waits for.

        Raises UsageError for a query that nothing here answers.
        """
        names = self._definition_of(query).projections
        return tuple(self._projectors) if names is None else names

    def _definition_of(self, query: Query[Any]) -> AnswerDefinition:
        definition = self._by_query.get(type(query))
        if definition is None:
            if isinstance(typing.cast("object", query), Query):
                mend = f"{type(query).__name__}: pass the function that answers it to "
                raise UsageError(f"no answer for {mend}Engine(answers=[...])")
            raise UsageError(f"no answer for {instead_text(query, Query)}")
        return definition

    async def reach(
        self,
        query: Query[Any],
        at: Receipt | str | int,
        timeout: float | None,  # noqa: ASYNC109 - running out of it names who lags
    ) -> None:
        """Wait until the views that a query is answered from contain a position.

        Raises ProjectionLag as `ask` does.
        """
        seconds = AT_SECONDS if timeout is None else timeout
        deadline = asyncio.get_running_loop().time() + seconds
        names = self._named(self._definition_of(query))
        await self._wait_for(names, position_of(at), deadline)

    async def reach_too(self, names: Sequence[str], position: int, deadline: float) -> None:
        """Wait until these views contain a position as well, which an answer was seen to read."""
        await self._wait_for(names, position, deadline)

    def _named(self, definition: AnswerDefinition) -> Sequence[str]:
        if definition.projections is not None:
            return definition.projections
        # Sinks and reactors are outside the views: who wants to wait for one says so.
        return tuple(n for n, p in self._projectors.items() if p.definition.has_tables)

    async def _wait_for(
        self, names: Sequence[str], position: int, deadline: float, *, again: bool = False
    ) -> None:
        concerned = {name: self._projectors[name] for name in names}
        # Once more, what was believed to be there was not.
        if not again and all(p.position >= position for p in concerned.values()):
            return
        log = None if position <= self.acknowledged() else self._log
        head = None if log is None else await log.head()
        if head is not None and position > head.position:
            raise InvalidInput(
                f"`at` is position {position}, and the log ends at {head.position}: it is no "
                f"receipt of this log, or of one from before a backup was restored. Ask without it"
            )
        if self._waits >= self._waits_max:
            raise Overloaded(
                f"{self._waits} queries wait for a position already (Limits.waits_at): ask again "
                f"after a pause"
            )
        self._waits += 1
        try:
            await self._wait_for_all(concerned, position, deadline)
        finally:
            self._waits -= 1

    async def _wait_for_all(
        self, concerned: Mapping[str, Followed], position: int, deadline: float
    ) -> None:
        for projector in concerned.values():
            if not await projector.wait_for(position, deadline):
                break
        else:
            return
        behind = {name: p.position for name, p in concerned.items() if p.position < position}
        if behind:
            states = {name: concerned[name].state for name in behind}
            raise ProjectionLag(position, behind, dict(states))


async def given_by(definition: AnswerDefinition, query: Query[Any], views: Views) -> Any:
    """Let the host's function answer; what it raises ends neither who asks nor the event loop."""
    name = type(query).__name__
    try:
        # A query that is watched, or torn, is asked more than once.
        answer = await definition.function(own_copy(query), views)
        check_awaited(query, answer)
        return answer
    except StopAsyncIteration as error:
        # Whoever watches would take it for the end of his watch.
        raise UsageError(f"the answer to {name} raised StopAsyncIteration") from error
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        raise UsageError(f"the answer to {name} was cancelled from inside") from error
    except (SystemExit, KeyboardInterrupt) as error:
        raise as_error(error) from error


def _same(views: Views, _: AnswerDefinition) -> Views:
    return views


def _too_slow(asked: _Asked) -> str:
    return (
        f"the answer to {type(asked.query).__name__} had {asked.timeout:g} s (timeout=), and took "
        f"longer, or waited behind reads of others. Asking again is safe"
    )
