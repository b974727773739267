"""Records what handlers decide, while an engine runs.

Rules: a recording is an aid, and never a reason to fail: what cannot be written is counted, and
told in the log once and in the next file. A file that cannot have its first lines is removed.
A line is gathered as its handler ends, before anything is durable, and written by a thread some
milliseconds later. So a process that is killed loses its last lines, and lines may tell of events
that were never stored. Files are begun anew after a size and a time, and removed after
`keep_hours`. It reads nothing back, and answers nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from ..errors import DefinitionError, StoreRefused
from ..model.aggregate import Aggregate, AggregateDefinition, CommandHandler, Context
from ..model.codec import EventRegistry
from ..model.joint import JointHandler
from ..model.messages import Command, Event
from ..model.timers import TimedCommands
from ..runtime.bell import Bell
from ..runtime.folder import Folder, GrowingFile
from ..runtime.ports import Ports, Worker
from ..runtime.safely import described
from ..write.deliberation import CURRENT
from ..write.encoding import is_rejection
from .files import Head, file_name, is_file
from .forms import Decided, Gave, Recording, Said, Told, digest, gave, raised

__all__ = ["Recorder", "recorder_of", "teller"]

H = TypeVar("H", bound=CommandHandler)

_GATHERED_MAX: Final = 32 << 20
"""Bytes of lines that wait for the thread; what comes on top is left out, and counted."""
_LOOK_SECONDS: Final = 30.0
"""Between two looks for files that are to be removed."""
_CUT: Final = b""
"""Between lines of two files."""
_PARTS: Final = 24
"""Of the time that files are kept, the part after which the next one is begun."""


def teller(registry: EventRegistry) -> Callable[[int, Event], Told]:
    """Give what makes the entry of an event."""

    def told(place: int, event: Event) -> Told:
        type_ = registry.type_of(type(event))
        return Told(place, type_.name, type_.version, digest(registry.encode(event)))

    return told


def recorder_of(
    recording: Recording | None,
    timed: TimedCommands,
    registry: EventRegistry,
    ports: Ports,
    logger: logging.Logger,
) -> Recorder | None:
    """Give what records, if anything is to; DefinitionError where personal data would be kept."""
    if recording is None:
        return None
    if registry.personal and not recording.personal:
        raise DefinitionError(
            f"record= keeps commands in plain text, and {min(registry.personal)} has personal "
            f"fields: leave it out, or write Recording(..., personal=True). Who is erased then "
            f"stays in its files for keep_hours"
        )
    return Recorder(recording, timed, registry, ports, logger)


class Recorder:
    """Wraps the handlers of one engine, and writes, until `stop`."""

    def __init__(
        self,
        recording: Recording,
        timed: TimedCommands,
        registry: EventRegistry,
        ports: Ports,
        logger: logging.Logger,
    ) -> None:
        self._recording = recording
        self._timed = timed
        self._told = teller(registry)
        self._ports = ports
        self._logger = logger
        self._encode = msgspec.json.Encoder()
        self._lines: list[bytes] = []
        self._gathered = 0
        self._left_out = 0
        self._failing = False
        self._bell, self._stopping = Bell(), Bell()
        self._folder = Folder(str(recording.folder))
        self._file: GrowingFile | None = None
        self._begun = 0.0
        self._worker: Worker | None = None
        self._head = Head("")

    # -- around handlers ----------------------------------------------------------------------

    def wrapped(self, definition: AggregateDefinition) -> AggregateDefinition:
        """Give a kind of aggregate whose handlers are recorded."""
        handlers = {cls: self.around(each) for cls, each in definition.handlers.items()}
        return msgspec.structs.replace(definition, handlers=handlers)

    def around(self, handler: H) -> H:
        """Give a handler that decides as this one does, and is recorded."""
        decide, takes = handler.decide, handler.takes
        places = [n for n, each in enumerate(takes) if each is Context]
        joint = handler if isinstance(handler, JointHandler) else None

        def begin(arguments: Sequence[Any]) -> tuple[_Taken, list[Any]]:
            behind = len(arguments) - len(takes)
            *before, context = arguments[: behind - 1], arguments[behind - 1]
            own = [*before[0], *arguments[behind:]]
            taken = _Taken(context, *_command_and_states(joint, before[0]))
            for place in places:
                own[behind - 1 + place] = taken.context
            return taken, own

        @functools.wraps(decide)
        def plain(*arguments: Any) -> Any:
            taken, own = begin(arguments)
            try:
                returned = decide(*own)
            except BaseException as error:
                self._note(taken, None, error)
                raise
            self._note(taken, returned, None)
            return returned

        @functools.wraps(decide)
        async def waiting(*arguments: Any) -> Any:
            taken, own = begin(arguments)
            try:
                returned = await decide(*own)
            except BaseException as error:
                self._note(taken, None, asyncio.CancelledError() if _is_over() else error)
                raise
            self._note(taken, returned, asyncio.CancelledError() if _is_over() else None)
            return returned

        decides = waiting if handler.is_async else plain
        return msgspec.structs.replace(handler, decide=decides, takes=(Context, *takes))

    def _note(self, taken: _Taken, returned: object, error: BaseException | None) -> None:
        """Gather a line; whatever goes wrong with it is none of the command's."""
        try:
            if error is not None:
                result: Gave | None = raised(error, is_rejection=is_rejection(error))
            else:
                result = gave(returned, taken.states, self._told, self._encode)
            line = self._line(taken, result or Gave("failed", code="HandlerFailed"))
        except Exception as failure:
            self._leave_out(1, failure)
            return
        if self._gathered > _GATHERED_MAX:
            self._leave_out(1, None)
            return
        with contextlib.suppress(RecursionError):
            self._bell.set()
        self._lines.append(line)
        self._gathered += len(line)

    def _line(self, taken: _Taken, result: Gave) -> bytes:
        context = taken.context
        name, payload = self._timed.encode("a recording", taken.command)
        decided = Decided(
            context.now,
            name,
            msgspec.Raw(payload),
            taken.streams,
            result,
            tuple(taken.ids),
            Said(
                context.key,
                context.correlation,
                context.causation,
                context.principal,
                context.headers,
            ),
        )
        return self._encode.encode(decided) + b"\n"

    def _leave_out(self, count: int, failure: BaseException | None) -> None:
        self._left_out += count
        if not self._failing:
            self._failing = True
            why = "the disk is slower than the commands" if failure is None else described(failure)
            self._logger.error(
                "commands are not recorded in %s: %s. They are run all the same; the next file "
                "says how many are left out",
                self._folder.path,
                why,
            )

    def cut(self) -> None:
        """Let what is decided from now on be in another file: it stands on what others stored."""
        self._lines.append(_CUT)

    # -- the task -----------------------------------------------------------------------------

    async def open(self, log_id: str) -> None:
        """Make the folder; raise StoreRefused where nothing can be recorded in it."""
        self._head = Head(log_id)
        self._worker = self._ports.workers.start("foldline-recording")
        try:
            await self._worker.run(self._make)
        except OSError as error:
            raise StoreRefused(
                f"commands cannot be recorded in {self._folder.path} ({described(error)}): give "
                f"record= a folder that this user may write, or leave it out. Nothing was run."
            ) from error

    async def run(self) -> None:
        """Write what gathers until `stop`, and what has gathered then."""
        assert self._worker is not None, "it is open"
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._bell.wait()
            self._bell.clear()
            lines, left_out = self._lines, self._left_out
            self._lines, self._gathered = [], 0
            try:
                await self._worker.run(self._write, lines, left_out)
            except Exception as error:
                self._leave_out(len(lines), error)
            else:
                self._left_out -= left_out
                self._failing = self._failing and not lines
            if self._stopping.is_set() and not self._lines:
                return

    def stop(self) -> None:
        """Let `run` return when what has gathered is written."""
        self._stopping.set()
        self._bell.set()

    async def close(self) -> None:
        """Close the file and end the thread; a second call does nothing."""
        worker, self._worker = self._worker, None
        if worker is not None:
            try:
                await worker.run(self._end_file)
            finally:
                await worker.close()

    # -- in the thread ------------------------------------------------------------------------

    def _make(self) -> None:
        self._folder.make()
        self._remove_old()

    def _write(self, lines: Sequence[bytes], left_out: int) -> None:
        if _CUT in lines:
            place = lines.index(_CUT)
            self._write(lines[:place], left_out)
            self._end_file()
            self._write(lines[place + 1 :], 0 if place else left_out)
            return
        kept = self._recording.keep_hours * 3_600
        now = self._ports.clock.monotonic()
        if self._file is not None and (
            self._file.size >= self._recording.file_bytes or now - self._begun >= kept / _PARTS
        ):
            self._end_file()
        self._remove_old()
        if not lines:
            return
        if self._file is None or left_out:
            self._end_file()
            self._file, self._begun = self._begin_file(lines, left_out), now
        else:
            self._file.write(b"".join(lines))

    def _begin_file(self, lines: Sequence[bytes], left_out: int) -> GrowingFile:
        """Write the first lines of a file; one that cannot have them is taken away again.

        Otherwise a full disk got one more file for each batch.
        """
        name = file_name(self._ports.clock.now(), self._ports.ids.new_id())
        file = self._folder.grow(name)
        head = msgspec.structs.replace(self._head, left_out=left_out)
        try:
            file.write(self._encode.encode(head) + b"\n" + b"".join(lines))
        except BaseException:
            file.close()
            self._folder.remove(name)
            raise
        return file

    def _end_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _remove_old(self) -> None:
        oldest = self._ports.clock.now() / 1_000_000 - self._recording.keep_hours * 3_600
        for name in self._folder.names():
            if is_file(name) and 0 < self._folder.changed(name) < oldest:
                self._folder.remove(name)


def _is_over() -> bool:
    """Tell whether nobody wants the outcome of this async handler any more."""
    deliberation = CURRENT.get()
    return deliberation is not None and deliberation.ended


class _Taken:
    """What a handler was given, with the ids that it draws."""

    __slots__ = ("command", "context", "ids", "states", "streams")

    def __init__(self, context: Context, command: Command, states: Sequence[Aggregate]) -> None:
        self.command = command
        self.states = states
        # Before the handler runs: one that changes its state is what is looked for.
        self.streams = tuple([(f"{type(s).__definition__.kind}:{s.id}", s.version) for s in states])
        self.ids: list[str] = []
        draw = context.new_id

        def new_id() -> str:
            drawn = draw()
            self.ids.append(drawn)
            return drawn

        self.context = msgspec.structs.replace(context, new_id=new_id)


def _command_and_states(
    joint: JointHandler | None, arguments: Sequence[Any]
) -> tuple[Command, Sequence[Aggregate]]:
    """Give them of a handler's arguments; `[state, command]`, or a joint decision's."""
    if joint is None:
        state, command = arguments
        return command, (state,)
    command, *given = arguments
    states: list[Aggregate] = []
    for each in given:
        states += each if isinstance(each, list) else () if each is None else (each,)
    return command, states
