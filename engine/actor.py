"""One aggregate at work: takes its commands one at a time, decides, folds, hands on to the journal.

Rules:
- It does not wait for the disk: command n+1 is decided on the undurable state that n left.
- It folds a decoded copy of the bytes that it hands on, so that nothing is shared with the caller,
  and what cannot be decoded or folded is never written.
- A refusal, an empty result or a repeated key that was decided on undurable events follows the
  last of them; decided on durable state, it is answered at once.
- After any exception but Rejected it takes nothing more, waits for what is in flight, drops its
  state and loads again. When its undurable events are voided it does so at once.

It never awaits, and never touches a store.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from typing import Any

from .aggregate import Aggregate, Context, as_events
from .codec import Metadata, decode_metadata, encode_metadata, fingerprint_of
from .errors import (
    Closed,
    EngineError,
    HandlerFailed,
    KeyReused,
    NotRun,
    Overloaded,
    Rejected,
    StreamUnreadable,
    WrongVersion,
)
from .journal import Entry, Follower
from .keys import KeyRecord, KeyWindow
from .kind import EventBinding, Kind
from .mailbox import Mail, Waiting, count, post, take
from .messages import Event, Receipt
from .stores.contract import EventData, StoredEvent, Write

__all__ = ["Actor", "Phase"]


class Phase(enum.Enum):
    """Where an actor is between the store and its commands."""

    COLD = "cold"  # its stream must be read before it can decide
    LOADING = "loading"  # its stream is being read
    LIVE = "live"  # it decides
    SETTLING = "settling"  # it takes nothing until what is in flight is settled


class Actor:
    """One resident aggregate."""

    __slots__ = (
        "_keys",
        "_position",
        "_tail",
        "_waiting",
        "id",
        "incarnation",
        "kind",
        "phase",
        "queued",
        "state",
        "stream",
        "used",
        "version",
    )

    def __init__(self, kind: Kind, stream: str, id: str) -> None:  # noqa: A002 - the domain's word
        self.kind = kind
        self.stream = stream
        self.id = id
        self.phase = Phase.COLD
        self.incarnation = 0
        self.queued = False
        """Whether it stands in the dispatcher's queue."""
        self.used = True
        """Whether it had a command since the directory last looked for one to let go."""
        self._waiting: Waiting = None
        self._begin()

    def _begin(self) -> None:
        """Be the aggregate before its first event."""
        self.state: Aggregate = self.kind.definition.cls(id=self.id)
        self.version = 0
        """Undurable events included."""
        self._position = 0
        """Of the last durable event."""
        self._tail: Entry | None = None
        """The last undurable entry."""
        self._keys: KeyWindow | None = None

    # -- the mailbox ------------------------------------------------------------------------

    @property
    def has_mail(self) -> bool:
        """Whether commands wait."""
        return self._waiting is not None

    @property
    def at_rest(self) -> bool:
        """Whether it can leave memory: nothing waits, nothing is undurable, nothing is loading."""
        return (
            self._waiting is None
            and self._tail is None
            and not self.queued
            and self.phase is Phase.LIVE
        )

    def post(self, mail: Mail) -> None:
        """Accept a command; raise Overloaded if too many wait already."""
        waiting = count(self._waiting)
        if waiting >= self.kind.limits.mailbox_commands:
            self.kind.intake.overloaded += 1
            raise Overloaded(
                f"{waiting} commands wait for {self.stream}, as many as Limits.mailbox_commands "
                f"allows. Nothing was run; send again after a pause."
            )
        self._waiting = post(self._waiting, mail)
        self.used = True
        self.kind.intake.accepted()
        self._go_on()

    def _go_on(self) -> None:
        """See that waiting commands come to their turn."""
        if self.phase is Phase.LIVE:
            if not self.queued:
                self.queued = True
                self.kind.ready(self)
        elif self.phase is Phase.COLD:
            self.phase = Phase.LOADING
            self.kind.load(self)

    def refuse_waiting(self, error: EngineError) -> None:
        """Answer every command that waits with an error."""
        while self._waiting is not None:
            mail, self._waiting = take(self._waiting)
            self.kind.intake.refuse(mail, error)

    # -- loading ----------------------------------------------------------------------------

    def begin_load(self) -> None:
        """Start from nothing; `replay` and `loaded` follow."""
        assert self.phase is Phase.LOADING
        assert self._tail is None, "an actor loads only when nothing of it is in flight"
        self._begin()

    def replay(self, stored: StoredEvent) -> None:
        """Fold one stored event. Raises Damaged, or what the applier raises."""
        assert stored.version == self.version + 1, "versions of a stream have no holes"
        event = self.kind.registry.decode(stored)
        binding = self.kind.events.get(type(event))
        if binding is None:
            raise StreamUnreadable(
                f"{stored.name} version {stored.event_version} is in {self.stream}, and nothing "
                f"in {self.kind.definition.cls.__name__} applies it"
            )
        binding.apply(self.state, event)
        self.state.version = self.version = stored.version
        self._position = stored.position
        if b'"key"' in stored.metadata:
            self._replay_key(stored, decode_metadata(stored))

    def _replay_key(self, stored: StoredEvent, metadata: Metadata) -> None:
        if metadata.key is None or metadata.fingerprint is None:
            return
        further = metadata.events - 1
        record = KeyRecord(
            metadata.fingerprint,
            stored.version,
            stored.version + further,
            # A command's events stand next to each other in the log.
            stored.position + further,
        )
        self._remember(metadata.key, record)

    def _remember(self, key: str, record: KeyRecord) -> None:
        if self._keys is None:
            self._keys = KeyWindow(self.kind.definition.key_window)
        self._keys.remember(key, record)

    def loaded(self) -> None:
        """Take commands from now on."""
        assert self.phase is Phase.LOADING
        self.phase = Phase.LIVE
        if self._waiting is not None:
            self._go_on()

    def unreadable(self, cause: BaseException) -> None:
        """Answer what waits, and leave; the next command tries to load again."""
        error = StreamUnreadable(f"{self.stream} cannot be loaded: {cause}")
        error.__cause__ = cause
        self.kind.forget(self)
        self.refuse_waiting(error)

    # -- what the journal says --------------------------------------------------------------

    def settled(self, entry: Entry, position: int) -> None:
        """Note that an entry is durable."""
        self._position = position
        if self._tail is not entry:
            return
        self._tail = None
        if self.phase is Phase.SETTLING:
            self._reload()

    def voided(self) -> None:
        """Drop a state that will never be durable, and load the true one if anybody waits."""
        self.incarnation += 1
        self._tail = None
        self._reload()

    def _reload(self) -> None:
        self.phase = Phase.COLD
        if self._waiting is None:
            self.kind.forget(self)
        else:
            self._go_on()

    # -- deciding ---------------------------------------------------------------------------

    def work(self, commands_max: int) -> int:
        """Handle waiting commands, at most so many; give how many."""
        done = 0
        journal = self.kind.journal
        while (
            done < commands_max
            and self._waiting is not None
            and self.phase is Phase.LIVE
            and journal.has_room
        ):
            mail, self._waiting = take(self._waiting)
            done += 1
            if mail.answer.done():
                # The caller was cancelled before its command was run: then it is not run.
                self.kind.intake.drop(mail)
            else:
                self._handle_or_answer(mail)
        return done

    def _handle_or_answer(self, mail: Mail) -> None:
        try:
            self._handle(mail)
        except BaseException:
            # Not a failure of the aggregate but the end of the process or of the engine: it goes
            # on upwards, and nothing of this command was handed to the journal.
            if mail.open:
                self.kind.intake.refuse(mail, Closed("the engine was interrupted: not run"))
            raise

    def _handle(self, mail: Mail) -> None:
        self.kind.reach("actor.taken")
        fingerprint = None
        if mail.key is not None:
            try:
                fingerprint = fingerprint_of(mail.command)
            except Exception as error:
                self._refuse(mail, _not_encodable(mail, error))
                return
            if self._answer_repeat(mail, mail.key, fingerprint):
                return
        if mail.expected is not None and mail.expected != self.version:
            self._refuse(mail, WrongVersion(self.stream, mail.expected, self.version))
            return
        try:
            events = as_events(mail.handler, self._decide(mail))
        except Rejected as rejected:
            self._refuse(mail, rejected.with_traceback(None))
            return
        except (Exception, asyncio.CancelledError) as error:
            self._fail(mail, error)
            return
        if not events:
            self._accept_nothing(mail)
            return
        try:
            self._record(mail, fingerprint, events)
        except (Exception, asyncio.CancelledError) as error:
            self._fail(mail, error)

    def _decide(self, mail: Mail) -> Any:
        handler = mail.handler
        if not handler.takes_context:
            return handler.decide(self.state, mail.command)
        context = Context(
            self.kind.ports.clock.now(),
            self.kind.ports.ids.new_id,
            mail.key,
            mail.correlation,
            mail.causation,
            mail.principal,
            mail.headers,
        )
        return handler.decide(self.state, mail.command, context)

    def _record(self, mail: Mail, fingerprint: int | None, events: Sequence[Event]) -> None:
        """Encode, fold what was encoded, hand on. Whatever raises here has submitted nothing."""
        self.kind.reach("actor.decided")
        if len(events) > self.kind.limits.command_events:
            raise HandlerFailed(
                f"{mail.handler.decide.__qualname__} returned {len(events)} events, above "
                f"Limits.command_events at {self.kind.limits.command_events}"
            )
        first_metadata, metadata = _metadata(mail, fingerprint, len(events))
        expected = self.version
        datas: list[EventData] = []
        size = 0
        for event in events:
            binding = self._binding(mail, event)
            payload = self.kind.registry.encode(event)
            # The copy shares nothing with the caller's command or the handler's event.
            binding.apply(self.state, binding.decode(payload))
            self.state.version = self.version = self.version + 1
            data = EventData(binding.type, payload, metadata if datas else first_metadata)
            size += self._check_size(data)
            datas.append(data)
        self.kind.reach("actor.folded")
        entry = Entry(
            self, self.incarnation, mail, Write(self.stream, expected, datas), self.version, size
        )
        if mail.key is not None:
            assert fingerprint is not None
            entry.record = KeyRecord(fingerprint, expected + 1, self.version, 0)
            self._remember(mail.key, entry.record)
        self._tail = entry
        self.kind.journal.submit(entry)

    def _binding(self, mail: Mail, event: Event) -> EventBinding:
        binding = self.kind.events.get(type(event))
        if binding is None:
            raise HandlerFailed(
                f"{mail.handler.decide.__qualname__} returned {type(event).__name__}, and nothing "
                f"in {self.kind.definition.cls.__name__} applies it: add an @applies method"
            )
        return binding

    def _check_size(self, data: EventData) -> int:
        largest = max(len(data.payload), len(data.metadata))
        if largest > self.kind.limits.event_bytes:
            raise HandlerFailed(
                f"{data.type.name} of {self.stream} has {largest} bytes, above "
                f"Limits.event_bytes at {self.kind.limits.event_bytes}"
            )
        return data.size

    # -- answers that write nothing ---------------------------------------------------------

    def _answer_repeat(self, mail: Mail, key: str, fingerprint: int) -> bool:
        """Answer a key that is in the window; give whether it was."""
        record = None if self._keys is None else self._keys.find(key, self.version)
        if record is None:
            return False
        if record.fingerprint != fingerprint:
            self._refuse(
                mail,
                KeyReused(
                    f"the key {key!r} of {self.stream} belongs to another command, which led to "
                    f"version {record.version}. Nothing was written; use a new key."
                ),
            )
        elif self._tail is not None:
            self._tail.follow(Follower(mail, repeated=record))
        else:
            assert record.position, "nothing is undurable, so the first command is not either"
            receipt = Receipt(self.stream, record.version, record.position)
            self.kind.intake.repeat(mail, receipt)
        return True

    def _accept_nothing(self, mail: Mail) -> None:
        if self._tail is not None:
            self._tail.follow(Follower(mail))
        else:
            receipt = Receipt(self.stream, self.version, self._position)
            self.kind.intake.answer(mail, receipt)

    def _refuse(self, mail: Mail, error: EngineError) -> None:
        if self._tail is not None:
            self._tail.follow(Follower(mail, error))
        else:
            self.kind.intake.refuse(mail, error)

    def _fail(self, mail: Mail, cause: BaseException) -> None:
        """Answer a command that the aggregate's code could not handle; trust its state no more."""
        if isinstance(cause, HandlerFailed):
            error = cause
        else:
            error = HandlerFailed(
                f"{mail.handler.decide.__qualname__} failed on {type(mail.command).__name__} for "
                f"{self.stream} with {type(cause).__name__}: see the cause. Nothing was written."
            )
            error.__cause__ = cause
        self.kind.logger.error("%s", error)
        # "Not run" is true whatever becomes of the events before it, so it leaves at once.
        self.kind.intake.refuse(mail, error)
        if self._tail is None:
            self._reload()
        else:
            self.phase = Phase.SETTLING


def _metadata(mail: Mail, fingerprint: int | None, events: int) -> tuple[bytes, bytes]:
    """Give the metadata of a command's first event and of its further ones."""
    headers = None if mail.headers is None else dict(mail.headers)
    trace = (mail.correlation, mail.causation, mail.principal, headers)
    traced = any(part is not None for part in trace)
    if mail.key is None and not traced:
        return b"", b""
    further = encode_metadata(Metadata(None, None, 1, *trace)) if traced else b""
    if mail.key is None:
        return further, further
    return encode_metadata(Metadata(mail.key, fingerprint, events, *trace)), further


def _not_encodable(mail: Mail, error: Exception) -> NotRun:
    failed = HandlerFailed(
        f"{type(mail.command).__name__} cannot be encoded ({type(error).__name__}): its fields "
        f"must be of types that msgspec encodes. Nothing was written."
    )
    failed.__cause__ = error
    return failed
