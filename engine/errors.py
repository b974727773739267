"""Every error that leaves the engine, one class per thing that the reader of it must do.

Rules: a message names the rule that broke, the values that broke it and the mend. `NotRun` means
that nothing was written and that sending again is safe; `OutcomeUnknown` means that the same key
must be sent again to find out. No message carries a payload. This file imports nothing of the
engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

__all__ = [
    "ArchiveUnread",
    "BrokerFailed",
    "Closed",
    "Conflict",
    "Damaged",
    "DeadlinePassed",
    "DefinitionError",
    "EngineError",
    "EngineFailed",
    "EventUnread",
    "Forbidden",
    "HandlerFailed",
    "InvalidInput",
    "KeyReused",
    "MessageRefused",
    "NotRun",
    "OutcomeUnknown",
    "Overloaded",
    "ProjectionFailed",
    "ProjectionLag",
    "ProjectionUnserved",
    "ReactionTooDeep",
    "Rejected",
    "StoreFailed",
    "StoreLocked",
    "StoreRefused",
    "StreamUnreadable",
    "UsageError",
    "Voided",
    "WrongVersion",
]


class EngineError(Exception):
    """Base of all errors of the engine; never raised itself."""

    safe_to_resend: ClassVar[bool] = False
    """Whether the same command may be sent again as it is, without a key, and not run twice."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it be pickled and copied, whatever the constructors of its class take."""
        # An exception is made anew from `args` alone, which lack what was given by keyword; and a
        # process pool, or a queue of tasks, breaks where an error cannot be made anew.
        return _remade, (type(self), self.args), self.__dict__.copy()


def _remade(cls: type[EngineError], args: tuple[Any, ...]) -> EngineError:
    """Give an error of a class as it was before it had attributes; its constructor is not run."""
    error = cls.__new__(cls)
    error.args = args
    return error


class DefinitionError(EngineError):
    """A message, aggregate, projection or handler is declared wrongly; its author must act.

    Raised when the class is made or when the engine is made, never later.
    """


class UsageError(EngineError):
    """The engine is used in a way that it does not support; the caller's code must change.

    Before its start or after its end, from another event loop, after a fork, or with a message that
    it has no handler for. Nothing was written.
    """


class InvalidInput(UsageError):
    """A value that came with a call is malformed: an id, a key, a token, a version, a time, a page.

    What a client sent is the cause most often: it must send something else. Nothing was written.
    """


class Rejected(EngineError):
    """The domain said no; nothing was written.

    Raise it in a handler. `code` is for programs and stays the same; `message` is for people and
    may be reworded; `details` are values for either.
    """

    def __init__(self, code: str, message: str, **details: Any) -> None:
        """Refuse the command with a stable `code` and a readable `message`."""
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.details = details

    def __str__(self) -> str:
        """Give the code and the message; details may be private and stay out."""
        return f"{self.code}: {self.message}"


class NotRun(EngineError):
    """The command was not run: nothing was written, and sending it again is safe."""

    safe_to_resend = True


class Overloaded(NotRun):
    """A bounded queue is full; send again after a pause, or send more slowly."""


class Closed(NotRun):
    """The engine is stopping, has stopped or has failed, and takes no more commands."""


class Conflict(NotRun):
    """Another writer appended to the stream first; send again, it is decided on the new state."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        """Name the stream, the version that the decision stood on, and the version found."""
        super().__init__(stream, expected, actual)
        self.stream = stream
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        """Say which rule broke and what to do."""
        return (
            f"{self.stream} is at version {self.actual}, and the command was decided at version "
            f"{self.expected}: another writer was first. Nothing was written; send again."
        )


class EventUnread(NotRun):
    """A process of the log does not read this version of an event yet: nothing was written.

    It runs an older release. Send again when the last one of those has gone, or declare a
    downcaster, by which the former version is written meanwhile.
    """

    def __init__(self, event: str, version: int, readers: Sequence[str]) -> None:
        """Name the event, its version, and the processes that do not read it."""
        super().__init__(event, version, readers)
        self.event = event
        self.version = version
        self.readers = tuple(readers)

    def __str__(self) -> str:
        """Say which rule broke, and who must act."""
        return (
            f"{self.event!r} version {self.version} is not written while a process of this log "
            f"does not read it: {', '.join(self.readers)}. Nothing was written. Replace it by this "
            f"release and send again, or declare a downcaster (`@downcasts`) for the meantime."
        )


class WrongVersion(NotRun):
    """`expected=` names a version that the stream does not have; nothing was written.

    Sending the same again cannot succeed: read the aggregate again and decide again.
    """

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        """Name the stream, the caller's version and the version found."""
        super().__init__(stream, expected, actual)
        self.stream = stream
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        """Say which rule broke and what to do."""
        return (
            f"{self.stream} is at version {self.actual}, not at the expected version "
            f"{self.expected}. Nothing was written; read it again and decide anew."
        )


class Voided(NotRun):
    """Nothing was written, and nothing is wrong with the command; send again.

    It was decided on events that were then not stored. Or the store, or the keys of personal data,
    could not be had then. Or the process that owns the log runs a release that does not know the
    command so.
    """


class HandlerFailed(NotRun):
    """The aggregate's own code failed; nothing was written. Its cause is in `__cause__`.

    Sending again is safe, and fails again until the code is mended.
    """


class DeadlinePassed(NotRun):
    """The command was not decided by its deadline; nothing was written, and nothing will be.

    It waited too long for its turn, or its handler took too long. Sending again is safe.
    """


class StreamUnreadable(NotRun):
    """The aggregate cannot be loaded: an event of its stream is damaged or cannot be decoded.

    Nothing was written. Its cause names the position; an operator must act.
    """


class KeyReused(EngineError):
    """The key was used for another command of the same aggregate; nothing was written.

    The caller must act: a key names one command permanently, its content included.
    """


class Forbidden(EngineError):
    """`authorize` did not allow it: nothing was run or read. The principal must be given the right.

    A hook may raise it itself, with a message of its own.
    """

    def __init__(self, message: str, principal: str | None = None, action: str = "") -> None:
        """Say what is forbidden; the principal is kept as a value and not shown."""
        super().__init__(message)
        self.principal = principal
        self.action = action


class OutcomeUnknown(EngineError):
    """The store failed while it wrote: the events may or may not be durable.

    Send the same command with the same key again to find out; without a key, read first.
    """


class EngineFailed(EngineError):
    """The engine stopped by itself; its cause is in `__cause__`. The host must restart it.

    Raised when `async with Engine(...)` ends, so that a failure cannot pass unseen.
    """


class Damaged(EngineError):
    """A stored event does not match its checksum, is out of place, or cannot be decoded.

    It is never skipped. An operator must act: restore the log from a backup, or mend the code.
    """

    def __init__(self, position: int, what: str, *, refused: bool = False) -> None:
        """Name the position, and what is wrong there (type and cause, never the payload).

        `refused` where the event's own class does not take it: its bytes are as they were written.
        """
        super().__init__(position, what)
        self.position = position
        self.what = what
        self.refused = refused

    def __str__(self) -> str:
        """Say where and what."""
        return f"the event at position {self.position} cannot be used: {self.what}"


class ArchiveUnread(Damaged):
    """The contents of a stored event are in the cold file of its log, and cannot be read there.

    The file is missing, is another one, or is damaged; `path` names it. In PostgreSQL it is a
    schema. `whole` if nothing can be read there. Events that were never moved are served. An
    operator must put it back, or restore the log from a backup.
    """

    def __init__(
        self,
        position: int,
        path: str,
        why: str,
        *,
        whole: bool = False,
        recorded: int | None = None,
    ) -> None:
        """Name the position, the cold file, what is wrong, and whether that is so of all of it.

        `recorded` is what the log says, in µs since 1970-01-01 UTC, where it was read.
        """
        super().__init__(position, f"it was archived, and {why}")
        self.path = path
        self.whole = whole
        self.recorded = recorded


class StoreFailed(EngineError):
    """The store could not do what it was asked; `written` says what that means for an append.

    False: nothing was written, and the store continues unless it has `stopped`. None: the outcome
    is unknown. Then, and where it has stopped, the store takes no further append until it is opened
    again. `passes` if nothing is wrong with the store or the request. It works again as soon as
    there is room on the disk, another process ends, or a permission is given back.
    """

    def __init__(
        self, message: str, *, written: bool | None, stopped: bool = False, passes: bool = False
    ) -> None:
        """Say what failed, what may be written, whether that was all, and whether it passes."""
        super().__init__(message)
        self.written = written
        self.stopped = stopped
        self.passes = passes


class BrokerFailed(EngineError):
    """A message broker, or the database of a read model, could not do what it was asked.

    No message is to blame. `passes` if it works again by itself: the broker is down, out of reach,
    or has no room. A relay then retries until it does. Otherwise an operator must act: a
    credential, a stream or queue that is missing, a setting that is weaker than allowed. What was
    sent may have arrived; it is sent again with the same id.
    """

    def __init__(self, message: str, *, passes: bool) -> None:
        """Say what failed, and whether it passes."""
        super().__init__(message)
        self.passes = passes


class MessageRefused(EngineError):
    """A broker does not take this one message, or a database this one row: it is malformed.

    Or it is too large. The author of the relay or of the read model must act, or an operator. The
    message was not published, and the row not written.
    """


class ReactionTooDeep(EngineError):
    """An event that reactions led to leads to one more, beyond `Limits.reaction_depth`.

    Reactions that lead to each other never end by themselves: their author must break the circle.
    Nothing was sent because of the event, which is parked, or stops its reactor.
    """

    def __init__(self, reactor: str, event: str, depth: int, depth_max: int) -> None:
        """Name the reactor, the event's type, and how many reactions led to it."""
        super().__init__(reactor, event, depth, depth_max)
        self.reactor = reactor
        self.event = event
        self.depth = depth
        self.depth_max = depth_max

    def __str__(self) -> str:
        """Say which rule broke, and what to do."""
        return (
            f"reactor {self.reactor} would react to {self.event}, which {self.depth} reactions in "
            f"a row led to (Limits.reaction_depth is {self.depth_max}): break the circle, or raise "
            f"the limit. No command was sent."
        )


class StoreLocked(EngineError):
    """Another engine has the store open; stop that one, or give each process its own store.

    `briefly` if its owner says that it is only for a moment. An engine that cannot open its store
    has run nothing.
    """

    safe_to_resend = True

    def __init__(self, message: str, *, briefly: bool = False) -> None:
        """Say who has it."""
        super().__init__(message)
        self.briefly = briefly


class StoreRefused(EngineError):
    """The store exists and must not be used as it is; an operator or developer must act.

    Reasons are a schema newer than this engine, another history than the one expected, and a file
    that is not ours. So are a setting that did not take, and event types that changed without a new
    version.
    """


class RowRefused(EngineError):
    """The database does not take what an event's handler has put: no event before it is to blame.

    The projection's author must mend the handler or the row. Nothing was written.
    """

    def __init__(self, table: str, why: str) -> None:
        """Name the table, and what is wrong, without the values."""
        super().__init__(table, why)
        self.table = table
        self.why = why

    def __str__(self) -> str:
        """Say which table, and why."""
        return f"a row of {self.table} cannot be kept: {self.why}"


class ProjectionFailed(EngineError):
    """A projection's handler failed on an event, and without that event its views would be wrong.

    Its author must mend the handler. The cause is in `__cause__`.
    """

    def __init__(self, projection: str, position: int, event: str, cause: str) -> None:
        """Name the projection, the event, and the class of what was raised."""
        super().__init__(projection, position, event, cause)
        self.projection = projection
        self.position = position
        self.event = event
        self.cause = cause

    def __str__(self) -> str:
        """Say who failed on what."""
        return (
            f"projection {self.projection} cannot fold {self.event} at position {self.position}: "
            f"its handler raised {self.cause}"
        )


class ProjectionLag(EngineError):
    """`query(at=...)` ran out of time; `behind` names each view that lags: (position, wanted).

    Nothing is wrong with the query: ask again later, or resume a stopped projection.
    """

    def __init__(self, wanted: int, behind: dict[str, int], states: dict[str, str]) -> None:
        """Name the position asked for, and each lagging projection with its own."""
        super().__init__(wanted, behind, states)
        self.wanted = wanted
        self.behind = behind
        self.states = states

    def __str__(self) -> str:
        """Name who lags, by how much, and in which state it is."""
        who = ", ".join(
            f"{name} is {self.wanted - position} behind, at {position} ({self.states[name]})"
            for name, position in self.behind.items()
        )
        stopped = "stopped" in self.states.values()
        why = ". Logging, and the command `projections list`, say why it stopped" if stopped else ""
        return f"position {self.wanted} is not yet in the views: {who}{why}"


class ProjectionUnserved(EngineError):
    """A query needs a projection that serves nothing that it can read.

    Its tables are being built, and the old ones are others: ask again when the build has been
    swapped in. Or another process owns the log, and does not keep it as it is declared here. Then
    `release` is what that process runs, and `kept` is the version that it keeps, or None. Or no
    process runs it, since its views were refused: `refused` says why.
    """

    release: str | None = None
    kept: int | None = None
    refused: str | None = None

    def __init__(
        self,
        projection: str,
        release: str | None = None,
        kept: int | None = None,
        refused: str | None = None,
    ) -> None:
        """Name the projection; if it is kept otherwise or refused, also why."""
        super().__init__(projection, release, kept, refused)
        self.projection = projection
        self.release = release
        self.kept = kept
        self.refused = refused

    def __str__(self) -> str:
        """Say what is waited for, or who does not keep it."""
        if self.refused is not None:
            return (
                f"projection {self.projection!r} is run by no process, and nothing is read of it: "
                f"{self.refused}"
            )
        if self.release is not None:
            keeps = "does not keep it" if self.kept is None else f"keeps version {self.kept} of it"
            return (
                f"projection {self.projection!r} is declared here, and release {self.release!r}, "
                f"whose processes run the log's projections, {keeps} as it is declared there: ask "
                f"a process of that release, or stop all of them"
            )
        return (
            f"projection {self.projection!r} is being built: it has no tables yet, or its former "
            f"ones have other columns. Ask again when it has caught up "
            f"(`engine.projections.list()` tells how far it is)"
        )
