"""A read model in hashes of Redis or Valkey (the extra `redis`), one hash a row.

Rules: those of `rows`. Each change is one write of the server, so it is there whole or not at all.
Rows of a raised version are made under keys of their own; then the old ones are removed. Keys of
others are never touched. The library is imported when the first event comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ssl
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import msgspec

from ..brokers.address import Address, Weakness, read_address
from ..brokers.client import check_installed, load
from ..errors import BrokerFailed, DefinitionError
from ..model.messages import Event, Meta
from ..model.sink import Sink
from ..relays.outlet import PER_TURN
from ..relays.redis import check_settings, connect, failure_of
from .rows import Apply, Change, Found, Row, State, States, row_model

__all__ = ["POSITION", "Apply", "RedisReadModel", "Row", "read_row"]

POSITION: Final = "@position"
"""The field of a row that has the position of its last event."""
REMOVED_PER_BATCH: Final = 1_000
"""Keys that are looked at after a batch, for rows of a former version."""
GONE_SECONDS: Final = 86_400
"""How long it is known that a row was removed: what is late does not bring it back."""

_IS_LATER: Final = (
    f"local at = redis.call('HGET', KEYS[1], '{POSITION}') "
    "if at and tonumber(at) >= tonumber(ARGV[1]) then return 0 end "
)
_PUT: Final = f"{_IS_LATER} return redis.call('HSET', KEYS[1], unpack(ARGV, 2))"
_REPLACE: Final = (
    f"{_IS_LATER} redis.call('RENAME', KEYS[2], KEYS[1]) return 1"  # one write, as the others
)
_REPLACE_AGAIN: Final = _REPLACE.replace(">=", ">")
"""The same of a row that is as far: another row at the same position."""


class _Place:
    """Keys of one version of a model."""

    def __init__(
        self, address: Address, tls: ssl.SSLContext | None, name: str, version: int
    ) -> None:
        self._address = address
        self._tls = tls
        self._name = name
        self._own = f"{name}:{version}"
        """What keys of this version begin with."""
        self._client: Any = None
        self._cursor = 0
        """How far rows of a former version are removed."""

    def where(self) -> str:
        return str(self._address)

    async def load(self) -> None:
        await load(self._address)

    @contextmanager
    def failures(self) -> Generator[None]:
        errors: Any = importlib.import_module("redis.exceptions")
        try:
            yield
        except (errors.RedisError, OSError, TimeoutError) as error:
            failed = failure_of(self._address, error)
            if "WRONGTYPE" in str(error):
                failed = self._not_the_models(f"that begins with {self._name!r}")
        else:
            return
        raise failed

    async def open(self) -> States:
        name = f"foldline {self._name}"
        self._client = await connect(self._address, name, self._tls)
        await check_settings(self._client, self._address)
        shown = await self._client.get(self._name)
        if shown is not None and not self._is_named(shown):
            raise self._not_the_models(repr(self._name))
        former = await self._read_state(shown or self._own)
        return States(await self._read_state(self._own), former, shown == self._own)

    async def fail(self) -> None:
        await self.close()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                await client.aclose()

    def row(self, made: Mapping[str, Any]) -> Row | None:
        """Give a row as Redis has it: all of it text."""
        found: dict[str, str] = {}
        for name, value in made.items():
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise TypeError(
                    f"{type(value).__name__} for the field {name!r}, and a field is a str, int or "
                    f"float"
                )
            if name == POSITION:
                raise ValueError(f"the field {POSITION!r} is the model's own")
            found[name] = str(value)
        return found or None

    async def read(self, keys: Sequence[str]) -> Sequence[Found]:
        async with self._client.pipeline(transaction=False) as commands:
            for key in keys:
                commands.hgetall(self._key(key))
            rows: Sequence[dict[str, str]] = await commands.execute()
        return [Found(int(row.pop(POSITION, "0")), row or None) for row in rows]

    async def write(self, changes: Sequence[Change]) -> None:
        async with self._client.pipeline(transaction=False) as commands:
            for index, change in enumerate(changes, 1):
                self._change(commands, change)
                if index % PER_TURN == 0:
                    await asyncio.sleep(0)
            await commands.execute()

    def _change(self, commands: Any, change: Change) -> None:
        """Add the commands that bring one row up to date."""
        key, new, before = self._key(change.key), change.row, change.before
        position = str(change.position)
        fields = [part for pair in {POSITION: position, **(new or {})}.items() for part in pair]
        keeps_all = before.row is not None and new is not None and before.row.keys() <= new.keys()
        if new and (not before.position or keeps_all) and not change.is_again:
            commands.eval(_PUT, 1, key, position, *fields)
            return
        # Fields less than before, or none: another hash takes the place of this one.
        other = f"{self._own}:new:{key}"
        commands.unlink(other)
        commands.hset(other, items=fields)
        if not new:
            commands.expire(other, GONE_SECONDS)
        commands.eval(_REPLACE_AGAIN if change.is_again else _REPLACE, 2, key, other, position)

    async def note(self, state: State) -> None:
        await self._client.set(f"{self._own}:state", msgspec.json.encode(state))

    async def show(self) -> None:
        shown = await self._client.get(self._name)
        if shown not in (None, self._own):
            await self._client.sadd(f"{self._name}:old", shown)
            await self._client.unlink(f"{shown}:state")  # its rows will be there in part only
        begun = _pattern(f"{self._name}:", ":state")
        async for key in self._client.scan_iter(begun, REMOVED_PER_BATCH):
            other = key.removesuffix(":state")
            if other != self._own and await self._is_a_version(other):
                await self._client.sadd(f"{self._name}:old", other)
                await self._client.unlink(key)
        await self._client.set(self._name, self._own)

    async def remove_old(self) -> bool:
        """Remove rows of a former version: a page of them, so that nobody waits."""
        for old in filter(self._is_named, await self._client.smembers(f"{self._name}:old")):
            if old == self._own:
                await self._client.srem(f"{self._name}:old", old)
                continue
            pattern = _pattern(f"{old}:")
            self._cursor, found = await self._client.scan(self._cursor, pattern, REMOVED_PER_BATCH)
            # The host may have keys of a name and a number, too.
            keys = [key for key in found if key.startswith((f"{old}:row:", f"{old}:new:"))]
            if keys:
                await self._client.unlink(*keys)
            if not self._cursor:
                await self._client.srem(f"{self._name}:old", old)
            return True
        return False

    def _is_named(self, version: str) -> bool:
        """Tell whether something is called as versions of this model are."""
        number = version.removeprefix(f"{self._name}:")
        return number != version and number.isdecimal()

    async def _is_a_version(self, other: str) -> bool:
        """Tell whether a state is that of a version, and not a key of the host's."""
        key = f"{other}:state"
        if not self._is_named(other) or await self._client.type(key) != "string":
            return False
        with contextlib.suppress(BrokerFailed):
            return await self._read_state(other) is not None
        return False

    def _key(self, key: str) -> str:
        return f"{self._own}:row:{key}"

    async def _read_state(self, own: str) -> State | None:
        text = await self._client.get(f"{own}:state")
        try:
            return None if text is None else msgspec.json.decode(text, type=State)
        except msgspec.DecodeError:
            raise self._not_the_models(f"{own}:state") from None

    def _not_the_models(self, key: str) -> BrokerFailed:
        return BrokerFailed(
            f"{self._address} has a key {key} that is not the model's: give the model another "
            f"name. Nothing was changed (read model {self._name!r})",
            passes=False,
        )


def _pattern(begins: str, ends: str = "") -> str:
    """Give what matches keys that begin so, and end so."""
    return "".join(f"\\{c}" if c in "*?[]\\^-" else c for c in begins) + "*" + ends


def RedisReadModel(  # noqa: N802 - what it gives is a class, to be declared like one
    name: str,
    *,
    to: str,
    events: Sequence[type[Event]],
    apply: Apply,
    key: Callable[[Any, Meta], str] | None = None,
    version: int = 1,
    allow: Sequence[Weakness] = (),
    tls: ssl.SSLContext | None = None,
) -> type[Sink]:
    """Give a sink that keeps rows in Redis: `Engine(projections=[RedisReadModel(...)])`.

    - `name`: of the projection, and of what its keys begin with. It has no space and no colon.
    - `to`: the server, as "redis://host/0" or "rediss://host". `tls` and `allow` are as for a
      Relay: a server that loses what it has confirmed is refused unless `allow` names it.
    - `events`: classes of events; `[Event]` for all.
    - `apply`: gives the row after an event: a mapping of fields to str, int or float, or None for
      no row. It takes the row before it, whose fields are text as Redis has them, or None, then
      the event and its `Meta`. It only looks at these. What it raises stops the sink.
    - `key`: gives the row that an event changes; the id of its aggregate unless given.
    - `version`: raise it to make all rows again, under other keys. Readers go on to see the old
      rows until the new ones are as far.

    Each event changes its row once, whatever dies and when. `read_row` reads a row. A query waits
    for the model if it is among the projections of its `@answers`, and `at=` is given. A server
    that is down is waited for. Raises DefinitionError.
    """
    address = read_address(to, allow)
    if address.broker != "redis":
        raise DefinitionError(f"read model {name!r}: to= is the URL of Redis")
    check_installed(address)
    if ":" in name:
        raise DefinitionError(f"read model {name!r}: the name has no colon, since its keys have")
    return row_model(
        name,
        place=lambda name: _Place(address, tls, name, version),
        where=str(address),
        events=events,
        apply=apply,
        key=key,
        version=version,
    )


async def read_row(client: Any, name: str, key: str) -> dict[str, str] | None:
    """Give a row of a read model, or None where there is none.

    `client` is a `redis.asyncio.Redis` with `decode_responses=True`. The field `@position` has the
    position of the event that changed the row last. Raises what the client raises.
    """
    shown: Any = None
    while True:
        before, shown = shown, await client.get(name)
        if shown is None:
            return None
        row = cast("dict[str, str]", await client.hgetall(f"{shown}:row:{key}"))
        if row.keys() > {POSITION}:
            return row
        if before == shown:  # or else the rows were exchanged, and it was among the old ones
            return None
