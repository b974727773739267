"""What members say to the owner of a log, and the line on which they say it.

Rules: a frame is four bytes of length, big end first, and a message in MessagePack. Frames that are
sent in one turn of the event loop leave together. A line is given up at the first frame that is too
large or no message: what follows could be anything. The owner reads nothing more from a member that
does not read its answers; a member always reads. Nothing is sent twice, and nothing is known here
of what is done with a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Final, TypeAlias, cast

import msgspec

from ..runtime.unix_socket import keep_from_forks, release
from ..write.mailbox import Origin

__all__ = [
    "BODY_MAX",
    "FRAME_MAX",
    "PROTOCOL",
    "Answer",
    "Ask",
    "Called",
    "Done",
    "Failed",
    "Hello",
    "Leaving",
    "Left",
    "Line",
    "Listing",
    "Member",
    "Message",
    "Reads",
    "Refused",
    "Sent",
    "Told",
    "Welcome",
]

PROTOCOL: Final = 1
"""Of the messages below; another one is refused by name."""
FRAME_MAX: Final = 16 * 1024 * 1024
"""Bytes of a frame."""
BODY_MAX: Final = FRAME_MAX - 64 * 1024
"""Bytes of a command, beside which its key, its headers and the like find room."""
_HEAD: Final = 4
_size_at: Final = Struct(">I").unpack_from
_UNSENT_MAX: Final = 4 * 1024 * 1024
"""Bytes that wait for a member that reads slowly, above which nothing more is read from it."""


class Hello(msgspec.Struct, array_like=True, frozen=True, tag="hello"):
    """The first word of a member."""

    protocol: int
    process: int
    clock: float = 0.0
    """Seconds by its own clock, in which it tells its deadlines."""
    token: str = ""
    """Asked for by an owner that listens for other machines, and sent to nobody else."""
    release: str = ""
    """What the member runs."""
    reads: str = ""
    """A digest of what it reads: who reads the same is told nothing more of that."""

    def __repr__(self) -> str:
        """Show no token."""
        return f"Hello({self.protocol}, {self.process})"


class Welcome(msgspec.Struct, array_like=True, frozen=True, tag="welcome"):
    """The owner's answer to it."""

    protocol: int
    process: int
    log_id: str
    session: int = 0
    """By which it has the log, where the log is leased."""
    release: str = ""
    """What it runs; nothing of a release that did not say so."""
    keeps: Mapping[str, tuple[int, str]] | None = None
    """Version and hash of each projection that it keeps; None of such a release."""
    reads: Mapping[str, Sequence[int]] | None = None
    """The versions of each event that it reads; None of a Foldline that does not say so."""


class Reads(msgspec.Struct, array_like=True, frozen=True, tag="reads"):
    """What a member reads, if that is something else than what its owner reads."""

    reads: Mapping[str, Sequence[int]]


class Refused(msgspec.Struct, array_like=True, frozen=True, tag="refused"):
    """The owner's answer to who may not join."""

    why: str


class Sent(msgspec.Struct, array_like=True, frozen=True, tag="command"):
    """A command, with what travels beside it."""

    number: int
    """Of this message on this line; its answer has it too."""
    name: str
    body: bytes
    key: str | None
    expected: int | Mapping[str, int] | None
    correlation: str | None
    causation: str | None
    principal: str | None
    headers: Mapping[str, str] | None
    deadline: float | None
    """By the member's clock: what waits in a line, or for a process that stands still, grows old
    there."""
    is_patient: bool = False
    """Whether it waits where the engine is full: it is of a stream, or may have been run before."""
    origin: Origin | None = None
    """What it comes from, where it is no caller's and there are several owners."""
    names: Sequence[tuple[int, str]] = ()
    """Numbers of enums in it, and what they are called where it was sent."""


class Called(msgspec.Struct, array_like=True, frozen=True, tag="call"):
    """A call of `engine.projections`."""

    number: int
    method: str
    values: bytes
    """Its arguments by name."""


class Listing(msgspec.Struct, array_like=True, frozen=True, tag="members"):
    """Asks who is connected."""

    number: int


class Leaving(msgspec.Struct, array_like=True, frozen=True, tag="leaving"):
    """The owner's word that it takes nothing more; what was sent is still answered."""


class Left(msgspec.Struct, array_like=True, frozen=True, tag="left"):
    """A member's last word to an owner that leaves: nothing that it has sent comes behind it."""


class Done(msgspec.Struct, array_like=True, frozen=True, tag="done"):
    """The receipt of a command."""

    number: int
    stream: str
    version: int
    position: int
    reply: bytes | None
    """As JSON, where the command declares a reply."""
    others: tuple[tuple[str, int], ...] = ()
    """Of a joint decision: stream and version of its further aggregates."""
    names: tuple[tuple[int, str], ...] | None = None
    """Numbers of enums in the reply, and what they are called where it was given. None where that
    process put them into the reply, as it is kept."""


class Told(msgspec.Struct, array_like=True, frozen=True, tag="told"):
    """What a call gave."""

    number: int
    body: bytes


class Failed(msgspec.Struct, array_like=True, frozen=True, tag="failed"):
    """What a command or a call raised."""

    number: int
    classes: tuple[str, ...]
    """Its class and those that it is made of, the nearest first."""
    values: bytes
    """The arguments of the exception, and its attributes."""


class Member(msgspec.Struct, frozen=True):
    """A process that shares a log: the owner, one of several owners, or who is connected with it.

    What a process of another machine does not tell is None.
    """

    process: int
    """Its number in the system."""
    role: str
    """"owner" or "member"; "leader" for the one of several owners that runs projections."""
    seconds: float
    """Since when it is that."""
    commands: int | None
    """That it has sent to the owner, or to other owners."""
    waiting: int | None
    """Those of them that have no answer yet."""
    release: str = ""
    """What it runs; nothing of a release that did not say so."""
    lease: float | None = None
    """Seconds until another one may take the log of an owner; None where there is no lease."""
    machine: str = ""
    """On which it runs; nothing where that is this one."""
    slots: int | None = None
    """That are its own, of 256, where several own the log."""
    behind: int | None = None
    """Views of the members that it has not heeded yet: until it has, others wait for it."""
    decided: int | None = None
    """Commands that it has decided, where several do."""
    moved: int | None = None
    """Times that a command went another way, since its aggregate had moved."""
    position: int | None = None
    """Up to which its projections and feeds have read the log; None where it has none."""
    lag: int | None = None
    """Events of the log that they had not read when it was asked."""


Ask: TypeAlias = Hello | Reads | Sent | Called | Listing | Left
Answer: TypeAlias = Welcome | Refused | Done | Told | Failed | Leaving
Message: TypeAlias = Ask | Answer

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(cast("type[Message]", Message))


class Line(asyncio.Protocol):
    """One end of a connection.

    `holds_back`: it reads nothing more from who does not read what he is sent. One of two ends does
    that: if both did, each could wait for the other.
    """

    def __init__(
        self,
        receive: Callable[[Line, Message], None],
        lost: Callable[[Line], None],
        *,
        holds_back: bool = False,
    ) -> None:
        self._receive = receive
        self._lost = lost
        self._holds_back = holds_back
        self.heard = 0
        """How often something has come."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._read = bytearray()
        self._unsent: list[bytes] = []
        self._socket = -1
        self._is_ended = False
        self.is_open = False
        self.frame_max = FRAME_MAX
        """Bytes of a frame that is read; fewer while it is not known who sends."""

    def send(self, message: Message) -> None:
        """Let a message leave with others of this turn; a line that is lost drops it.

        Raises ValueError for one that is too large, and what msgspec raises.
        """
        if not self.is_open:
            return
        encoded = _encoder.encode(message)
        if len(encoded) > FRAME_MAX:
            raise ValueError(f"{len(encoded)} bytes are more than the {FRAME_MAX} of a frame")
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(len(encoded).to_bytes(_HEAD, "big"))
        self._unsent.append(encoded)

    def close(self) -> None:
        """Send what waits, and end the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once, or as soon as there is one."""
        self._is_ended = True
        self._unsent.clear()
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))

    # -- what the event loop calls ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_UNSENT_MAX)
        self._socket = keep_from_forks(transport)
        self.is_open = True
        if self._is_ended:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what came, and hand on the messages that are whole."""
        self.heard += 1
        if self._read:
            self._read += data
            del self._read[: self._take(self._read)]
        elif (taken := self._take(data)) < len(data):
            self._read += data[taken:]

    def _take(self, data: bytes | bytearray) -> int:
        """Hand on the messages that are whole; give how many bytes they have."""
        start = 0
        while len(data) - start >= _HEAD:
            (size,) = _size_at(data, start)
            end = start + _HEAD + size
            if size > self.frame_max:
                self.abort()
                return len(data)
            if len(data) < end:
                break
            try:
                message = _decoder.decode(data[start + _HEAD : end])
            except (msgspec.MsgspecError, ValueError, RecursionError):
                self.abort()
                return len(data)
            start = end
            self._receive(self, message)
        return start

    def pause_writing(self) -> None:
        """Read nothing more from who does not read what he is sent."""
        if self._transport is not None and self._holds_back:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        if self._transport is not None and self._holds_back:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's
        """Tell that nothing more comes."""
        self.is_open = False
        self._unsent.clear()
        release(self._socket)
        self._lost(self)
