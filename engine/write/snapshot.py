"""An aggregate's state as bytes, and the rules by which those bytes are believed again.

Rules: a snapshot is a cache and never the truth. It is made of what is durable, carries the key
window, and is tied to one event by position and checksum, to the state's fields by their schema
hash, to their meaning by the author's `snapshot_version`, and to itself by a CRC-32. What does not
fit in any of these is not believed: the reader says why and folds the stream from its beginning.
So is one whose decoding raises, whatever that is: the classes in a state are the host's. A state
that would not come back the same (`sameness`: equal is not enough) is never written. This file
knows no store, clock or async.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final
from zlib import crc32

import msgspec

from ..errors import Damaged
from ..model.aggregate import Aggregate, AggregateDefinition
from ..model.codec import NOTHING_KEPT, UNDECODABLE
from ..model.personal import SNAPSHOTS, Sealer
from ..model.sameness import first_difference
from ..model.shape import CLASSES_MAX, schema_hash
from ..model.stored import Snapshot, StoredEvent
from ..runtime.safely import text_of
from .keys import KeyRecord, KeyWindow

__all__ = ["Distrusted", "Freezer", "Frozen", "Outdated", "is_sound"]

_FORM: Final = b"2 "
"""Begins the bytes of every snapshot; another form gets another number.

Form 1 was only known to be equal to its state, and not the same, and may lack keys of commands with
several events: it is not believed.
"""

_BODY: Final = len(_FORM) + 9
"""Where the body begins, behind the CRC-32 and a space."""

_encoder = msgspec.json.Encoder()


class Distrusted(Exception):
    """A snapshot does not fit; says why."""


class Outdated(Distrusted):
    """It was made before a person's data was erased, as all were: nobody need hear of it."""


class Frozen(msgspec.Struct):
    """A state at a version that is not durable yet; sealed when it is."""

    state: bytes
    keys: Sequence[tuple[str, KeyRecord]]
    """The records get their positions as they become durable, which all are before the sealing."""


class _Key(msgspec.Struct, array_like=True):
    """A key, and what is remembered of its command; older snapshots have less of it."""

    key: str
    fingerprint: int
    first: int
    version: int
    position: int
    reply: msgspec.Raw = NOTHING_KEPT
    parties: tuple[tuple[str, int, int], ...] = ()


class _Body(msgspec.Struct, array_like=True):
    """What stands in the bytes of a snapshot."""

    schema: str
    key_window: int
    state: msgspec.Raw
    keys: list[_Key]


_body_decoder = msgspec.json.Decoder(_Body)


@lru_cache(maxsize=CLASSES_MAX)
def _schema_of(cls: type[Aggregate]) -> str:
    return schema_hash(cls, meaning=True)


class Freezer:
    """Makes and opens the snapshots of one kind of aggregate.

    Raises DefinitionError where the fields of the state are of types that cannot be stored.
    """

    def __init__(
        self,
        definition: AggregateDefinition,
        logger: logging.Logger,
        keep: Callable[[Snapshot], None],
        sealer: Sealer | None = None,
    ) -> None:
        assert definition.snapshot_every is not None
        self.every: int = definition.snapshot_every
        self._definition = definition
        self._logger = logger
        self._keep = keep
        self._sealer = sealer
        """Encrypts states that have personal data; None where they have none."""
        self._schema = _schema_of(definition.cls)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(definition.cls)
        self._works = True

    @property
    def is_sealing(self) -> bool:
        """Whether what it makes is encrypted."""
        return self._sealer is not None

    def is_due(self, before: int, after: int) -> bool:
        """Tell whether a snapshot is due when the version goes from `before` to `after`."""
        return after // self.every > before // self.every and self._works

    def freeze(self, state: Aggregate, keys: KeyWindow | None) -> Frozen | None:
        """Give the state as bytes, or None where they would not give the same state again."""
        try:
            encoded = _encoder.encode(state)
            where = first_difference(state, self._decoder.decode(encoded))
        except BaseException as error:
            self._give_up(type(error).__name__)
            return None
        if where is not None:
            self._give_up("it comes back changed", f", first at {where}")
            return None
        return Frozen(encoded, () if keys is None else keys.records(state.version))

    def _give_up(self, why: str, where: str = "") -> None:
        self._works = False
        self._logger.error(
            "no more snapshots of %s: its state does not survive encoding (%s)%s. Give every field "
            "a type that says what is in it, and hold each object that changes in one place only; "
            "streams are folded from their beginning meanwhile.",
            self._definition.cls.__qualname__,
            why,
            where,
        )

    def seal(self, frozen: Frozen, event: StoredEvent) -> None:
        """Keep a frozen state, now that the event at its version is durable."""
        assert all(r.position for _, r in frozen.keys), "what a durable snapshot knows is durable"
        keys = [_key(key, record) for key, record in frozen.keys]
        body = _encoder.encode(
            (self._schema, self._definition.key_window, msgspec.Raw(frozen.state), keys)
        )
        if self._sealer is not None:
            sealed = self._sealed(self._sealer, body, event.stream)
            if sealed is None:
                return
            body = sealed
        snapshot = Snapshot(
            event.stream,
            event.version,
            event.position,
            event.checksum,
            self._definition.snapshot_version,
            b"",
        )
        crc = f"{_crc(snapshot, body):08x} ".encode()
        self._keep(msgspec.structs.replace(snapshot, state=_FORM + crc + body))

    def _sealed(self, sealer: Sealer, body: bytes, stream: str) -> bytes | None:
        """Give a body encrypted; None where it is not to be kept, or its key cannot be had."""
        if not sealer.keeps_states:
            return None  # it may be of before an erasure, and would be believed behind it
        try:
            return sealer.seal(SNAPSHOTS, body, stream.encode()).encode()
        except Exception as error:  # a store of keys may be the host's
            self._logger.warning(
                "no snapshot of %s is kept, as its key cannot be had (%s): %s",
                *(stream, type(error).__name__, text_of(error)),
            )
            return None

    def open(self, snapshot: Snapshot) -> tuple[Aggregate, KeyWindow]:
        """Give the state and the key window; raise Distrusted for what does not fit."""
        version = self._definition.snapshot_version
        if snapshot.snapshot_version != version:
            raise Distrusted(f"it has snapshot_version {snapshot.snapshot_version}, not {version}")
        body = self._body(snapshot)
        if body.schema != self._schema:
            raise Distrusted("the fields of the state have changed")
        window = self._definition.key_window
        if body.key_window < window:
            raise Distrusted(f"it knows the keys of {body.key_window} versions, not of {window}")
        try:
            state: Aggregate = self._decoder.decode(body.state)
        except BaseException as error:
            raise Distrusted(f"its state cannot be decoded ({type(error).__name__})") from error
        if (state.id, state.version) != (snapshot.stream.partition(":")[2], snapshot.version):
            raise Distrusted("its state is of another aggregate or version")
        keys = KeyWindow(window)
        for k in body.keys:
            reply = bytes(k.reply) or None
            known = KeyRecord(k.fingerprint, k.first, k.version, k.position, reply, k.parties)
            keys.remember(k.key, known)
        return state, keys

    def _body(self, snapshot: Snapshot) -> _Body:
        if not is_sound(snapshot):
            raise Distrusted("its bytes are damaged, or of another form")
        body = snapshot.state[_BODY:]
        if self._sealer is not None:
            body = self._unsealed(self._sealer, snapshot, body)
        try:
            return _body_decoder.decode(body)
        except UNDECODABLE as error:
            raise Distrusted(f"it cannot be decoded ({type(error).__name__})") from error

    def _unsealed(self, sealer: Sealer, snapshot: Snapshot, body: bytes) -> bytes:
        if body[:1] == b"[":
            raise Outdated("it was made before its kind had personal data")
        try:
            bound = snapshot.stream.encode()
            opened = sealer.unseal(body.decode("ascii"), bound, snapshot.position)
        except (Damaged, UnicodeDecodeError) as error:
            raise Distrusted("it cannot be decrypted") from error
        if opened is None:
            raise Outdated("it was made before a person's data was erased")
        return opened


def is_sound(snapshot: Snapshot) -> bool:
    """Tell whether the bytes of a snapshot are those that were written, in this form."""
    form, crc = snapshot.state[: len(_FORM)], snapshot.state[len(_FORM) : _BODY]
    return form == _FORM and crc == f"{_crc(snapshot, snapshot.state[_BODY:]):08x} ".encode()


def _key(key: str, record: KeyRecord) -> tuple[Any, ...]:
    """Give what `_Key` is read from."""
    known = (key, record.fingerprint, record.first, record.version, record.position)
    if record.reply is None and not record.parties:
        return known
    # An array has no place for nothing: where the command declares no reply, nobody reads this.
    reply = msgspec.Raw(b"null" if record.reply is None else record.reply)
    return (*known, reply, record.parties) if record.parties else (*known, reply)


def _crc(snapshot: Snapshot, body: bytes) -> int:
    """Give the CRC-32 of all that a snapshot says, so that no part can be of another one."""
    head = (
        f"{snapshot.version} {snapshot.position} {snapshot.checksum} "
        f"{snapshot.snapshot_version} {snapshot.stream}\0"
    )
    return crc32(body, crc32(head.encode()))
