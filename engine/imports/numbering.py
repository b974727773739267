"""Gives events their places in the new log, and looks that all of them fit there.

Rules: positions and versions are 1, 2, 3 without holes, in the order of the source. A time that is
before the one of the event before it keeps the order, as in every log: the event stands at the
later time, and says by how much its own clock was behind. A claim has one holder at a time. What
does not fit is InvalidInput; nothing is written here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import msgspec

from ..errors import InvalidInput
from ..model.codec import Metadata, encode_metadata
from ..model.decisions import Claim
from ..model.stored import ENCODING_JSON, EventType, StoredEvent, checksum_of
from ..stores.contract.claims import ClaimKey, HeldClaim
from ..stores.contract.timers import TimerKey
from .drafts import Draft

__all__ = ["Numbering"]

_AHEAD: Final = timedelta(days=1) // timedelta(microseconds=1)
"""By how much a time may be after now: one that is wrong would hold the time of all later ones."""


class Numbering:
    """The end of a log that grows; `now` in µs since 1970-01-01 UTC."""

    def __init__(self, now: int) -> None:
        self._latest = now + _AHEAD
        self._versions: dict[str, int] = {}
        self._types: dict[tuple[str, int], EventType] = {}
        self._claims: dict[ClaimKey, HeldClaim] = {}
        self._timers: dict[TimerKey, int] = {}
        """Where each was set last."""
        self._position = 0
        self._recorded = 0

    @property
    def position(self) -> int:
        """Of the last event."""
        return self._position

    @property
    def streams(self) -> int:
        """How many there are."""
        return len(self._versions)

    @property
    def types(self) -> list[EventType]:
        """All types, in the order of their first use."""
        return list(self._types.values())

    def held(self) -> Iterator[HeldClaim]:
        """Give the claims that are held at the end, in order."""
        for key in sorted(self._claims):
            yield self._claims[key]

    def place(self, draft: Draft) -> StoredEvent:
        """Give an event its place; raise InvalidInput, and then it has none."""
        version = self._versions.get(draft.stream, 0) + 1
        self._check(draft, version)
        position, recorded = self._position + 1, max(self._recorded, draft.time)
        kind = draft.type
        place = draft.stream, version, kind.name, kind.version, draft.time
        metadata = draft.metadata
        checksum = checksum_of(*place, ENCODING_JSON, draft.payload, metadata)
        if draft.checksum is not None and draft.checksum != checksum:
            raise InvalidInput(
                f"{draft.stream} version {version}, {kind.name}: its checksum is {checksum}, and "
                f"{draft.checksum} when it was exported: it was changed"
            )
        if draft.moved is not None and draft.position != position:
            metadata = self._moved(draft.moved)
            checksum = checksum_of(*place, ENCODING_JSON, draft.payload, metadata)
        self._timers.update(((draft.stream, name), position) for name in draft.timers)
        self._keep_claims(draft, position)
        self._types.setdefault((kind.name, kind.version), kind)
        self._versions[draft.stream] = version
        self._position, self._recorded = position, recorded
        return StoredEvent(
            *(position, draft.stream, version, kind.name, kind.version, recorded),
            *(draft.payload, metadata, ENCODING_JSON, checksum, recorded - draft.time),
        )

    def _moved(self, metadata: Metadata) -> bytes:
        """Let metadata name the place that its timer has here: else the log says that it waits."""
        if metadata.fired is not None:
            stream, name, before = metadata.fired
            fired = stream, name, self._timers.get((stream, name), before)
            metadata = msgspec.structs.replace(metadata, fired=fired)
        return encode_metadata(metadata)

    def _check(self, draft: Draft, version: int) -> None:
        if draft.version is not None and draft.version != version:
            raise InvalidInput(
                f"{draft.stream} is at version {version - 1} here, and this is its version "
                f"{draft.version}: events of it are missing, or stand twice"
            )
        if not 0 <= draft.time <= self._latest:
            raise InvalidInput(
                "its time is before 1970, or more than a day from now: a log that had it would "
                "hold the time of all later events. Give the right one"
            )

    def _keep_claims(self, draft: Draft, position: int) -> None:
        for claim in draft.claims:
            key = claim.name, claim.value
            holder = self._claims.get(key)
            if holder is not None and holder.stream != draft.stream:
                if isinstance(claim, Claim):
                    raise InvalidInput(
                        f"{draft.stream} claims a value of {claim.name!r} that {holder.stream} "
                        f"holds: release it before, or claim another"
                    )
            elif not isinstance(claim, Claim):
                self._claims.pop(key, None)
            elif holder is None:
                self._claims[key] = HeldClaim(claim.name, claim.value, draft.stream, position)
