"""Which people are to be erased by rules of retention: found out of the log, and nothing is done.

Rules: a person is due if each stream with data of that person is closed, and old enough by a rule
that erases. So one whom any other stream still needs stays. What is erased already does not count.
The whole log is read, and each event compared with its checksum: what cannot be read ends it, since
nobody knows then whose it was. Nobody is due by a clock that is far ahead of the log, unless the
log is said to be at rest: by such a clock everybody is due, and no key comes back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

import msgspec

from ..errors import StoreRefused, UsageError
from ..model.aggregate import Aggregate
from ..model.personal import is_subject, opened_of, sealed_of
from ..model.retention import Retention, closed_before
from ..model.stored import StoredEvent
from ..personal.vault import Vault
from ..stores.contract.outside import LogReader

__all__ = ["DuePerson", "DueSearch", "Fold", "due_people", "is_closed", "reason_now"]

_PAGE_EVENTS = 1_000
_PAGE_BYTES = 8 * 1024 * 1024
_AHEAD_MAX: Final = timedelta(days=30)
"""How far a clock is trusted to be ahead of the log's last event."""


Fold: TypeAlias = Callable[[type[Aggregate], str], Awaitable[Aggregate]]
"""Gives the state of an aggregate by its id, for rules that ask a function of it."""


class DuePerson(msgspec.Struct, frozen=True):
    """A person who is to be erased."""

    subject: str
    """As the events name him."""
    streams: int
    """Which have data of that person, all closed."""
    reason: str
    """The rule, as it is kept with the erasure."""


class DueSearch:
    """Finds who is due, in the events of a log that it is shown one page after the other."""

    def __init__(self, vault: Vault, rules: Sequence[Retention]) -> None:
        self._vault = vault
        self._rules = rules
        self._kinds = {rule.kind for rule in rules if rule.erase_after is not None}
        self._ends: dict[str, tuple[str, int]] = {}
        self._people: dict[str, dict[str, None]] = {}
        self._last = 0

    def look(self, page: Sequence[StoredEvent]) -> None:
        """Look at the next events. Raises Damaged for one that cannot be read."""
        for stored in page:
            self._last = stored.recorded
            if stored.stream.partition(":")[0] in self._kinds:
                self._ends[stored.stream] = stored.name, stored.recorded
            sealed = sealed_of(stored)
            if sealed is None or opened_of(stored, sealed, self._vault) is None:
                continue
            subject = self._vault.subject_of(sealed, stored.position)
            if is_subject(subject):
                self._people.setdefault(subject, {})[stored.stream] = None

    def due(self, now: int, *, at_rest: bool) -> list[str]:
        """Give who is due at `now`, in µs, whatever states say, in the order of their first events.

        `at_rest` says that the log's last event may be old. Raises StoreRefused for people who are
        due by a clock far ahead.
        """
        due = [
            subject
            for subject, streams in self._people.items()
            if all(self.rules_for(stream, now) for stream in streams)
        ]
        if due and not at_rest:
            _check_clock(now, self._last)
        return due

    def streams_of(self, subject: str) -> Sequence[str]:
        """Give the streams that have data of a person, in the order of their first events."""
        return tuple(self._people[subject])

    def rules_for(self, stream: str, now: int) -> Sequence[Retention]:
        """Give the rules by whose events and times a stream is due."""
        kind = stream.partition(":")[0]
        name, recorded = self._ends.get(stream, ("", now))
        return [
            rule
            for rule in self._rules
            if rule.kind == kind
            and rule.erase_after is not None
            and name in rule.names
            and recorded < closed_before(rule.erase_after, now)
        ]


async def due_people(
    reader: LogReader,
    vault: Vault,
    rules: Sequence[Retention],
    now: int,
    fold: Fold,
    *,
    at_rest: bool,
) -> list[DuePerson]:
    """Give who is due, as a search over the whole log does. Log and keys are open."""
    search = DueSearch(vault, rules)
    after = 0
    while page := reader.read_feed(after, events_max=_PAGE_EVENTS, bytes_max=_PAGE_BYTES):
        search.look(page)
        after = page[-1].position
    found: list[DuePerson] = []
    for subject in search.due(now, at_rest=at_rest):
        reason = await reason_now(search, subject, now, fold)
        if reason is not None:
            found.append(DuePerson(subject, len(search.streams_of(subject)), reason))
    return found


async def reason_now(search: DueSearch, subject: str, now: int, fold: Fold) -> str | None:
    """Give the rule by which a person is due, as the states are now; None for one who is not."""
    reasons: list[str] = []
    for stream in search.streams_of(subject):
        for rule in search.rules_for(stream, now):
            if await is_closed(rule, fold, stream):
                reasons.append(_reason_of(rule))
                break
        else:
            return None
    return reasons[0]


async def is_closed(rule: Retention, fold: Fold, stream: str) -> bool:
    """Ask what a rule says of the state of a stream. Raises UsageError where its function fails."""
    if rule.closed_if is None:
        return True
    state = await fold(rule.aggregate, stream.partition(":")[2])
    try:
        said: object = rule.closed_if(state)
    except Exception as error:
        raise UsageError(
            f"{rule}: it failed for {stream} with {type(error).__name__}. What was done before "
            f"is done; mend the function, and run the rules again"
        ) from error
    return said is True


def _check_clock(now: int, last: int) -> None:
    """Refuse a clock that is far ahead of the log's last event."""
    if now - last > _AHEAD_MAX // timedelta(microseconds=1):
        raise StoreRefused(
            f"the clock says {_shown(now)}, and the last event of the log was recorded at "
            f"{_shown(last)}, more than {_AHEAD_MAX.days} days before. By a clock that is wrong "
            f"people are due too early, and no key comes back. Nobody was erased. Look at the "
            f"clock, and give --at-rest (at_rest=True) if it is right"
        )


def _shown(microseconds: int) -> str:
    """Give a time, as far as there are years for it."""
    try:
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    except OverflowError:
        return f"{microseconds} µs since 1970"
    return time.isoformat(timespec="seconds")


def _reason_of(rule: Retention) -> str:
    """Give a rule in words, as it is kept with an erasure."""
    days = 0 if rule.erase_after is None else rule.erase_after.days
    return f"retention: {rule}, {days} days"
