"""The table of errors: what each means, who must act, whether to send again, and its HTTP status.

Rules: meaning and `safe_to_resend` are read from the classes, the status from what the ASGI
middleware answers. Who must act is said here, and a test holds the list to be complete.
"""

from __future__ import annotations

import inspect
import logging
from http import HTTPStatus
from typing import Any

import engine
from engine.errors import EngineError
from engine.integrations.asgi import problem_of

from .markdown import cell, table

__all__ = ["WHO", "public_errors", "tables"]

WHO = {
    "EngineError": "depends on the class below it",
    "DefinitionError": "the developer: mend the declaration",
    "UsageError": "the developer: change the call",
    "InvalidInput": "the client: send another value",
    "Rejected": "the client: the domain said no",
    "NotRun": "the caller: send again",
    "Overloaded": "the caller: send again after a pause",
    "Closed": "the caller: send again when the engine is back",
    "Conflict": "the caller: send again",
    "WrongVersion": "the client: read again, then decide again",
    "Voided": "the caller: send again",
    "EventUnread": "an operator: replace the older release; or the developer: add a downcaster",
    "HandlerFailed": "the developer: mend the aggregate",
    "DeadlinePassed": "the caller: send again, with more time",
    "StreamUnreadable": "an operator: see the cause",
    "KeyReused": "the client: use a new key",
    "Forbidden": "an administrator: grant the right",
    "OutcomeUnknown": "the caller: send again with the same key",
    "EngineFailed": "the host: restart the engine",
    "Damaged": "an operator: restore a backup, or mend the code",
    "ArchiveUnread": "an operator: put the cold file back, or restore a backup",
    "StoreFailed": "an operator: see the message",
    "StoreLocked": "an operator: stop the other engine",
    "StoreRefused": "an operator or developer: see the message",
    "BrokerFailed": "nobody if it passes, else an operator: see the message",
    "MessageRefused": "the developer or an operator: see the message",
    "ProjectionFailed": "the developer: mend the projection",
    "ProjectionLag": "the caller: ask again; an operator if the projection has stopped",
    "ProjectionUnserved": "the caller: ask again when the build, or the change of release, is done",
    "ReactionTooDeep": "the developer: break the circle of reactions, then retry what is parked",
}
"""Who must act on each public error, and what they do."""
_RESEND = {
    "OutcomeUnknown": "with the same key",
    "ProjectionLag": "yes, it is a query",
    "ProjectionUnserved": "yes, it is a query",
    "WrongVersion": "yes, but it fails again",
    "HandlerFailed": "yes, but it fails again until the code is mended",
    "StreamUnreadable": "yes, but it fails again until the stream is mended",
}
_STATUS_OF_MANY = {"EngineError"}
_UNHEARD = logging.Logger("foldline")
"""For errors that nobody has met."""
_UNHEARD.addHandler(logging.NullHandler())


def public_errors() -> dict[str, type[engine.EngineError]]:
    """Give the errors that users can catch."""
    package: Any = engine
    found: dict[str, Any] = {name: getattr(package, name) for name in package.__all__}
    return {n: c for n, c in found.items() if inspect.isclass(c) and issubclass(c, EngineError)}


def tables() -> str:
    """Give the table, and which class is a subclass of which."""
    errors = public_errors()
    rows = [
        [f"[`{name}`][foldline.{name}]", _meaning(cls), WHO[name], _resend(name, cls), _status(cls)]
        for name, cls in sorted(errors.items(), key=lambda item: list(WHO).index(item[0]))
        if name not in _STATUS_OF_MANY
    ]
    head = ["error", "what happened", "who must act", "safe to send again", "HTTP"]
    return f"{table(head, rows)}\n\n{_TREE_HEAD}{_tree(errors)}\n```"


_TREE_HEAD = """\
## Which error is a subclass of which

Catch `NotRun` to send a command again. Catch `EngineError` for everything.

```text
"""


def _tree(errors: dict[str, type[engine.EngineError]]) -> str:
    def below(cls: type, depth: int) -> list[str]:
        lines = ["    " * depth + cls.__name__]
        for name, child in errors.items():
            if child.__base__ is cls:
                lines += below(errors[name], depth + 1)
        return lines

    return "\n".join(below(engine.EngineError, 0))


def _meaning(cls: type) -> str:
    return cell((inspect.getdoc(cls) or "").partition("\n\n")[0])


def _resend(name: str, cls: type[engine.EngineError]) -> str:
    return _RESEND.get(name, "yes" if cls.safe_to_resend else "no")


def _status(cls: type[engine.EngineError]) -> str:
    error = cls.__new__(cls)
    # Enough for the mapping, which looks at the class and shows some of these.
    vars(error).update(
        code="code", message="", expected=1, actual=2, wanted=0, behind={}, states={}, projection=""
    )
    vars(error).update(passes=False, written=None)
    status = problem_of(error, logger=_UNHEARD).status
    return f"{status} {HTTPStatus(status).phrase}"
