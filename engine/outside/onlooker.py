"""Looking on from another process: the views of a running engine, asked and watched read-only.

Rules: the views' file is opened read-only, whoever has it open for writing; no lock is taken and
nothing is ever written. What is asked is answered by the same functions as in the engine, from
tables that are the same: others are refused and not believed (by a `ViewsReader`). Whoever watches
looks some times a second whether anything was committed, and asks only then; it is given what
differs from what it had, and misses the answers between. A server that tells of commits is listened
to: then one looks when it tells, and once a second without that. Those who wait for a position look
together, and the log is asked for its end before they do. It asks no `authorize`: whoever may read
the file may read all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Generic, TypeVar, cast
from weakref import WeakSet

from ..errors import (
    Closed,
    EngineError,
    Overloaded,
    ProjectionUnserved,
    StoreFailed,
    UsageError,
)
from ..limits import Limits
from ..model.checking import checked_copy
from ..model.messages import Query, Receipt
from ..model.projection import Projection, ProjectionDefinition
from ..model.projections import projections_of
from ..queries.answers import Answers
from ..queries.question import are_same, own
from ..runtime.loops import running_loop
from ..runtime.ports import Ports
from ..runtime.ring import Ring
from ..runtime.shared_call import SharedCall
from ..statistics import QueryStatistics
from ..stores.contract.backend import Outside
from ..stores.contract.log import Head
from ..stores.contract.outside import Look, Notices, NoViewsYet
from ..stores.urls import StoreName, open_backend
from .log_file import LogFile

__all__ = ["LOOK_SECONDS", "TOLD_LOOK_SECONDS", "Onlooker", "OnlookerQuery", "Waking"]

A = TypeVar("A")

LOOK_SECONDS: Final = 0.1
"""A tenth of a second is quick for a person, and a look costs next to nothing."""

TOLD_LOOK_SECONDS: Final = 1.0
"""Between two looks where commits are told, and none was."""

_RESTS: Final = (0.002, LOOK_SECONDS)
"""Seconds between looks of who waits for a position, the first and the longest; most often it is
there at once."""
_TOLD_RESTS: Final = (0.05, TOLD_LOOK_SECONDS)
"""The same, where commits are told."""

_PATIENCE_SECONDS: Final = 30.0
"""How long who watches waits for a server that has gone."""

_NOTHING: Final = object()


class Waking:
    """Rests between two looks, which end early where something was told."""

    def __init__(self, notices: Notices | None, ring: Ring | None) -> None:
        self._notices = notices
        self._ring = ring or Ring()

    @property
    def is_told(self) -> bool:
        """Whether somebody tells at the moment; if not, rests must be short."""
        return self._notices is not None and self._notices.is_heard

    @property
    def known(self) -> int:
        """How much was told; taken before a look, and given to the rest behind it."""
        return self._ring.count

    async def rest(self, known: int, seconds: float) -> None:
        """Wait until more is told than was known, so many seconds at most."""
        await self._ring.wait(known, seconds)


class Onlooker:
    """The views of an engine in another process; use it with `async with`.

    - `projections`, `answers`: some of those that the engine has.
    - `store`: the URL or the path that the engine has.
    - `limits`, `ports`: as for Engine.

    It takes no lock and writes nothing. Raises DefinitionError for a store that has no file, and on
    entering StoreRefused if the views are of other definitions. They need not be there yet. Views
    beside a log that was restored are shown as they are, until an engine starts and folds them
    again.
    """

    def __init__(
        self,
        *,
        projections: Sequence[type[Projection]],
        answers: Sequence[Callable[..., Any]],
        store: StoreName,
        limits: Limits | None = None,
        ports: Ports | None = None,
    ) -> None:
        ports = ports or Ports()
        self._outside = open_backend(store).outside(ports)
        definitions = projections_of(projections)
        limits = limits or Limits()
        self._reader = self._outside.views_reader(definitions, limits)
        self._log = _LogEnd(self._outside, ports)
        notices = self.notices = self._outside.notices()
        self._waking = Waking(notices, None if notices is None else notices.changed)
        refresh = SharedCall(self._refresh)
        self._seen = {d.name: _Seen(d, refresh, self._waking) for d in definitions}
        self._answers = Answers(
            answers,
            self._reader,
            self._seen,
            limits,
            ports.stopwatch,
            log=self._log,
        )
        self._unserved: Mapping[str, ProjectionUnserved] = {}
        self._open = False
        self._look: Look | None = None
        self._looked_at = float("-inf")
        self._known = 0
        """What was told before that look."""
        self._looking = SharedCall(self._look_now)
        self._watches_max = limits.watches
        self._watching: WeakSet[OnlookerQuery[Any]] = WeakSet()
        """Those that were iterated, as long as anybody has them."""

    async def __aenter__(self) -> Onlooker:
        """Open the file, if it is there; raise UsageError where it is open."""
        if self._open:
            raise UsageError("this Onlooker is open already: make another one for a second use")
        running_loop("an Onlooker")
        self._open = True
        try:
            await self._reader.open()
            await self.positions()
            if self.notices is not None:
                await self.notices.open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        await self._close()

    async def _close(self) -> None:
        self._open = False
        try:
            if self.notices is not None:
                await self.notices.close()
            await self._log.close()
        finally:
            await self._reader.close()

    async def query(
        self,
        query: Query[A],
        *,
        at: Receipt | str | int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - running out of it names who lags
    ) -> A:
        """Answer a `query` as the engine would; with `at`, from views that contain that position.

        `timeout` is in seconds, as for `Engine.query`. Raises StoreRefused if there are no views
        yet, or others than those declared here, and what `Engine.query` raises.
        """
        self._check_open()
        try:
            return await self._answers.ask(checked_copy(query), at, timeout)
        except ProjectionUnserved as error:
            raise self._named(error) from None

    def watch(self, query: Query[A]) -> OnlookerQuery[A]:
        """Give what watches a query: `async for answer in onlooker.watch(query)`."""
        self._check_open()
        return OnlookerQuery(self, checked_copy(query))

    async def positions(self) -> Mapping[str, int]:
        """Give how far the views of each projection are; nothing where there are none yet."""
        self._check_open()
        try:
            return await self._reader.positions()
        except NoViewsYet:
            return {}

    def writer(self) -> int | None:
        """Give the process that has the store open, as far as its own note says; None for none."""
        return self._outside.writer()

    def _named(self, error: ProjectionUnserved) -> ProjectionUnserved:
        """Give the error for a projection that is left out, made anew, or the one that there is."""
        found = self._unserved.get(error.projection)
        return error if found is None else ProjectionUnserved(*found.args)

    def statistics(self) -> Mapping[str, QueryStatistics]:
        """Give the numbers as they are now, by the query's name; called from any thread."""
        return self._answers.statistics()

    def enter(self, watching: OnlookerQuery[Any]) -> None:
        """Count one who watches; raise Overloaded where there are too many."""
        if watching not in self._watching:
            if (n := len(self._watching)) >= self._watches_max:
                raise Overloaded(f"{n} watch queries already (Limits.watches): watch again later")
            self._watching.add(watching)

    def leave(self, watching: OnlookerQuery[Any]) -> None:
        """Count one less."""
        self._watching.discard(watching)

    async def next_look(self, before: Look | None) -> Look:
        """Wait until something was committed since a look, and give the look that saw it."""
        waking = self._waking
        while True:
            look = await self._shared_look()
            if look is not None and look != before:
                return look
            # What was told since then, which another one may have made a moment ago.
            await waking.rest(self._known, TOLD_LOOK_SECONDS if waking.is_told else LOOK_SECONDS)
            # Not oftener, however much is told.
            await asyncio.sleep(self._looked_at + LOOK_SECONDS - asyncio.get_running_loop().time())

    async def look_at(self, query: Query[Any]) -> tuple[int, bool, Any]:
        """Give an answer, or that there is none yet, behind the position that it contains.

        And whether it contains all, since it has read nothing.
        """
        self._check_open()
        try:
            answer, read = await self._answers.look(checked_copy(query))
            positions = await self.positions() if read is None else read
        except NoViewsYet:
            return 0, False, _NOTHING
        except ProjectionUnserved as error:
            raise self._named(error) from None
        return min(positions.values(), default=0), read is None, answer

    async def _shared_look(self) -> Look | None:
        """Look, or give what another one who watches saw a moment ago; None without views."""
        self._check_open()
        # Half, since a rest may end a moment too soon.
        if asyncio.get_running_loop().time() - self._looked_at >= LOOK_SECONDS / 2:
            await self._looking()
        return self._look

    async def _look_now(self) -> None:
        begun, known = asyncio.get_running_loop().time(), self._waking.known
        try:
            self._look = await self._reader.look()
        except NoViewsYet:
            self._look = None
        self._looked_at, self._known = begun, known

    def _check_open(self) -> None:
        if not self._open:
            raise Closed("the onlooker is not open: use it inside `async with onlooker:`")

    async def _refresh(self) -> None:
        for name, position in (await self.positions()).items():
            self._seen[name].move(position)


class OnlookerQuery(Generic[A]):
    """The answers to one query, for one who watches: the first at once, others as they change.

    `onlooker.watch(query)` makes it. It waits for views that are not there yet, and over the
    engine's restarts. A server that is away is waited for, for half a minute. It ends with
    `aclose`. A slow reader is given the newest answer next. Raises Closed if this is closed, and
    what `Onlooker.query` raises, but for views that are not there yet.
    """

    def __init__(self, onlooker: Onlooker, query: Query[A]) -> None:
        self._onlooker = onlooker
        self._query = query
        self._look: Look | None = None
        self._answer: Any = _NOTHING
        self._position = 0
        self._has_all = self._is_closed = False

    def contains(self, position: int) -> bool:
        """Say whether the answer given last surely contains a position."""
        return self._has_all or self._position >= position

    @property
    def position(self) -> int:
        """A position that the answer given last surely contains; 0 before the first one."""
        return self._position

    def __aiter__(self) -> OnlookerQuery[A]:
        """Give itself."""
        return self

    async def __anext__(self) -> A:
        """Give the next answer. If the wait for it is cancelled, nothing is lost.

        The first one raises Overloaded (Limits.watches).
        """
        away_since: float | None = None
        while not self._is_closed:
            self._onlooker.enter(self)
            try:
                # Looked at before it is asked: what is committed meanwhile is another look.
                look = await self._onlooker.next_look(self._look)
                position, has_all, answer = await self._onlooker.look_at(self._query)
            except StoreFailed as error:
                now = asyncio.get_running_loop().time()
                away_since = now if away_since is None else away_since
                if not error.passes or now > away_since + _PATIENCE_SECONDS:
                    raise
                await asyncio.sleep(LOOK_SECONDS)
                continue
            self._look, away_since = look, None
            if answer is not _NOTHING and not are_same(self._answer, answer):
                self._position, self._answer = position, own(answer)
                self._has_all = has_all
                return cast("A", answer)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Watch no more."""
        self._is_closed = True
        self._onlooker.leave(self)


class _Seen:
    """The views of one projection, for who waits for them."""

    state_here: Callable[[str], str | None] | None = None
    """Gives what runs it in this process does, where this process is one that may."""
    is_left_out = False
    """Whether nothing of them is read, so that nobody waits for them any more."""

    def __init__(
        self,
        definition: ProjectionDefinition,
        refresh: SharedCall[None],
        waking: Waking,
    ) -> None:
        self.definition = definition
        self.position = self.resets = 0
        self._refresh = refresh
        self._waking = waking

    @property
    def state(self) -> str:
        """What is told of it where it lags."""
        here = None if self.state_here is None else self.state_here(self.definition.name)
        return here or "written by another process"

    def move(self, position: int) -> None:
        """Note where they are now."""
        self.resets += position < self.position
        self.position = position

    async def wait_for(self, position: int, deadline: float | None) -> bool:
        """Return whether queries see the event at this position, at the deadline at the latest.

        It does so too where nothing of them is to be read: who reads them is told why.
        """
        loop = asyncio.get_running_loop()
        rest = 0.0
        # Where it was believed to be there, and was not, only a look from now on tells.
        is_there = None if self.position >= position else lambda: self.position >= position
        while not self.is_left_out:
            known, is_told = self._waking.known, self._waking.is_told
            least, most = _TOLD_RESTS if is_told else _RESTS
            rest = min(max(rest, least), most)
            await self._refresh(is_there)
            left = rest if deadline is None else deadline - loop.time()
            if self.position >= position or left <= 0:
                return self.position >= position
            await self._waking.rest(known, min(left, rest))
            rest *= 1.5
        return True


class _LogEnd:
    """The end of the log, which stands beside the views; opened when it is first asked for."""

    def __init__(self, outside: Outside, ports: Ports) -> None:
        self._outside = outside
        self._ports = ports
        self._log: LogFile | None = None
        self._shared = SharedCall(self._head)

    async def head(self) -> Head | None:
        """Give the end of the log; None where it cannot be read."""
        return await self._shared()

    async def _head(self) -> Head | None:
        try:
            return await (await self._opened()).head()
        except EngineError:
            # Another file may stand there now: it is opened anew, the next time.
            await self.close()
            return None

    async def close(self) -> None:
        """Close it; a second call does nothing."""
        log, self._log = self._log, None
        if log is not None:
            await log.close()

    async def _opened(self) -> LogFile:
        if self._log is None:
            log = LogFile(self._outside.log_reader(), self._ports)
            await log.open()
            self._log = log
        return self._log
