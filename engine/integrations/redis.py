"""A read model in hashes of Redis or Valkey (the extra `redis`), one hash a row.

Rules: a row has the position of the event that it was last changed by, and only a later event
changes it: what comes again, or late from a former life of the process, changes nothing. Each
change is one write of the server, so it is there whole or not at all. Rows of a raised version are
made under keys of their own, and readers find them when they are as far as those that they replace;
then the old ones are removed. Keys of others are never touched. The library is imported when the
first event comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ssl
import types
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final, TypeAlias, cast

import msgspec

from ..errors import BrokerFailed, DefinitionError, UsageError
from ..model.messages import Event, Meta
from ..model.sink import Delivery, Sink
from ..relays.address import Address, Weakness, read_address
from ..relays.outlet import PER_TURN, check_installed, load
from ..relays.redis import check_settings, connect, failure_of
from .read_model import batch_of, named

__all__ = ["POSITION", "Apply", "RedisReadModel", "Row", "read_row"]

Row: TypeAlias = Mapping[str, str]
"""Fields of a hash, by name."""
Apply: TypeAlias = Callable[[Row | None, Any, Meta], Mapping[str, object] | None]
"""Gives the row after an event, of the row before it; None for no row."""

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


class _State(msgspec.Struct, frozen=True):
    """What Redis has of a version of a model."""

    log_id: str
    position: int
    event: str
    """Names the event at that position."""


class _Keeping(Sink):
    """What all read models do; a class is made of it for each."""

    model_address: ClassVar[Address]
    model_tls: ClassVar[ssl.SSLContext | None]
    model_apply: ClassVar[Apply]
    model_key: ClassVar[Callable[[Any, Meta], str]]
    _client: Any = None
    _state: _State | None = None
    _former: _State | None = None
    """Of the version that readers are sent to."""
    _is_read: bool = False
    """Whether readers are sent to the rows of this version."""
    _cursor: int = 0
    """How far rows of a former version are removed."""

    @classmethod
    def __read__(cls, definition: Any, namespace: Any) -> Any:
        """Read a class as any sink's."""
        return super().__read__(definition, namespace)

    @property
    def _name(self) -> str:
        return self.__definition__.name

    @property
    def _own(self) -> str:
        """Give what keys of this version begin with."""
        return f"{self._name}:{self.__definition__.version}"

    async def keep(self, batch: Sequence[Delivery[Event]]) -> None:
        """Apply events; return when the server has all of them."""
        if self._client is None:
            await load(self.model_address)
        try:
            with self._failures():
                if self._client is None:
                    await self._open(batch[0].log_id)
                await self._apply(batch)
                if not self._is_read:
                    await self._show(batch[-1].position)
                await self._remove_old()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                await client.aclose()

    async def _open(self, log_id: str) -> None:
        name = f"foldline {self._name}"
        self._client = await connect(self.model_address, name, self.model_tls)
        await check_settings(self._client, self.model_address)
        shown = await self._client.get(self._name)
        if shown is not None and not shown.startswith(f"{self._name}:"):
            raise self._refused(f"has a key {self._name!r} that is not the model's")
        self._former = await self._read_state(shown or self._own)
        state = await self._read_state(self._own) or _State(log_id, 0, "")
        if {log_id} != {each.log_id for each in (state, self._former or state)}:
            raise self._refused("has rows of another log: give the model another name")
        if self._state is not None and self._state.position > state.position:
            raise self._refused(
                f"has lost rows: it was at position {self._state.position} and is at "
                f"{state.position}. Raise the version of the model, which makes them anew"
            )
        self._state = state
        self._is_read = shown == self._own

    async def _read_state(self, own: str) -> _State | None:
        text = await self._client.get(f"{own}:state")
        try:
            return None if text is None else msgspec.json.decode(text, type=_State)
        except msgspec.DecodeError:
            raise self._refused(f"has a key {own}:state that is not the model's") from None

    async def _apply(self, batch: Sequence[Delivery[Event]]) -> None:
        state = self._state
        assert state is not None
        keys: dict[str, list[Delivery[Event]]] = {}
        for delivery in batch:
            if delivery.position == state.position and named(delivery) != state.event:
                raise self._refused(
                    f"has another event at position {state.position} than the log: the log went "
                    f"back, as to a backup. Raise the version of the model, which makes its rows "
                    f"anew"
                )
            key = type(self).model_key(delivery.event, delivery.meta)
            keys.setdefault(f"{self._own}:row:{key}", []).append(delivery)
        async with self._client.pipeline(transaction=False) as commands:
            for key in keys:
                commands.hgetall(key)
            rows: Sequence[dict[str, str]] = await commands.execute()
        async with self._client.pipeline(transaction=False) as commands:
            for index, (key, row) in enumerate(zip(keys, rows, strict=True), 1):
                self._change(commands, key, row, keys[key])
                if index % PER_TURN == 0:
                    await asyncio.sleep(0)
            await commands.execute()
        if batch[-1].position > state.position:
            state = _State(batch[-1].log_id, batch[-1].position, named(batch[-1]))
            await self._client.set(f"{self._own}:state", msgspec.json.encode(state))
            self._state = state

    def _change(
        self, commands: Any, key: str, row: dict[str, str], events: Sequence[Delivery[Event]]
    ) -> None:
        """Add the commands that bring one row up to date."""
        at = int(row.pop(POSITION, "0"))
        new: Row | None = row or None
        later = [delivery for delivery in events if delivery.position > at]
        if not later:
            return
        for delivery in later:
            made = type(self).model_apply(new, delivery.event, delivery.meta)
            new = None if made is None else self._fields(made)
        position = str(later[-1].position)
        fields = [part for pair in {POSITION: position, **(new or {})}.items() for part in pair]
        if new and (not at or (row and row.keys() <= new.keys())):
            commands.eval(_PUT, 1, key, position, *fields)
        else:  # fields less than before, or none: another hash takes the place of this one
            other = f"{self._own}:new:{key}"
            commands.unlink(other)
            commands.hset(other, items=fields)
            if not new:
                commands.expire(other, GONE_SECONDS)
            commands.eval(_REPLACE, 2, key, other, position)

    def _fields(self, made: Mapping[str, object]) -> Row:
        """Give a row as Redis has it: all of it text. Raises UsageError for what is none."""
        found: dict[str, str] = {}
        for name, value in made.items():
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise UsageError(
                    f"read model {self._name!r}: apply= gave {type(value).__name__} for the field "
                    f"{name!r}, and a field is a str, int or float"
                )
            if name == POSITION:
                raise UsageError(f"read model {self._name!r}: the field {POSITION!r} is its own")
            found[name] = str(value)
        return found

    async def _show(self, position: int) -> None:
        """Send readers to the rows of this version, once it is as far as the former one."""
        if self._former is not None and self._former.position > position:
            return
        shown = await self._client.get(self._name)
        if shown not in (None, self._own):
            await self._client.sadd(f"{self._name}:old", shown)
            await self._client.unlink(f"{shown}:state")  # its rows will be there in part only
        await self._client.set(self._name, self._own)
        self._is_read = True

    async def _remove_old(self) -> None:
        """Remove rows of a former version: a page of them, so that nobody waits."""
        if not self._is_read:
            return
        for old in await self._client.smembers(f"{self._name}:old"):
            if old == self._own:
                await self._client.srem(f"{self._name}:old", old)
                continue
            pattern = "".join(f"\\{c}" if c in "*?[]\\^-" else c for c in f"{old}:") + "*"
            self._cursor, keys = await self._client.scan(self._cursor, pattern, REMOVED_PER_BATCH)
            if keys:
                await self._client.unlink(*keys)
            if not self._cursor:
                await self._client.srem(f"{self._name}:old", old)
            return

    def _refused(self, why: str) -> BrokerFailed:
        return BrokerFailed(
            f"{self.model_address} {why}. Nothing was changed (read model {self._name!r})",
            passes=False,
        )

    @contextmanager
    def _failures(self) -> Generator[None]:
        errors: Any = importlib.import_module("redis.exceptions")
        try:
            yield
        except (errors.RedisError, OSError, TimeoutError) as error:
            failed = failure_of(self.model_address, error)
        else:
            return
        raise failed


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
    found: list[Any] = list(events)
    if not found or not all(isinstance(cls, type) and issubclass(cls, Event) for cls in found):
        raise DefinitionError(f"read model {name!r}: events= is a list of classes of events")
    if not callable(apply) or not (key is None or callable(key)):
        raise DefinitionError(f"read model {name!r}: apply= and key= are functions")
    if ":" in name:
        raise DefinitionError(f"read model {name!r}: the name has no colon, since its keys have")

    async def deliver(self: _Keeping, batch: Any) -> None:
        await self.keep(batch)

    def own_id(_: Any, meta: Meta) -> str:
        return meta.id

    deliver.__annotations__ = {"batch": batch_of(found), "return": None}
    members = {
        "deliver": deliver,
        "model_address": address,
        "model_tls": tls,
        "model_apply": staticmethod(apply),
        "model_key": staticmethod(key or own_id),
        "__module__": __name__,
        "__doc__": f"Keeps the read model {name} in {address}.",
    }
    # Not parked: a later event of its row would be applied, and it could not be any more.
    options = {"name": name, "version": version, "on_poison": "stop"}
    return types.new_class(f"ReadModel {name}", (_Keeping,), options, lambda ns: ns.update(members))


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
