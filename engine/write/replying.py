"""What a command has beside its events, on its mail: the reply of its handler, new or kept.

Rules: a reply is looked at before an event is encoded. A repeated key gets the reply that is kept
with it, and never runs a handler. It decides nothing, and knows no store.
"""

from __future__ import annotations

from typing import Any

from ..errors import EngineError, HandlerFailed, KeyReused
from ..limits import Limits
from ..model.decisions import opened
from ..model.fingerprint import is_of
from .keys import KeyRecord
from .mailbox import Mail

__all__ = ["recall", "unpack"]


def unpack(mail: Mail, returned: Any, limits: Limits) -> Any:
    """Give the events of a decision, and put the rest on its mail; raise HandlerFailed."""
    handler = mail.handler
    found = opened(handler.decide.__qualname__, handler.reply, returned, limits.reply_bytes)
    mail.reply, mail.kept = found.reply, found.kept
    return found.events


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
