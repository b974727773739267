"""Which people are to be erased by rules of retention: found out of the log, and nothing is done.

Rules: a person is due if each stream with data of that person is closed, and old enough by a rule
that erases. So one whom any other stream still needs stays. What is erased already does not count.
The whole log is read, and each event compared with its checksum: what cannot be read ends it, since
nobody knows then whose it was. Nobody is due by a clock that is far ahead of the log, unless the
log is said to be at rest: by such a clock everybody is due, and no key comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from ..errors import StoreRefused
from ..model.personal import is_subject, opened_of, sealed_of
from ..model.retention import Retention, closed_before
from ..personal.vault import Vault
from ..stores.contract.outside import LogReader

__all__ = ["DuePerson", "due_people"]

_PAGE_EVENTS = 1_000
_PAGE_BYTES = 8 * 1024 * 1024
_AHEAD_MAX: Final = timedelta(days=30)
"""How far a clock is trusted to be ahead of the log's last event."""


class DuePerson(msgspec.Struct, frozen=True):
    """A person who is to be erased."""

    subject: str
    """As the events name him."""
    streams: int
    """Which have data of that person, all closed."""
    reason: str
    """The rule, as it is kept with the erasure."""


def due_people(
    reader: LogReader, vault: Vault, rules: Sequence[Retention], now: int, *, at_rest: bool
) -> list[DuePerson]:
    """Give who is due at `now`, in µs, in the order of their first events.

    `at_rest` says that the log's last event may be old. Log and keys are open. Raises Damaged for
    an event that cannot be read, and StoreRefused for people who are due by a clock far ahead.
    """
    kinds = {rule.kind for rule in rules if rule.erase_after is not None}
    ends: dict[str, tuple[str, int]] = {}
    people: dict[str, dict[str, None]] = {}
    after, last = 0, 0
    while page := reader.read_feed(after, events_max=_PAGE_EVENTS, bytes_max=_PAGE_BYTES):
        after, last = page[-1].position, page[-1].recorded
        for stored in page:
            if stored.stream.partition(":")[0] in kinds:
                ends[stored.stream] = stored.name, stored.recorded
            sealed = sealed_of(stored)
            if sealed is None or opened_of(stored, sealed, vault) is None:
                continue
            subject = vault.subject_of(sealed, stored.position)
            if is_subject(subject):
                people.setdefault(subject, {})[stored.stream] = None
    due: list[DuePerson] = []
    for subject, streams in people.items():
        reasons = [_reason(stream, ends.get(stream), rules, now) for stream in streams]
        if reasons[0] is not None and None not in reasons:
            due.append(DuePerson(subject, len(streams), reasons[0]))
    if due and not at_rest:
        _check_clock(now, last)
    return due


def _check_clock(now: int, last: int) -> None:
    """Refuse a clock that is far ahead of the log's last event."""
    if now - last > _AHEAD_MAX // timedelta(microseconds=1):
        raise StoreRefused(
            f"the clock says {_shown(now)}, and the last event of the log was recorded at "
            f"{_shown(last)}, more than {_AHEAD_MAX.days} days before. By a clock that is wrong "
            f"people are due too early, and no key comes back. Nobody was erased. Look at the "
            f"clock, and give --at-rest if it is right"
        )


def _shown(microseconds: int) -> str:
    """Give a time, as far as there are years for it."""
    try:
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    except OverflowError:
        return f"{microseconds} µs since 1970"
    return time.isoformat(timespec="seconds")


def _reason(
    stream: str, end: tuple[str, int] | None, rules: Sequence[Retention], now: int
) -> str | None:
    """Give the rule by which a stream is due, in words; None if it is not."""
    kind = stream.partition(":")[0]
    for rule in rules:
        if rule.kind != kind or rule.erase_after is None or end is None:
            continue
        name, recorded = end
        if name in rule.names and recorded < closed_before(rule.erase_after, now):
            return f"retention: {rule}, {rule.erase_after.days} days"
    return None
