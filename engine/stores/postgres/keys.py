"""The keys of personal data in a PostgreSQL server, in a schema of their own.

Rules: each process has a copy of all keys in memory, some 400 bytes a person, since what decrypts
asks for a key in the event loop. The copy is kept fresh by questions, `POLL_SECONDS` apart: what
another process has erased is forgotten with the next one. A copy that could not be compared for
`STALE_SECONDS` is not read: a process that is cut off stops decrypting, and says so. Changes have
numbers in the order of their commits, so none is passed by. A call whose answer was lost is made
again, and does nothing twice. A server that has lost changes, as by a failover, is known by the key
that changed last: it is there as it was, or was changed since. What is there is read from then on,
and nobody writes by it who wrote before. Triggers refuse what a slip in a shell would do. What is
destroyed is gone from the table at once; the server's own files are the server's to clean: `VACUUM`
follows, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from ...errors import EngineError, StoreFailed, StoreRefused
from ...runtime.ports import Ports
from ..contract.keys import Erasure, SubjectKey
from .address import Address, read_address
from .driver import Record, driver_of
from .failures import described_failure, sqlstate_of
from .keys_sql import (
    ADD,
    CHANGE,
    CHANGED,
    CHANGES,
    ERASE,
    ERASURES,
    FINISH,
    FOUND,
    MADE,
    MAKE,
    MAKE_ALONE,
    MAKE_SCHEMA,
    SCHEMA_FOUND,
    TAKEN,
    UNFINISHED,
    VACUUM,
)
from .line import Line, Lines
from .settings import check_settings

__all__ = ["PostgresKeys", "keys_address"]

T = TypeVar("T")

SCHEMA: Final = "foldline_keys"
"""Where the URL names none."""
POLL_SECONDS: Final = 0.25
STALE_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 3.0
"""For a question, which is asked again on another connection then."""
_SOON_SECONDS: Final = 2.0
"""What took longer to read is compared once more: it may be old by now."""
_PASSES: Final = 3
"""A server that is always slow is believed after so many."""
_CLEAN_SECONDS: Final = 60.0
"""For the server to let go of rows; nobody waits for it."""
_CLEAN_AGAIN_SECONDS: Final = 5.0
_PAGE: Final = 10_000
_LAST: Final = (1 << 63) - 1
"""No key has a larger number."""
_NO_RIGHT: Final = "42501"
_ANEW: Final = "others were made there"
_NOT_THERE: Final = ("42P01", "3F000")
"""A table, or a schema."""
_NUL: Final = "\0"
"""Which a text of PostgreSQL cannot have, and the subject of states has."""
_INSTEAD: Final = "\1"
"""No subject has it: a person's name is printable."""


def keys_address(url: str) -> Address:
    """Read the URL of a server for keys; raise DefinitionError for what it cannot mean."""
    address = read_address(url)
    if "schema=" in url.partition("?")[2]:
        return address
    return msgspec.structs.replace(address, schema=SCHEMA)


class PostgresKeys:
    """Keys in a schema of a server."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lines: Lines | None = None
        self._writes = asyncio.Lock()
        self._ports = Ports()
        self._keys: dict[int, SubjectKey] = {}
        self._current: dict[str, tuple[int, ...]] = {}
        """The numbers of the keys of each subject that are not destroyed."""
        self._made = ""
        """Which tables of keys these are: others of the same log have another text."""
        self._change = 0
        """The last change that the copy has."""
        self._witness = (0, 0)
        """The last change of a key that the copy has, and which key that was."""
        self._own: set[int] = set()
        """Changes of this process that no question has met yet."""
        self._of_others = 0
        self._gone: StoreFailed | None = None
        """Why nothing may be written: what is kept there would be found by nobody."""
        self._is_set_back = False
        """Whether that is since the server has lost changes that the copy had."""
        self._has_writer = False
        """Whether somebody has begun to write by it: he may have used what was lost."""
        self._compared = 0.0
        """When the copy was known to be that of the server."""
        self._follower: asyncio.Task[None] | None = None
        self._cleaner: asyncio.Task[None] | None = None
        self._unclean = False
        """Whether secrets were destroyed since the server let go of rows last."""

    def __repr__(self) -> str:
        return f"PostgresKeys({self._address.name!r})"

    # -- life ---------------------------------------------------------------------------------

    async def open(self, ports: Ports, log_id: str, *, only_reads: bool = False) -> int:
        """Open it, or make it for this log; copy what it has."""
        assert self._lines is None, "it is opened once"
        self._ports = ports
        self._lines = Lines(driver_of(ports), self._address, answer_seconds=_ANSWER_SECONDS)
        try:
            await self._call("opened", lambda line: self._check(line, log_id, only_reads))
            await self._compare()
        except BaseException:
            await self.close()
            raise
        self._follower = asyncio.ensure_future(self._follow())
        return max(self._keys, default=0)

    async def missing(self, ports: Ports) -> str | None:
        """See `PlacedKeys.missing`; a schema that somebody has made is there."""
        lines = Lines(driver_of(ports), self._address, answer_seconds=_ANSWER_SECONDS)
        try:
            there = await self._call("found", self._look_for, lines)
        finally:
            await lines.close()
        return None if there else self._address.name

    async def _look_for(self, line: Line) -> bool:
        return bool(await line.connection.fetchval(SCHEMA_FOUND, self._address.schema))

    def check(self) -> None:
        """See `PlacedKeys.check`."""
        if self._gone is not None:
            raise self._gone

    async def _check(self, line: Line, log_id: str, only_reads: bool) -> None:
        """Make what is not there yet, and refuse what is not ours."""
        if not only_reads:
            await check_settings(line.connection, self._address)
        sql, schema = self._address.sql, self._address.schema
        if not (await line.connection.fetchval(FOUND, schema)):
            if only_reads:
                raise StoreRefused(
                    f"there are no keys in {self._address.name}, and events of this log have "
                    f"personal fields: give the log's own keys, as keys="
                )
            async with line.connection.transaction():
                await line.connection.execute(sql(MAKE_ALONE))
                if await line.connection.fetchval(TAKEN, schema):
                    raise StoreRefused(
                        f"{self._address.name} has a log or something else, and no keys: keys are "
                        f"in a schema of their own. Give another schema= in keys=, best of "
                        f"another database. Nothing was changed"
                    )
                if not await self._look_for(line):
                    await line.connection.execute(sql(MAKE_SCHEMA))
                await line.connection.execute(sql(MAKE))
                await line.connection.execute(sql(MADE), log_id)
        row = await line.connection.fetchrow(sql("SELECT log_id, made FROM {s}.about"))
        found, self._made = row or ("nobody", "")
        if found != log_id:
            raise StoreRefused(
                f"the keys in {self._address.name} are of another log, {found}, and this one is "
                f"{log_id}: give the engine its own keys, or another schema. Nothing was changed"
            )

    async def close(self) -> None:
        """Close it; a second call does nothing."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            await asyncio.wait([follower])
        cleaner, self._cleaner = self._cleaner, None
        if cleaner is not None:
            # Who erases from a shell closes at once.
            await asyncio.wait([cleaner], timeout=_ANSWER_SECONDS)
            cleaner.cancel()
            await asyncio.wait([cleaner])
        lines, self._lines = self._lines, None
        if lines is not None:
            await lines.close()
        self._keys.clear()
        self._current.clear()
        self._own.clear()
        self._change, self._witness = 0, (0, 0)

    # -- the copy -----------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            # Until it works again the copy gets older, and is not read any more.
            with suppress(EngineError):
                await self._compare()

    async def _compare(self) -> None:
        """Take over what was changed; the copy is that of the server then."""
        async with self._writes:
            for _ in range(_PASSES):
                begun = self._ports.clock.monotonic()
                try:
                    change = await self._read_changes()
                except StoreFailed as error:
                    cause = error.__cause__
                    if cause is not None and sqlstate_of(cause) in _NOT_THERE:
                        self._gone = self._other("they are not there any more")
                    raise
                self._compared = begun
                if not self._is_set_back:
                    self._gone = None
                self._of_others += change - self._change - len(self._own)
                self._own.clear()
                self._change = change
                if self._ports.clock.monotonic() - begun < _SOON_SECONDS:
                    return

    async def catch_up(self, *, anew: bool = False) -> None:
        """See `CopiedKeys.catch_up`."""
        await self._compare()
        if anew and self._is_set_back:
            self._gone, self._is_set_back = None, False
        self._has_writer = self._has_writer or anew

    def _other(self, why: str) -> StoreFailed:
        return StoreFailed(
            f"the keys of personal data in {self._address.name} are not those that were opened: "
            f"{why}. Put the log's own keys there, and start the engine again",
            written=False,
        )

    def _set_back(self) -> StoreFailed:
        return StoreFailed(
            f"the keys of personal data in {self._address.name} were set back: a failover or a "
            f"restored backup has lost the last ones. Bring them back, or start the engine again, "
            f"which goes on with those that are there",
            written=False,
        )

    async def _read_changes(self) -> int:
        """Read the keys that changed, a page at a time; give the number of the last change."""
        # Changes up to this one are committed, and all of them are found below.
        last = await self._call("read", self._last_change)
        if last is None:
            self._begin_anew()
            last = await self._call("read", self._last_change) or 0
        place, has_more = (self._change, _LAST), last > self._change
        while has_more:
            rows = await self._call("read", partial(self._page, place))
            for number, subject, secret, change in rows:
                self._keep(SubjectKey(number, subject.replace(_INSTEAD, _NUL), secret))
                place = self._witness = (change, number)
            has_more = len(rows) == _PAGE
        return last

    async def _page(self, behind: tuple[int, int], line: Line) -> Sequence[Record]:
        return await line.fetch(self._address.sql(CHANGED), *behind, _PAGE)

    async def _last_change(self, line: Line) -> int | None:
        """Give the number of the last change; None where the server has lost some of the copy's."""
        sql, (change, number) = self._address.sql(CHANGES), self._witness
        made, last, found = await line.connection.fetchrow(sql, number) or ("", 0, None)
        if made != self._made:
            self._gone = self._other(_ANEW)
            raise self._gone
        # There may be as many changes again by now, and other ones.
        is_less = last < max(self._own, default=self._change) or (found or 0) < change
        return None if is_less else int(last)

    def _begin_anew(self) -> None:
        """Forget the copy: it has keys that the server has lost, and lacks others by now."""
        if self._has_writer:
            self._gone, self._is_set_back = self._set_back(), True
        self._keys.clear()
        self._current.clear()
        self._own.clear()
        self._of_others += self._change + 1  # all that was taken out of it is old
        self._change, self._witness = 0, (0, 0)

    def _keep(self, key: SubjectKey) -> None:
        numbers = self._current.get(key.subject, ())
        if key.secret is not None and key.number not in numbers:
            self._current[key.subject] = tuple(sorted((*numbers, key.number)))
        elif key.secret is None and key.number in numbers:
            left = tuple(number for number in numbers if number != key.number)
            if left:
                self._current[key.subject] = left
            else:
                del self._current[key.subject]
        self._keys[key.number] = key

    def find(self, number: int) -> SubjectKey | None:
        """Give the key of a number."""
        self._check_fresh()
        return self._keys.get(number)

    def current(self, subject: str) -> SubjectKey | None:
        """Give the key of a subject."""
        self._check_fresh()
        numbers = self._current.get(subject)
        return None if numbers is None else self._keys[numbers[-1]]

    def change_count(self) -> int:
        """Give how many changes of other processes the copy has taken over."""
        self._check_fresh()
        return self._of_others

    def _check_fresh(self) -> None:
        age = self._ports.clock.monotonic() - self._compared
        if age > STALE_SECONDS:
            raise StoreFailed(
                f"the keys of personal data in {self._address.name} could not be read for "
                f"{age:.0f} s, and others may have erased somebody meanwhile: nothing is decrypted "
                f"until the server answers. Try again",
                written=False,
                passes=True,
            )

    # -- writing ------------------------------------------------------------------------------

    async def add(self, keys: Sequence[SubjectKey]) -> None:
        """Keep new keys."""
        subjects = [key.subject.replace(_NUL, _INSTEAD) for key in keys]
        rows = [key.number for key in keys], subjects, [key.secret for key in keys]
        async with self._writes:
            (kept,) = await self._written(ADD, *rows)
            if kept != len(keys):
                raise StoreFailed(
                    f"a key of personal data was not kept: another process has made one of the "
                    f"same number in {self._address.name}. Nothing was written; send it again",
                    written=False,
                )
            for key in keys:
                if key.number not in self._keys:  # it may have been destroyed since
                    self._keep(key)

    async def erase(self, erasure: Erasure) -> Erasure:
        """Destroy all keys of a subject."""
        token = self._ports.ids.new_id()
        texts = erasure.subject, erasure.reason, erasure.principal or ""
        subject, reason, principal = (text.replace(_NUL, _INSTEAD) for text in texts)
        who = subject, erasure.asked, reason, None if erasure.principal is None else principal
        async with self._writes:
            number, count = await self._written(ERASE, token, *who)
            for former in self._current.pop(erasure.subject, ()):
                self._keys[former] = SubjectKey(former, erasure.subject, None)
        self._unclean = True
        if self._cleaner is None or self._cleaner.done():
            self._cleaner = asyncio.ensure_future(self._clean())
        return msgspec.structs.replace(erasure, number=number, keys=count)

    async def _clean(self) -> None:
        """Have the server let go of the rows that had the secrets, as far as it can by now."""
        sql = self._address.sql(VACUUM)
        lines = Lines(driver_of(self._ports), self._address, answer_seconds=_CLEAN_SECONDS)
        try:
            while self._unclean:
                self._unclean = False
                try:
                    await lines.run(lambda line: line.connection.execute(sql))
                except EngineError:
                    self._unclean = True
                    await asyncio.sleep(_CLEAN_AGAIN_SECONDS)
        finally:
            await lines.close()

    async def finish(self, number: int, at: int) -> None:
        """Note that an erasure is finished."""
        async with self._writes:
            await self._written(FINISH, number, at)

    async def _written(self, statement: str, *values: Any) -> Sequence[Any]:
        """Run a statement that does nothing twice; it is durable when this returns."""
        begin, sql = self._address.sql(CHANGE), self._address.sql(statement)

        async def write(line: Line) -> tuple[int, Record]:
            async with line.connection.transaction():
                change: int | None = await line.connection.fetchval(begin, self._made)
                if change is None:
                    self._gone = self._other(_ANEW)
                    raise self._gone
                if change <= self._change:
                    raise self._set_back()  # the next question finds it out as well
                row = await line.connection.fetchrow(sql, change, *values)
            assert row is not None, "each of these statements gives a row"
            return change, tuple(row)

        change, row = await self._call("written", write)
        self._own.add(change)
        return row

    async def unfinished(self) -> Sequence[Erasure]:
        """Give the erasures that are not finished."""
        return await self._erasures(UNFINISHED)

    async def erasures(self, subject: str | None = None) -> Sequence[Erasure]:
        """Give the erasures."""
        return await self._erasures(
            ERASURES, None if subject is None else subject.replace(_NUL, _INSTEAD)
        )

    async def _erasures(self, statement: str, *values: Any) -> Sequence[Erasure]:
        sql = self._address.sql(statement)
        rows = await self._call("read", lambda line: line.connection.fetch(sql, *values))
        return [Erasure(row[0], row[1].replace(_INSTEAD, _NUL), *row[2:]) for row in rows]

    async def _call(
        self, what: str, call: Callable[[Line], Awaitable[T]], lines: Lines | None = None
    ) -> T:
        lines = lines or self._lines
        assert lines is not None, "it is open"
        try:
            return await lines.run(call)
        except StoreFailed as error:
            cause = error.__cause__ or error
            if sqlstate_of(cause) == _NO_RIGHT:
                raise StoreRefused(
                    f"the keys in {self._address.name} cannot be {what}: "
                    f"{described_failure(cause)}. Grant it to the user of the engine; nothing was "
                    f"changed"
                ) from cause
            raise StoreFailed(
                f"the keys of personal data cannot be {what}: {error}",
                written=False,
                passes=error.passes,
            ) from cause
