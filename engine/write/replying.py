"""What a command has beside its events, on its mail: claims, and a reply that is new or kept.

Rules: a reply is looked at before an event is encoded. A repeated key gets the reply that is kept
with it, and never runs a handler. It decides nothing, and knows no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import EngineError, HandlerFailed, KeyReused
from ..limits import Limits
from ..model.codec import Metadata
from ..model.decisions import NO_CLAIMS, Claim, Decision, UniqueValue, opened
from ..model.fingerprint import is_of
from ..model.messages import Receipt
from ..model.stored import StoredEvent
from ..stores.contract.claims import ReleaseClaim, TakeClaim
from ..stores.contract.log import Extra
from .keys import KeyRecord
from .mailbox import Mail

__all__ = ["extras_of", "first_receipt", "joint_receipt", "recall", "record_of", "unpack"]


def unpack(mail: Mail, returned: Any, limits: Limits) -> Any:
    """Give the events of a decision, and put the rest on its mail; raise HandlerFailed."""
    handler = mail.handler
    form = handler.reply
    given: Any = returned
    if type(returned) is Decision and form is not None and given.claims is NO_CLAIMS:
        mail.reply, mail.kept = form.kept(given.reply, limits.reply_bytes)
        return given.events
    found = opened(handler.decide.__qualname__, form, returned, limits)
    events, mail.reply, mail.kept, mail.claims = found
    return events


def extras_of(claims: Sequence[UniqueValue], stream: str) -> list[Extra]:
    """Give what is stored with the events of a command, in the order of its claims."""
    return [
        (TakeClaim if isinstance(claim, Claim) else ReleaseClaim)(claim.name, claim.value, stream)
        for claim in claims
    ]


def first_receipt(stream: str, record: KeyRecord, reply: Any) -> Receipt:
    """Give the receipt of the first command with a key, again."""
    if not record.parties:
        return Receipt(stream, record.version, record.position, reply)
    return joint_receipt(record.parties, record.position, reply)


def joint_receipt(parties: Sequence[tuple[str, int, int]], position: int, reply: Any) -> Receipt:
    """Give the receipt of a joint decision: of the aggregate that its command names first."""
    (stream, version, _), *others = parties
    return Receipt(stream, version, position, reply, tuple(party[:2] for party in others))


def record_of(stored: StoredEvent, metadata: Metadata) -> KeyRecord | None:
    """Give what is remembered of the key that an event has; None where it has none."""
    if metadata.key is None or metadata.fingerprint is None:
        return None
    further = metadata.events - 1
    # A command's events stand next to each other in the log, those for other aggregates too.
    count = sum(party[2] for party in metadata.parties) or metadata.events
    return KeyRecord(
        metadata.fingerprint,
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
    if stored != mail.fingerprint and not is_of(stored, mail.envelope.command):
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
