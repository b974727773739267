"""A connection with what it has prepared; and several for reading, each made anew when it breaks.

Rules: a statement is prepared once on each connection, unless a pooler stands between. A read that
a broken connection has cut is asked again, within the address's patience: it has changed nothing.
A connection whose call was cut short is thrown away, since what it would answer next is not known.
So is one that gives no answer in time: a call on it fails then, as on one that broke.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, TypeVar

from ...errors import EngineError, StoreFailed
from .address import Address
from .driver import Connection, Driver, Record, Statement
from .failures import described_failure, is_lost, is_not_prepared, passes_by_itself

__all__ = ["Answering", "BackOff", "Line", "Lines"]

T = TypeVar("T")
Answering: TypeAlias = Callable[..., None]
"""Lets the time for the next answer begin, with other seconds if it is given some."""

_PAUSE_FIRST: Final = 0.02
_PAUSE_LONGEST: Final = 0.5
_CLOSE_SECONDS: Final = 2.0
_LINES_MAX: Final = 2
"""Connections for reading: one page is read while another is waited for."""


class Line:
    """One connection, and its prepared statements."""

    def __init__(self, connection: Connection, *, pooled: bool) -> None:
        self.connection = connection
        self.pooled = pooled
        self._statements: dict[str, Statement] = {}

    @classmethod
    async def connected(cls, driver: Driver, address: Address) -> Line:
        """Connect; raise StoreRefused or StoreFailed."""
        connection, pooled = await driver.connect(address)
        return cls(connection, pooled=pooled)

    async def fetch(self, query: str, *values: Any) -> Sequence[Record]:
        """Run a statement that was prepared at its first use; give its rows."""
        if not self.pooled:
            try:
                statement = self._statements.get(query)
                if statement is None:
                    statement = await self._prepared(query)
                return await statement.fetch(*values)
            except Exception as error:
                if not is_not_prepared(error):
                    raise
                self.pooled = True  # it was somebody else's connection that has it
        return await self.connection.fetch(query, *values)

    @property
    def inside(self) -> Line:
        """The line as it is used in a transaction, which ends with the first statement that fails.

        What is prepared is used there too. It was prepared on this connection, or none is.
        """
        return Line(self.connection, pooled=True) if self.pooled else self

    async def prepare(self, query: str) -> None:
        """Prepare a statement before its first use, which need not wait for that then."""
        if not self.pooled:
            await self._prepared(query)

    async def _prepared(self, query: str) -> Statement:
        name = f"foldline_{len(self._statements)}"
        statement = self._statements[query] = await self.connection.prepare(query, name=name)
        return statement

    @property
    def is_closed(self) -> bool:
        """Whether it is of no use any more."""
        return self.connection.is_closed()

    @contextmanager
    def answering(self, seconds: float) -> Generator[Answering]:
        """Drop it where what is inside takes longer: the call that waits fails as if it had broken.

        A cancel would not do: the block of a transaction then waits for the same server to end it.
        Gives what lets the seconds begin anew, for who waits for one answer behind the other.
        """
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, self.drop)

        def again(more: float = seconds) -> None:
            nonlocal timer
            timer.cancel()
            timer = loop.call_later(more, self.drop)

        try:
            yield again
        finally:
            timer.cancel()

    def drop(self) -> None:
        """Close it at once."""
        self.connection.terminate()

    async def close(self) -> None:
        """Close it in peace, or at once where the server does not answer."""
        try:
            await self.connection.close(timeout=_CLOSE_SECONDS)
        except Exception:
            self.connection.terminate()


class BackOff:
    """Pauses that grow, until a patience is over."""

    def __init__(self, patience_seconds: float) -> None:
        self._now = asyncio.get_running_loop().time
        self._end = self._now() + patience_seconds
        self._pause = _PAUSE_FIRST

    async def pause(self) -> bool:
        """Wait a little; tell whether to try again."""
        left = self._end - self._now()
        if left <= 0:
            return False
        await asyncio.sleep(min(self._pause, left))
        self._pause = min(self._pause * 2, _PAUSE_LONGEST)
        return True


class Lines:
    """Connections for calls that change nothing, or may be made twice."""

    def __init__(
        self,
        driver: Driver,
        address: Address,
        *,
        answer_seconds: float | None = None,
        longest_seconds: float = 0.0,
    ) -> None:
        """Take for how long a call may wait for an answer, if not for as long as the URL says.

        A call that was not answered is made again, and may wait twice as long each time, up to
        `longest_seconds`: a server that is slow would never answer in time otherwise.
        """
        self._driver = driver
        self._address = address
        self._answer_seconds = answer_seconds or address.answer_seconds
        self._attempt_seconds = answer_seconds or address.attempt_seconds
        self._longest_seconds = max(longest_seconds, self._attempt_seconds)
        self._idle: list[Line] = []
        self._free = asyncio.Semaphore(_LINES_MAX)
        self._ended = asyncio.Event()

    async def run(self, call: Callable[[Line], Awaitable[T]]) -> T:
        """Run a call on a connection; again where it breaks.

        Raises StoreFailed where the server refuses it or stays away for too long.
        """
        back_off: BackOff | None = None
        seconds = self._answer_seconds
        while True:
            try:
                async with self._free:
                    return await self._once(call, seconds)
            except StoreFailed as error:
                if not error.passes:
                    raise
                failed = error
            except EngineError:
                raise
            except Exception as error:
                failed = self._failed(error)
                if not is_lost(error):
                    raise failed from error
                failed.__cause__ = error
            # The patience counts from the first failure: a server may have kept silent for as long.
            back_off = back_off or BackOff(self._address.patience_seconds)
            is_slow = isinstance(failed.__cause__, TimeoutError)
            seconds = min(2 * seconds, self._longest_seconds) if is_slow else self._attempt_seconds
            if self._ended.is_set() or not await back_off.pause():
                raise failed

    async def _once(self, call: Callable[[Line], Awaitable[T]], seconds: float) -> T:
        if self._ended.is_set():
            raise StoreFailed(f"{self._address.name} is closed", written=False)
        line = self._idle.pop() if self._idle else None
        if line is None or line.is_closed:
            line = await Line.connected(self._driver, self._address)
        try:
            async with asyncio.timeout(seconds):
                result = await call(line)
        except BaseException:
            line.drop()
            raise
        self._idle.append(line)
        if self._ended.is_set():
            await self.close()
        return result

    def _failed(self, error: BaseException) -> StoreFailed:
        return StoreFailed(
            f"{self._address.name} cannot be asked: {described_failure(error)}",
            written=False,
            passes=passes_by_itself(error),
        )

    async def close(self) -> None:
        """Close what is idle, and what is at work when it is done."""
        self._ended.set()
        while self._idle:
            await self._idle.pop().close()
