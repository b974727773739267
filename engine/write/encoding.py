"""Turns the events that a handler returned into bytes for the store, and folds those bytes.

Rules: each event is encoded, decoded, and the decoded copy is folded, so that nothing is shared
with the caller's command or the handler's event. An event that is not read back as it was given, or
cannot be folded, is found before it is written. Whatever raises here has handed nothing on, and
leaves a state that must not be used any more.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..errors import DeadlinePassed, HandlerFailed, NotRun, Rejected
from ..model.aggregate import Aggregate
from ..model.codec import Metadata, encode_metadata
from ..model.messages import Event
from ..model.stored import EventData
from ..runtime.safely import shows_messages
from ..runtime.tracebacks import told
from .kind import EventBinding, Kind
from .mailbox import Mail
from .proving import Refold

__all__ = ["encode_and_fold", "failed", "failure_told"]


def encode_and_fold(
    kind: Kind,
    state: Aggregate,
    version: int,
    mail: Mail,
    fingerprint: int | None,
    events: Sequence[Event],
) -> tuple[list[EventData], int]:
    """Give the encoded events of one command, folded into `state` at `version`, and their bytes.

    Raises HandlerFailed, also where an event is not read back as it was given, and whatever
    encoder, decoder and appliers raise.
    """
    if len(events) > kind.limits.command_events:
        raise HandlerFailed(
            f"{mail.handler.decide.__qualname__} returned {len(events)} events, above "
            f"Limits.command_events at {kind.limits.command_events}"
        )
    first_metadata, metadata = _metadata(mail, fingerprint, len(events))
    encode = kind.registry.encode
    refold = Refold(state) if kind.debug else None
    datas: list[EventData] = []
    size = 0
    for event in events:
        binding = _binding(kind, mail, event)
        payload = encode(event)
        binding.apply(state, binding.read_back(event, payload))
        version += 1
        state.version = version
        data = EventData(binding.type, payload, metadata if datas else first_metadata)
        size += _check_size(kind, state, data)
        datas.append(data)
    if refold is not None:
        bindings = [_binding(kind, mail, event) for event in events]
        folds = [(b.apply, b.decode(d.payload)) for b, d in zip(bindings, datas, strict=True)]
        refold.compare(state, folds)
    return datas, size


def failed(mail: Mail, stream: str, cause: BaseException) -> NotRun:
    """Give what the caller is told where the aggregate's own code has failed."""
    if isinstance(cause, HandlerFailed | DeadlinePassed):
        return cause
    why = "see the cause"
    if isinstance(cause, Rejected):
        why = "a rule belongs into the handler, since an applier decides nothing"
    error = HandlerFailed(
        f"{mail.handler.decide.__qualname__} failed on {type(mail.command).__name__} for "
        f"{stream} with {type(cause).__name__}: {why}. Nothing was written."
    )
    error.__cause__ = cause
    return error


def failure_told(error: NotRun, logger: logging.Logger) -> str:
    """Give a failure as a line for the log, with the traceback of the host's code behind it."""
    if error.__cause__ is None:
        return str(error)
    return f"{error}\n{told(error.__cause__, messages=shows_messages(logger))}"


def _binding(kind: Kind, mail: Mail, event: Event) -> EventBinding:
    binding = kind.events.get(type(event))
    if binding is None:
        raise HandlerFailed(
            f"{mail.handler.decide.__qualname__} returned {type(event).__name__}, and nothing "
            f"in {kind.definition.cls.__name__} applies it: add an @applies method"
        )
    return binding


def _check_size(kind: Kind, state: Aggregate, data: EventData) -> int:
    largest = max(len(data.payload), len(data.metadata))
    if largest > kind.limits.event_bytes:
        raise HandlerFailed(
            f"{data.type.name} of {kind.definition.kind}:{state.id} has {largest} bytes, above "
            f"Limits.event_bytes at {kind.limits.event_bytes}"
        )
    return len(data.payload) + len(data.metadata)


def _metadata(mail: Mail, fingerprint: int | None, events: int) -> tuple[bytes, bytes]:
    """Give the metadata of a command's first event and of its further ones."""
    headers = None if mail.headers is None else dict(mail.headers)
    correlation, causation, principal = mail.correlation, mail.causation, mail.principal
    traced = not (
        correlation is None and causation is None and principal is None and headers is None
    )
    first = further = b""
    if traced and (mail.key is None or events > 1):
        bare = Metadata(None, None, 1, correlation, causation, principal, headers)
        first = further = encode_metadata(bare)
    if mail.key is not None:
        full = Metadata(mail.key, fingerprint, events, correlation, causation, principal, headers)
        first = encode_metadata(full)
    return first, further
