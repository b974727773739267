"""Events, timers, states and differences as operators are shown them.

Rules: an event is shown as it is today, decoded by the classes of the program, so that personal
data of who was erased is masked; what no class here knows is shown as it is stored. What is not
JSON is shown as hexadecimal text. Nothing here raises for what somebody wrote.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import msgspec

from ..errors import Damaged, InvalidInput
from ..log.browsing import Broken, Browsed, BrowsedPage, Large
from ..model.codec import UNDECODABLE, EventRegistry, decode_metadata
from ..model.difference import ABSENT, Change
from ..model.stored import ENCODING_JSON, StoredEvent
from ..model.texts import is_text, unfit
from ..stores.contract.timers import WaitingTimer
from .answers import LogEntry, LogPage, ShownChange, ShownTimer, Timers
from .operations import PAGE_MAX

__all__ = [
    "PAYLOAD_SHOWN_MAX",
    "as_json",
    "checked_limit",
    "checked_stream",
    "page_of",
    "payload_max",
    "shown_changes",
    "timers_page",
]


PAYLOAD_SHOWN_MAX: Final = 16 * 1024
"""Bytes of a payload in a page of several events."""
_STREAM_LENGTH_MAX: Final = 1_000
_TIMERS_PAGE: Final = 1_000
_TIMERS_LOOKED_AT: Final = 10_000

_encoder: Final = msgspec.json.Encoder(enc_hook=repr)


def checked_limit(limit: int) -> int:
    """Give a number of entries; raise InvalidInput for what is none."""
    if type(limit) is not int or not 1 <= limit <= PAGE_MAX:
        raise InvalidInput(f"limit={limit!r:.40}: a page has 1 to {PAGE_MAX} entries")
    return limit


def checked_after(after: tuple[str, str]) -> tuple[str, str]:
    """Give the names behind which a page begins; raise InvalidInput for what nothing is called."""
    for name in after:
        if (why := unfit(name)) is not None:
            raise InvalidInput(f"a page cannot begin behind {name!r:.100}, which has {why}")
    return after


def checked_stream(stream: str) -> tuple[str, str]:
    """Give kind and id of a stream; raise InvalidInput for what names none."""
    kind, colon, own_id = stream.partition(":")
    fits = is_text(stream) and stream.isprintable() and len(stream) <= _STREAM_LENGTH_MAX
    if not (fits and kind and colon and own_id):
        raise InvalidInput(
            f"{stream!r:.100} names no aggregate: a stream is its kind, a colon and its id, as "
            f"order:o-1"
        )
    return kind, own_id


def payload_max(limit: int, *, payloads: bool) -> int | None:
    """Give how large a payload may be to be read for a page; None where all are shown whole."""
    if not payloads:
        return 0
    return None if limit == 1 else PAYLOAD_SHOWN_MAX


def page_of(browsed: BrowsedPage, registry: EventRegistry | None, *, payloads: bool) -> LogPage:
    """Give a page of the log as it is shown; `registry` has the classes of the program."""
    entries = [_entry(event, registry, payloads=payloads) for event in browsed.events]
    return LogPage(entries, browsed.older, browsed.end)


def _entry(browsed: Browsed, registry: EventRegistry | None, *, payloads: bool) -> LogEntry:
    if isinstance(browsed, Broken):
        return LogEntry(position=browsed.position, damaged=browsed.why)
    is_large = isinstance(browsed, Large)
    event = browsed.event if isinstance(browsed, Large) else browsed
    size = browsed.payload_bytes if isinstance(browsed, Large) else len(event.payload)
    try:
        metadata = decode_metadata(event)
        payload = _payload(event, registry) if payloads and not is_large else None
    except Damaged as damaged:
        return LogEntry(position=event.position, damaged=str(damaged))
    return LogEntry(
        position=event.position,
        recorded=event.recorded,
        stream=event.stream,
        version=event.version,
        name=event.name,
        event_version=event.event_version,
        key=metadata.key,
        correlation=metadata.correlation,
        causation=metadata.causation,
        principal=metadata.principal,
        headers=metadata.headers if payloads else None,
        payload=payload,
        payload_bytes=size,
    )


def _payload(stored: StoredEvent, registry: EventRegistry | None) -> msgspec.Raw:
    if registry is not None and stored.name in registry.names:
        event = registry.decode(stored)
        if event is not None:
            return as_json(event)
    return (
        _raw(stored.payload) if stored.encoding == ENCODING_JSON else as_json(stored.payload.hex())
    )


def _raw(payload: bytes) -> msgspec.Raw:
    """Give JSON as it stands, or hexadecimal text of what is none."""
    try:
        msgspec.json.decode(payload)
        payload.decode()
    except UNDECODABLE:
        return as_json(payload.hex())
    return msgspec.Raw(payload)


def as_json(value: Any) -> msgspec.Raw:
    """Give a value of the program as JSON; what JSON has not is shown as Python shows it."""
    with suppress(Exception):  # of the host's classes, whatever it is
        return msgspec.Raw(_encoder.encode(value))
    with suppress(Exception):
        return msgspec.Raw(_encoder.encode(_built(value)))
    return msgspec.Raw(_encoder.encode(f"a {type(value).__name__} that cannot be shown"))


def _built(value: Any) -> Any:
    """Give what JSON can hold of a state, whose keys need not be texts."""
    if isinstance(value, msgspec.Struct):
        return {name: _built(getattr(value, name)) for name in value.__struct_fields__}
    is_mapping = isinstance(value, Mapping)
    if is_mapping:
        fields = cast("Mapping[Any, Any]", value)
        return {_key(key): _built(each) for key, each in fields.items()}
    if isinstance(value, list | tuple | set | frozenset):
        listed: Sequence[Any] = [*value]
        return [_built(each) for each in listed]
    return value


def _key(key: Any) -> str:
    return key if isinstance(key, str) else repr(key)


def shown_changes(changes: Sequence[Change]) -> Sequence[ShownChange]:
    """Give differences as they are shown."""
    return [
        ShownChange(".".join(map(_key, each.path)), _side(each.before), _side(each.after))
        for each in changes
    ]


def _side(value: Any) -> str | None:
    return None if value is ABSENT else bytes(as_json(value)).decode()


async def timers_page(
    read: Callable[[tuple[str, str], int], Awaitable[Sequence[WaitingTimer]]],
    after: tuple[str, str],
    limit: int,
    *,
    parked: bool,
    payloads: bool,
) -> Timers:
    """Give a page of timers; of those that are parked, as far as few enough are looked at."""
    found: list[ShownTimer] = []
    looked_at = 0
    while looked_at < _TIMERS_LOOKED_AT:
        wanted = _TIMERS_PAGE if parked else limit + 1
        page = await read(after, wanted)
        for timer in page:
            if parked and not timer.parked:
                continue
            if len(found) == limit:
                last = found[-1]
                return Timers(found, (last.stream, last.name))
            found.append(shown_timer(timer, payloads=payloads))
        if len(page) < wanted:
            return Timers(found, None)
        looked_at, after = looked_at + len(page), page[-1].key
    return Timers(found, after)


def shown_timer(timer: WaitingTimer, *, payloads: bool) -> ShownTimer:
    """Give a timer as operators are shown it."""
    return ShownTimer(
        stream=timer.stream,
        name=timer.name,
        due=timer.due,
        command=timer.command,
        payload=_raw(timer.payload) if payloads else None,
        position=timer.position,
        next=timer.next,
        attempts=timer.attempts,
        parked=timer.parked,
        cause=timer.cause,
    )
