"""Turns the events that a handler returned into bytes for the store, and folds those bytes.

Rules: each event is encoded, decoded, and the decoded copy is folded, so that nothing is shared
with the caller's command or the handler's event. An event that is not read back as it was given, or
cannot be folded, is found before it is written. Whatever raises here has handed nothing on, and
leaves a state that must not be used any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeGuard, cast

import msgspec

from ..errors import (
    DeadlinePassed,
    EngineError,
    EventUnread,
    HandlerFailed,
    InvalidInput,
    Rejected,
    StoreFailed,
    Voided,
)
from ..model.aggregate import Aggregate
from ..model.codec import (
    NOTHING_KEPT,
    Cast,
    EventRegistry,
    Metadata,
    encode_metadata,
    encode_metadata_of_key,
)
from ..model.decisions import Claim, UniqueValue
from ..model.joint import Share
from ..model.messages import Event
from ..model.personal import SNAPSHOTS, is_subject
from ..model.stored import ENCODING_JSON, EventData
from ..model.timers import SetTimers
from ..runtime.safely import shows_messages
from ..runtime.tracebacks import traceback_text
from ..stores.contract.timers import FiredTimer
from .faults import fault_of_the_caller
from .kind import EventBinding, Kind, sealing
from .mailbox import Mail
from .proving import Refold
from .replying import bound_to

__all__ = [
    "FoldInto",
    "encode_and_fold",
    "failed",
    "is_rejection",
    "joint_metadatas",
    "log_failure",
    "metadatas_of",
]


FoldInto: TypeAlias = Callable[[Event, bytes, tuple[str, ...], int], None]
"""Folds an event that is decided: itself, its JSON, its tags, and its version."""


def encode_and_fold(
    kind: Kind[Any],
    state: Aggregate,
    version: int,
    mail: Mail,
    events: Sequence[Event],
    metadatas: tuple[bytes, bytes] | None = None,
    into: FoldInto | None = None,
) -> tuple[list[EventData], int]:
    """Give the encoded events of one command, folded into `state` at `version`, and their bytes.

    `metadatas` are those of the first and of further events, if they are not the command's own.
    `into` folds them in place of that, where boundaries are to have them too.
    Raises HandlerFailed, also where an event is not read back as it was given, EventUnread, and
    whatever encoder, decoder and appliers raise.
    """
    if len(events) > kind.limits.command_events:
        raise HandlerFailed(
            f"{mail.handler.decide.__qualname__} returned {len(events)} events, above "
            f"Limits.command_events at {kind.limits.command_events}"
        )
    if metadatas is None:
        key = mail.envelope.key
        if kind.registry.sealer is not None:
            _seal_fingerprint(kind.registry, mail, [(f"{kind.definition.kind}:{state.id}", events)])
        known, timers, fired = mail.fingerprint, mail.timers, mail.fired
        metadatas = metadatas_of(
            mail, len(events), key, known, mail.claims, timers=timers, fired=fired
        )
    metadata, further_metadata = metadatas
    bindings, encode, bytes_max = kind.events, kind.registry.encode, kind.limits.event_bytes
    refold = Refold(state) if kind.debug and into is None else None
    datas: list[EventData] = []
    plain: list[bytes] = []
    size = 0
    former: Sequence[Cast | None] = ()
    if kind.registry.held:
        casts = [kind.registry.cast(event) for event in events]
        events, former = [today for today, _ in casts], [stored for _, stored in casts]
    for event in events:
        binding = bindings.get(type(event))
        if binding is None:
            raise _unbound(kind, mail, event)
        payload = encode(event)
        tags = () if binding.tags is None else binding.tags(event)
        version += 1
        if into is None:
            binding.apply(state, binding.read_back(event, payload))
            state.version = version
        else:
            into(event, payload, tags, version)
        if refold is not None:
            plain.append(payload)
        type_, seal = binding.type, binding.seal
        if former and (stored := former[len(datas)]) is not None:
            type_, event, payload, tags = stored.type, stored.event, stored.payload, stored.tags
            seal = sealing(kind.registry, type(event))
        if seal is not None:
            payload = seal(event, payload, f"{kind.definition.kind}:{state.id}", version)
        if datas:
            metadata = further_metadata
        bytes_, more = len(payload), len(metadata)
        if bytes_ > bytes_max or more > bytes_max:
            raise _too_large(kind, state, binding, max(bytes_, more))
        size += bytes_ + more
        datas.append(EventData(type_, payload, metadata, ENCODING_JSON, tags))
    if refold is not None:
        bound = [bindings[type(event)] for event in events]
        folds = [(b.apply, b.decode(p)) for b, p in zip(bound, plain, strict=True)]
        refold.compare(state, folds)
    return datas, size


def is_rejection(error: BaseException) -> TypeGuard[Rejected]:
    """Tell whether what a handler raised is the domain's answer, and not a failure of its code.

    A class of the host's that does not call the constructor of Rejected has no code: whoever is to
    tell of it would fail. No future takes a StopIteration, whatever else it is.
    """
    if not isinstance(error, Rejected) or isinstance(error, StopIteration):
        return False
    try:
        code, message = cast("tuple[object, object]", (error.code, error.message))
    except BaseException:  # of the host's class, which may do as it likes
        return False
    return code is not None and message is not None


def failed(
    mail: Mail, stream: str, cause: BaseException, *, is_foreign: bool = False
) -> EngineError:
    """Give what the caller is told where the aggregate's own code has failed.

    What comes from the caller, and no store can hold, is no fault of the code. With `is_foreign`
    the handler raised it: then an error of an engine is the answer to another command.
    """
    blamed = fault_of_the_caller(mail.envelope.command, cause)
    if blamed is not None:
        return blamed
    if not is_foreign and isinstance(cause, HandlerFailed | DeadlinePassed | EventUnread | Voided):
        return cause
    if not is_foreign and isinstance(cause, StoreFailed):
        return not_now(stream, cause)  # of the keys of personal data
    why = "see the cause"
    if isinstance(cause, Rejected) and is_rejection(cause):
        why = "a rule belongs into the handler, since an applier decides nothing"
    elif isinstance(cause, Rejected):
        why = "its constructor must call that of Rejected, with a code and a message"
    error = HandlerFailed(
        f"{mail.handler.decide.__qualname__} failed on {type(mail.envelope.command).__name__} for "
        f"{stream} with {type(cause).__name__}: {why}. Nothing was written."
    )
    error.__cause__ = cause
    return error


def log_failure(logger: logging.Logger, error: EngineError) -> None:
    """Log a failure of the host's code, with its traceback; not what a caller has done wrong.

    Nor that keys cannot be had, which who keeps them tells.
    """
    if isinstance(error, InvalidInput | Voided):
        return
    text = str(error)
    if error.__cause__ is not None:
        text += f"\n{traceback_text(error.__cause__, messages=shows_messages(logger))}"
    logger.error("%s", text, stacklevel=2)  # the line of who has it failed


def not_now(stream: str, failure: StoreFailed) -> Voided:
    """Give what a caller is told where a store cannot be read now: it is to be asked again."""
    error = Voided(f"{stream}: {failure}. Nothing was written; send again.")
    error.__cause__ = failure
    return error


def _unbound(kind: Kind[Any], mail: Mail, event: Event) -> HandlerFailed:
    return HandlerFailed(
        f"{mail.handler.decide.__qualname__} returned {type(event).__name__}, and nothing "
        f"in {kind.definition.cls.__name__} applies it: add an @applies method"
    )


def _too_large(
    kind: Kind[Any], state: Aggregate, binding: EventBinding, largest: int
) -> HandlerFailed:
    return HandlerFailed(
        f"{binding.type.name} of {kind.definition.kind}:{state.id} has {largest} bytes, above "
        f"Limits.event_bytes at {kind.limits.event_bytes}"
    )


def metadatas_of(
    mail: Mail,
    events: int,
    key: str | None,
    fingerprint: int | None,
    claims: Sequence[UniqueValue],
    parties: tuple[tuple[str, int, int], ...] = (),
    *,
    timers: SetTimers | None = None,
    fired: FiredTimer | None = None,
    more: bool = False,
) -> tuple[bytes, bytes]:
    """Give the metadata of a command's first event for an aggregate, and of its further ones.

    With `more` the latter are wanted, however few events it has.
    """
    envelope = mail.envelope
    headers = envelope.headers
    correlation, causation = envelope.correlation, envelope.causation
    principal = envelope.principal
    traced = not (
        correlation is None and causation is None and principal is None and headers is None
    )
    is_alone = not (traced or claims or parties or mail.depth)
    if is_alone and key is not None and timers is None and fired is None:
        # Most often so, and each command of a client with keys comes by here.
        sealed = mail.sealed
        if sealed is not None:
            fingerprint = 0
        return encode_metadata_of_key(key, fingerprint, events, mail.kept, sealed), b""
    first = further = b""
    own_headers = None if headers is None else dict(headers)
    trace = correlation, causation, principal, own_headers
    depth = mail.depth
    is_plain = key is None and not parties and timers is None and fired is None
    if traced and (is_plain or events > 1 or more):
        first = further = encode_metadata(Metadata(None, None, 1, *trace, depth=depth))
    if key is not None or claims or parties or timers is not None or fired is not None:
        kept = NOTHING_KEPT if key is None or mail.kept is None else msgspec.Raw(mail.kept)
        known = 1 if key is None else events
        taken, released = _changed(claims) if claims else ((), ())
        kept_too = kept, taken, released, parties
        changed = {} if timers is None and fired is None else _changed_timers(timers, fired)
        if key is not None and mail.sealed is not None:
            fingerprint, changed["sealed"] = 0, mail.sealed
        kept_of_it = key, fingerprint, known, *trace, *kept_too, depth
        first = encode_metadata(Metadata(*kept_of_it, **changed))
    return first, further


def joint_metadatas(
    registry: EventRegistry,
    mail: Mail,
    shares: Sequence[Share],
    parties: tuple[tuple[str, int, int], ...],
    timers: Sequence[SetTimers | None],
) -> list[tuple[bytes, bytes]]:
    """Give the same of each part of a joint decision, with what each does to timers.

    Key, reply, parties and whose command it is stand at the first event of all.
    """
    key, known, first = mail.envelope.key, mail.fingerprint, shares[0]
    if registry.sealer is not None:
        given = [(parties[share.place][0], share.events) for share in shares]
        _seal_fingerprint(registry, mail, given)
    found = [
        metadatas_of(
            *(mail, len(first.events), key, known, first.claims, parties),
            timers=timers[0],
            fired=mail.fired,
            more=len(shares) > 1,
        )
    ]
    further = found[0][1]
    for share, changes in zip(shares[1:], timers[1:], strict=True):
        if share.claims or changes is not None:
            count = len(share.events)
            found.append(metadatas_of(mail, count, None, None, share.claims, timers=changes))
        else:
            found.append((further, further))
    return found


def _seal_fingerprint(
    registry: EventRegistry, mail: Mail, given: Sequence[tuple[str, Sequence[Event]]]
) -> None:
    """Encrypt the fingerprint of a command with a key, if its events have personal fields.

    `given` are its events by stream. Where they are about several people, the key is that of
    states, which is destroyed with each of them.
    """
    key, sealer = mail.envelope.key, registry.sealer
    mail.sealed = None
    if key is None or sealer is None:
        return
    found = {registry.subject_of(event, stream) for stream, events in given for event in events}
    subjects = [each for each in found if is_subject(each)]
    if subjects:
        subject = SNAPSHOTS if len(subjects) > 1 else subjects[0]
        bound = bound_to(given[0][0], key)
        mail.sealed = sealer.seal(cast("str", subject), str(mail.fingerprint).encode(), bound)


def _changed_timers(timers: SetTimers | None, fired: FiredTimer | None) -> dict[str, Any]:
    """Give what a command does to timers, and whose command it is."""
    changed: dict[str, Any] = {}
    if fired is not None:
        changed["fired"] = (fired.stream, fired.name, fired.position)
    if timers is not None:
        changed["cancels"] = timers.cancelled
        changed["timers"] = tuple(
            (each.name, each.due, each.command, msgspec.Raw(each.payload)) for each in timers.new
        )
    return changed


_Values: TypeAlias = tuple[tuple[str, str], ...]


def _changed(claims: Sequence[UniqueValue]) -> tuple[_Values, _Values]:
    """Give what a command takes, and what it releases."""
    taken = tuple((c.name, c.value) for c in claims if isinstance(c, Claim))
    released = tuple((c.name, c.value) for c in claims if not isinstance(c, Claim))
    return taken, released
