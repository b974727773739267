"""What a command has beside its events, on its mail: claims, timers, a reply that is new or kept.

Rules: a reply is looked at before an event is encoded. A repeated key gets the reply that is kept
with it, and never runs a handler. It decides nothing, and knows no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import Damaged, EngineError, HandlerFailed, KeyReused
from ..model.codec import Metadata, encode_metadata
from ..model.decisions import Claim, UniqueValue
from ..model.fingerprint import is_of
from ..model.joint import Share
from ..model.messages import Envelope, Receipt
from ..model.personal import Sealer
from ..model.stored import StoredEvent
from ..model.timers import SetTimers, is_at_once
from ..stores.contract.claims import ReleaseClaim, TakeClaim
from ..stores.contract.log import Extra
from ..stores.contract.membership import LedBy
from ..stores.contract.timers import DropTimer, SetTimer
from .keys import UNKNOWN, KeyRecord
from .mailbox import Mail

__all__ = [
    "beside_of",
    "bound_to",
    "carried_by",
    "extras_of",
    "first_receipt",
    "joint_receipt",
    "recall",
    "record_of",
    "set_by",
    "timers_of",
]


def extras_of(claims: Sequence[UniqueValue], stream: str) -> list[Extra]:
    """Give what is stored with the events of a command, in the order of its claims."""
    return [
        (TakeClaim if isinstance(claim, Claim) else ReleaseClaim)(claim.name, claim.value, stream)
        for claim in claims
    ]


def beside_of(
    mail: Mail,
    shares: Sequence[Share],
    streams: Sequence[str],
    timers: Sequence[SetTimers | None],
    first: str,
) -> list[Extra]:
    """Give what a joint decision has beside its events, and put its claims on its mail.

    `streams` and `timers` are those of the shares; a timer of the mail is of the stream `first`.
    """
    extras: list[Extra] = []
    claims: list[UniqueValue] = []
    for share, stream in zip(shares, streams, strict=True):
        if share.claims:
            claims += share.claims
            extras += extras_of(share.claims, stream)
    mail.claims = claims
    if mail.fired is not None or mail.timers is not None or mail.led:
        extras += timers_of(mail, first)
    for changes, stream in zip(timers, streams, strict=True):
        if changes is not None:
            extras += set_by(mail, changes, stream)
    return extras


def timers_of(mail: Mail, stream: str) -> list[Extra]:
    """Give whose command it is, and what its handler does to the timers of its aggregate."""
    extras: list[Extra] = [LedBy(mail.led)] if mail.led else []
    if mail.fired is not None:
        # Before what is set: a timer may lead to one of its own name.
        extras.append(mail.fired)
        mail.wrote = True
    if mail.timers is not None:
        extras += set_by(mail, mail.timers, stream)
    return extras


def set_by(mail: Mail, timers: SetTimers, stream: str) -> list[Extra]:
    """Give what is stored of the timers that a command sets and cancels for a stream."""
    later, at_once = carried_by(mail.envelope, 0), b""
    extras: list[Extra] = [DropTimer(stream, name) for name in timers.cancelled]
    for each in timers.new:
        carried = later
        if is_at_once(each.name):
            carried = at_once = at_once or carried_by(mail.envelope, mail.depth + 1)
        extras.append(SetTimer(stream, each.name, each.due, each.command, each.payload, carried))
    return extras


def carried_by(traced: Envelope | Metadata, depth: int) -> bytes:
    """Give what a timer's command carries on of the command that set it; empty for nothing.

    `depth` is the number of commands and reactions in a row that lead to it at once.
    """
    correlation, principal = traced.correlation, traced.principal
    headers = None if traced.headers is None else dict(traced.headers)
    if correlation is None and principal is None and headers is None and not depth:
        return b""
    metadata = Metadata(correlation=correlation, principal=principal, headers=headers, depth=depth)
    return encode_metadata(metadata)


def first_receipt(stream: str, record: KeyRecord, reply: Any) -> Receipt:
    """Give the receipt of the first command with a key, again."""
    if not record.parties:
        return Receipt(stream, record.version, record.position, reply)
    return joint_receipt(record.parties, record.position, reply)


def joint_receipt(parties: Sequence[tuple[str, int, int]], position: int, reply: Any) -> Receipt:
    """Give the receipt of a joint decision: of the aggregate that its command names first."""
    (stream, version, _), *others = parties
    return Receipt(stream, version, position, reply, tuple([(s, v) for s, v, _ in others]))


def bound_to(stream: str, key: str) -> bytes:
    """Give the place of a fingerprint that is encrypted: it opens nowhere else."""
    return f"{stream} {key}".encode()


def _fingerprint_of(stored: StoredEvent, metadata: Metadata, sealer: Sealer | None) -> int:
    """Give the fingerprint that an event has; UNKNOWN where that was erased, or is not to be had.

    If a key is missing, the event itself tells it.
    """
    assert metadata.key is not None, "only a command with a key has one"
    if metadata.sealed is None:
        return UNKNOWN if metadata.fingerprint is None else metadata.fingerprint
    if sealer is None:
        return UNKNOWN
    bound = bound_to(stored.stream, metadata.key)
    try:
        opened = sealer.unseal(metadata.sealed, bound, stored.position)
    except Damaged:
        return UNKNOWN
    return UNKNOWN if opened is None else int(opened)


def record_of(
    stored: StoredEvent, metadata: Metadata, sealer: Sealer | None = None
) -> KeyRecord | None:
    """Give what is remembered of the key that an event has; None where it has none."""
    if metadata.key is None or metadata.fingerprint is None:
        return None
    further = metadata.events - 1
    # A command's events stand next to each other in the log, those for other aggregates too.
    count = sum(party[2] for party in metadata.parties) or metadata.events
    return KeyRecord(
        _fingerprint_of(stored, metadata, sealer),
        stored.version,
        stored.version + further,
        stored.position + count - 1,
        bytes(metadata.reply) or None,
        metadata.parties,
    )


def recall(mail: Mail, key: str, stream: str, record: KeyRecord) -> EngineError | None:
    """Put the reply of the first command with a key on a mail that repeats it.

    Gives the error where the two are not the same command, or that reply cannot be given.
    """
    stored = record.fingerprint
    is_same = stored in (UNKNOWN, mail.fingerprint) or is_of(stored, mail.envelope.command)
    if not is_same:
        return KeyReused(
            f"the key {key!r} of {stream} belongs to another command, which led to version "
            f"{record.version}. Nothing was written; use a new key."
        )
    form = mail.handler.reply
    if form is not None:
        try:
            mail.reply = form.read(record.reply)
        except HandlerFailed as error:
            return error
    return None
