"""One aggregate in memory: its state, version and keys, as its snapshot and its stream fold to.

Rules: it is folded from the beginning or from a snapshot, and a snapshot counts only when the event
at its version is the one that it names. What cannot be folded raises, and then all of it is of no
use. It takes no command, and never touches a store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import StreamUnreadable
from ..model.aggregate import Aggregate
from ..model.codec import Metadata, decode_metadata
from ..model.stored import ENCODING_JSON, Snapshot, StoredEvent
from ..stores.contract.log import StreamPage
from .keys import UNKNOWN, KeyRecord, KeyWindow
from .kind import Kind
from .replying import record_of
from .snapshot import Distrusted

__all__ = ["Folded"]


class Folded:
    """What an actor knows of its aggregate."""

    __slots__ = (
        "_keys",
        "_proof",
        "_replayed",
        "id",
        "kind",
        "position",
        "state",
        "stream",
        "version",
    )

    def __init__(self, kind: Kind[Any], stream: str, id: str) -> None:  # noqa: A002 - the domain's word
        self.kind = kind
        self.stream = stream
        self.id = id
        self._begin()

    def _begin(self) -> None:
        """Be the aggregate before its first event."""
        self.state: Aggregate = self.kind.definition.cls(id=self.id)
        self.version = 0
        """Undurable events included."""
        self.position = 0
        """Of the last durable event."""
        self._keys: KeyWindow | None = None
        self._proof: Snapshot | None = None
        """The snapshot that it stands on, until the event at its version has been seen."""
        self._replayed = 0
        """Events folded by loading."""

    @property
    def shown_version(self) -> int:
        """The version that callers are told, and that they may expect."""
        return self.version

    @property
    def read_after(self) -> int:
        """The version after which its stream is read; the event of a snapshot is its proof."""
        return self.version if self._proof is None else self.version - 1

    @property
    def restored(self) -> bool:
        """Whether it was loaded from a snapshot and not from its beginning."""
        return self.version > self._replayed

    def restore(self, snapshot: Snapshot) -> None:
        """Begin at a snapshot; raise Distrusted where it does not fit."""
        assert self.kind.freezer is not None
        self.state, self._keys = self.kind.freezer.open(snapshot)
        self.version = snapshot.version
        self.position = snapshot.position
        self._proof = snapshot

    def prove(self, page: StreamPage) -> Sequence[StoredEvent]:
        """Give the events to fold, once the snapshot is known to belong to this stream.

        Raises Distrusted where it does not: then the actor is at its beginning again.
        """
        proof = self._proof
        if proof is None:
            return page.events
        if not page.events:
            if page.more:
                return ()
            self._begin()
            raise Distrusted("the stream ends before it")
        first = page.events[0]
        if (first.position, first.checksum) != (proof.position, proof.checksum):
            self._begin()
            raise Distrusted("another event is at its version")
        self._proof = None
        return page.events[1:]

    def recalled(self, key: str) -> KeyRecord | None:
        """Give what is remembered of the command with a key, within the window."""
        return None if self._keys is None else self._keys.find(key, self.version)

    def replay(self, events: Sequence[StoredEvent], end: int) -> None:
        """Fold stored events, in order, of a stream that goes on to version `end` at least.

        Raises Damaged, or what the applier raises; then the actor is of no use.
        """
        if not events:
            return
        state, stored_as, version = self.state, self.kind.stored, self.version
        forgotten = end - self.kind.definition.key_window
        for stored in events:
            version += 1
            assert stored.version == version, "versions of a stream have no holes"
            binding = stored_as.get((stored.name, stored.event_version))
            if binding is None or stored.encoding != ENCODING_JSON:
                self._replay_otherwise(stored)
            else:
                try:
                    event = binding.decode(stored.payload)
                except Exception:
                    event = self.kind.registry.decode(stored)  # tells it in its own words
                binding.apply(state, event)
            state.version = version
            # A key stands at its command's first event, and counts by its last one.
            may_count = version > forgotten or b'"events"' in stored.metadata
            if may_count and b'"key"' in stored.metadata:
                self._replay_key(stored, decode_metadata(stored))
        self.version = version
        self.position = events[-1].position
        self._replayed += len(events)

    def _replay_otherwise(self, stored: StoredEvent) -> None:
        """Fold an event that is not folded as it was stored, if there is anything to fold."""
        event = self.kind.registry.decode(stored)
        if event is None:
            return
        binding = self.kind.events.get(type(event))
        if binding is None:
            raise StreamUnreadable(
                f"{stored.name} version {stored.event_version} is in {self.stream}, and "
                f"nothing in {self.kind.definition.cls.__name__} applies it"
            )
        binding.apply(self.state, event)

    def _replay_key(self, stored: StoredEvent, metadata: Metadata) -> None:
        record = record_of(stored, metadata, self.kind.registry.sealer)
        if metadata.key is not None and record is not None:
            self.remember(metadata.key, record, is_sealed=metadata.sealed is not None)

    def remember(self, key: str, record: KeyRecord, *, is_sealed: bool = False) -> None:
        """Keep what is remembered of a command, whose fingerprint may be stored encrypted only."""
        if is_sealed and self.kind.freezer is not None and not self.kind.freezer.is_sealing:
            record.fingerprint = UNKNOWN
        if self._keys is None:
            self._keys = KeyWindow(self.kind.definition.key_window)
        self._keys.remember(key, record)
