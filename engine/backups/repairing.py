"""A damaged log that is read with the events of a backup, or of a copy, in place of damaged ones.

Rules: a sound event of the log is given as it is, and one of the spare only where the log's own
cannot be read. The spare must be of the same log, and have the same events as the log on both sides
of what is damaged: then what stands between is the same too. Where the spare ends before that, the
checksum that the log has of the event is compared. Each event is proved by its checksum. What
cannot be proved, or is in neither, is Damaged: nothing is invented. Only that is given; who copies
it makes a log of it. Calls block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from ..errors import Damaged, EngineError, StoreFailed, StoreRefused
from ..model.stored import EventType, Snapshot, StoredEvent
from ..outside.claims import fold_claims
from ..outside.timers import as_they_stand, fold_timers, table_of
from ..stores.contract.claims import ClaimKey, HeldClaim
from ..stores.contract.copying import Carried, CopySource, Repaired
from ..stores.contract.log import Head, StreamPage, StreamRead
from ..stores.contract.outside import LogReader
from ..stores.contract.timers import TimerKey, WaitingTimer
from ..write.snapshot import is_sound

__all__ = ["MendedSource"]


class MendedSource:
    """A damaged log to be copied, with a spare for what is damaged."""

    def __init__(self, damaged: CopySource, spare: CopySource, now: Callable[[], int]) -> None:
        self._damaged = damaged
        self._spare = spare
        self._now = now
        self.log = _MendedLog(damaged.log, spare.log, now)
        """The events, open inside of `with`."""
        self.notes: list[str] = []
        """What else could not be taken from the damaged log."""

    def __enter__(self) -> MendedSource:
        """Open both; raise StoreRefused where they are not of one log."""
        with self._spare:
            pass  # it says what it is, if it is none, before anything is held open
        self._spare.__enter__()
        try:
            self._damaged.__enter__()
            try:
                if self._damaged.log.log_id != self._spare.log.log_id:
                    raise StoreRefused(
                        f"{self._spare.log.name} is of the log {self._spare.log.log_id}, and "
                        f"{self._damaged.log.name} is {self._damaged.log.log_id}: name a backup of "
                        f"that one. Nothing was changed"
                    )
            except BaseException:
                self._damaged.__exit__(None, None, None)
                raise
        except BaseException:
            self._spare.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close both."""
        try:
            self._damaged.__exit__(kind, error, traceback)
        finally:
            self._spare.__exit__(kind, error, traceback)

    def is_in_use(self) -> bool:
        """Tell whether an engine has the damaged log open."""
        return self._damaged.is_in_use()

    def moment(
        self,
        keep_claims: Callable[[Sequence[HeldClaim]], None],
        keep_timers: Callable[[Sequence[WaitingTimer]], None],
    ) -> Head:
        """Give the end of the log, and the claims and timers that its events say.

        Which timers were cancelled by an operator, or fired without an event, its table alone says.
        """
        claims, timers = self.log.folded()
        try:
            timers = as_they_stand(timers, table_of(self._damaged.log), self._now())
        except (EngineError, ValueError, TypeError) as error:
            self.notes.append(
                f"the table of timers cannot be read ({error}): all wait that the events say. "
                f"Cancel again what an operator had cancelled, before an engine starts"
            )
        keep_claims([claims[key] for key in sorted(claims)])
        keep_timers([timers[key] for key in sorted(timers)])
        return self.log.head()

    def snapshots(self, after: str, limit: int) -> Sequence[Snapshot]:
        """Give those that are sound by themselves; they are no more than a cache."""
        try:
            while page := self._damaged.snapshots(after, limit):
                if sound := [snapshot for snapshot in page if _is_sound(snapshot)]:
                    return sound
                after = page[-1].stream
        except (EngineError, ValueError, TypeError) as error:
            self.notes.append(
                f"snapshots behind {after!a} cannot be read, and are left out: {error}"
            )
        return ()

    def repairs(self) -> Sequence[Repaired]:
        """Give what was repaired before, and what is now."""
        try:
            before = self._damaged.repairs()
        except (EngineError, ValueError, TypeError) as error:
            self.notes.append(f"what was repaired before cannot be read: {error}")
            before = ()
        new = self.log.repaired
        return [one for one in before if one.position not in new] + [new[p] for p in sorted(new)]

    def carried(self) -> Carried | None:
        """Give what goes along, or that of the spare where it cannot be read."""
        try:
            return self._damaged.carried()
        except (EngineError, ValueError, TypeError) as error:
            self.notes.append(
                f"the views cannot be read ({error}): decisions, and checkpoints of sinks, are "
                f"those of {self._spare.log.name}. A sink delivers again what is behind them"
            )
            return self._spare.carried()


def _is_sound(snapshot: Snapshot) -> bool:
    try:
        return is_sound(snapshot)
    except TypeError:
        return False  # a flipped bit has made another class of a value


class _MendedLog:
    """Reads the log, and the spare where it must."""

    def __init__(self, log: LogReader, spare: LogReader, now: Callable[[], int]) -> None:
        self._log = log
        self._spare = spare
        self._now = now
        self.repaired: dict[int, Repaired] = {}
        """By position."""
        self._seen: dict[tuple[str, int], EventType] = {}
        self._proved = range(0)
        """Positions that stand between sound events which both have."""
        self._claims: dict[ClaimKey, HeldClaim] = {}
        self._timers: dict[TimerKey, WaitingTimer] = {}
        self._folded = 0

    @property
    def name(self) -> str:
        """What people call the log."""
        return self._log.name

    @property
    def log_id(self) -> str:
        """The log's id."""
        return self._log.log_id

    def __enter__(self) -> _MendedLog:
        """Do nothing: both are opened by the source."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing."""

    def open(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def head(self) -> Head:
        """Give the end of the log."""
        return self._log.head()

    def change_count(self) -> int:
        """Give what changes as the log does."""
        return self._log.change_count()

    def checksum_at(self, position: int) -> int | None:
        """Give what the log says."""
        return self._log.checksum_at(position)

    def version_of(self, stream: str) -> int:
        """Give what the log says."""
        return self._log.version_of(stream)

    def read_claims(self, after: ClaimKey = ("", ""), *, claims_max: int) -> list[HeldClaim]:
        """Give what the log says."""
        return self._log.read_claims(after, claims_max=claims_max)

    def read_timers(self, after: TimerKey = ("", ""), *, timers_max: int) -> list[WaitingTimer]:
        """Give what the log says."""
        return self._log.read_timers(after, timers_max=timers_max)

    def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Give what the log says."""
        return self._log.read_streams(reads, events_max=events_max, bytes_max=bytes_max)

    def event_types(self) -> Sequence[EventType]:
        """Give the types of the spare, and those that only sound events of the log have."""
        types = list(self._spare.event_types())
        known = {(kind.name, kind.version) for kind in types}
        for kind in self._log.event_types():
            key = (kind.name, kind.version)
            if key not in known and key in self._seen:
                types.append(kind)
        return tuple(types)

    def folded(self) -> tuple[dict[ClaimKey, HeldClaim], dict[TimerKey, WaitingTimer]]:
        """Give all claims that are held at the end, and timers that wait, as the events say."""
        end = self.head().position
        while self._folded < end:
            self.read_feed(self._folded, events_max=1_000, bytes_max=2**23)
        return self._claims, self._timers

    def read_feed(self, after: int, *, events_max: int, bytes_max: int) -> Sequence[StoredEvent]:
        """Read the order after a position; raise Damaged for what is sound nowhere."""
        page = self._read(after, events_max, bytes_max)
        for event in page:
            self._seen.setdefault(
                (event.name, event.event_version), EventType(event.name, event.event_version, "")
            )
        if page and page[0].position == self._folded + 1:
            fold_claims(self._claims, page)
            fold_timers(self._timers, page)
            self._folded = page[-1].position
        return page

    def _read(self, after: int, events_max: int, bytes_max: int) -> Sequence[StoredEvent]:
        most = events_max
        while True:
            try:
                page = self._log.read_feed(after, events_max=most, bytes_max=bytes_max)
            except Damaged as error:
                return [self._from_spare(after, error.what)]
            except StoreFailed as error:
                if error.passes:
                    raise
                if most == 1:
                    return [self._from_spare(after, str(error))]
                most //= 2
                continue
            if not page and after < self._log.head().position:
                return [self._from_spare(after, "it is missing")]
            return page

    def _from_spare(self, after: int, cause: str) -> StoredEvent:
        position = after + 1
        found = self._spare_at(position)
        if found is None:
            raise Damaged(
                position,
                f"{cause}; and {self._spare.name} does not have it: use a later backup. Nothing "
                f"was invented",
            )
        if position not in self._proved:
            before = self._check(range(position - 1, 0, -1))
            behind = self._check(range(position + 1, self._log.head().position + 1))
            if behind is None:
                behind = self._check_itself(position, found)
            self._proved = range((before or 0) + 1, behind)
        if position not in self.repaired:
            where = (found.stream, found.version, found.checksum)
            self.repaired[position] = Repaired(
                position, self._now(), *where, cause, self._spare.name
            )
        return found

    def _spare_at(self, position: int) -> StoredEvent | None:
        page = self._spare.read_feed(position - 1, events_max=1, bytes_max=1)
        return page[0] if page else None

    def _sound_at(self, position: int) -> StoredEvent | None:
        try:
            page = self._log.read_feed(position - 1, events_max=1, bytes_max=1)
        except (Damaged, StoreFailed):
            return None
        return page[0] if page else None

    def _check(self, positions: Iterable[int]) -> int | None:
        """Compare the first of these events that is sound; give where that was.

        None where there is none, or none that the spare could have.
        """
        for position in positions:
            if position > self._spare.head().position:
                return None
            if (ours := self._sound_at(position)) is not None:
                if self._spare_at(position) != ours:
                    raise StoreRefused(
                        f"{self._spare.name} has another event at position {position} than "
                        f"{self.name}: it is of another history of this log. Use another backup. "
                        f"Nothing was changed"
                    )
                return position
        return None

    def _check_itself(self, position: int, found: StoredEvent) -> int:
        """Compare the checksum that the log has there; the spare ends before what is sound."""
        if self._log.checksum_at(position) != found.checksum:
            raise Damaged(
                position,
                f"{self._spare.name} has nothing sound behind it, and the event there cannot be "
                f"proved to be the one that was in the log: its checksum is another. Nothing was "
                f"invented",
            )
        return position + 1
