"""Where the processes of a log meet: beside its file, or where its database says that the owner is.

Rules: a meeting finds an owner, and lets an owner be found; who owns the log is decided by the
store. In a database the owner says where it is met as it takes the log: at a socket in a folder of
its own, and over TCP or NATS if it was asked to. Members of the same machine use the socket. An
owner is held for alive until its lease is over, or the lock of its folder says that its process is
gone. Off this machine nothing is sent without TLS; a token is sent to nobody who has not proven who
he is, and is in no message.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeAlias, cast
from urllib.parse import quote, unquote

import msgspec

from ..errors import DefinitionError, StoreFailed, StoreRefused
from ..runtime.certificates import ServerCertificate, refusal_of
from ..runtime.private_folder import PrivateFolder, is_abandoned, remove_abandoned
from ..runtime.unix_socket import Listener, connect, listen
from ..stores.contract.log import Store
from ..stores.contract.meeting import Announcing, Owned, OwnerDirectory
from .listening import Listen, ListenOnNats, is_this_machine, read_listen
from .over_nats import Exchange, join
from .wire import Line, Welcome

__all__ = ["FileMeeting", "LeaseMeeting", "MakeLine", "Meeting", "meeting_of"]

MakeLine: TypeAlias = Callable[[bool], Line]
"""Makes the owner's end of a connection, whose other end is trusted or has to show a token."""

_CONNECT_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.5
"""Between two looks at whom the log belongs to, at most."""
_LOOKS: Final = 6
"""In the time of one lease, at least."""
_MARGIN_SECONDS: Final = 0.02
_SOCKET: Final = "members"
_NATS: Final = "nats:"
_LOGGER: Final = logging.getLogger("foldline")


class Meeting(Protocol):
    """How the processes of one log find each other."""

    keeps_reading: bool
    """Whether an owner reads as its members do, since it may be a member again."""
    patience_seconds: float
    """For how long one waits for a database that has gone."""

    @property
    def place(self) -> str:
        """What people call the place."""
        ...

    def is_findable(self) -> bool:
        """Tell whether members still find this process, which listens."""
        ...

    async def is_vacant(self) -> bool:
        """Tell whether it is worth a try to take the log; raise StoreFailed."""
        ...

    async def prepare(self, store: Store) -> None:
        """Get ready to be met, before the log is taken; raise StoreFailed where that fails."""
        ...

    async def listen(self, make: MakeLine) -> None:
        """Let others connect, as the owner; raise OSError."""
        ...

    def leave(self) -> None:
        """Let nobody connect any more; a second call does nothing."""
        ...

    async def connect(self, line: Line) -> str:
        """Connect with the owner; give the token to show, or "".

        Raises OSError where there is none to be had, StoreFailed, and StoreRefused for one that
        does not prove who it is.
        """
        ...

    def is_owner(self, welcome: Welcome) -> bool:
        """Tell whether who answers is the owner that was looked for."""
        ...

    def admits(self, token: str) -> bool:
        """Tell whether a member shows the right token."""
        ...

    async def until_gone(self) -> None:
        """Return when the owner that this is connected with has the log no more."""
        ...

    async def close(self) -> None:
        """Close what was opened."""
        ...


class FileMeeting:
    """At a socket beside the log's file. Its lock says who owns the log."""

    keeps_reading = False
    patience_seconds = 0.0
    """There is no database that could be away."""

    def __init__(self, path: str) -> None:
        self.place = path
        self._listener: Listener | None = None

    async def is_vacant(self) -> bool:
        """Say yes: a try for the lock costs little."""
        return True

    async def prepare(self, store: Store) -> None:
        """Do nothing: the place is known."""

    async def listen(self, make: MakeLine) -> None:
        """Listen beside the file."""
        self.leave()
        self._listener = await listen(self.place, lambda: make(True))

    def is_findable(self) -> bool:
        """Tell whether the socket stands where it was made."""
        return self._listener is not None and self._listener.is_at_its_path()

    def leave(self) -> None:
        """Take the socket away, while the log is still this process's."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    async def connect(self, line: Line) -> str:
        """Connect beside the file."""
        await connect(self.place, lambda: line)
        return ""

    def is_owner(self, welcome: Welcome) -> bool:  # noqa: ARG002 - the protocol's
        """Say yes: nobody else can listen there."""
        return True

    def admits(self, token: str) -> bool:  # noqa: ARG002 - the protocol's
        """Say yes: the file system has let it in."""
        return True

    async def until_gone(self) -> None:
        """Wait for ever: the line breaks when the owner goes."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Do nothing."""


class LeaseMeeting:
    """Where the database says that the owner is."""

    keeps_reading = True

    def __init__(
        self,
        directory: OwnerDirectory,
        where: Listen | ListenOnNats | None,
        logger: logging.Logger = _LOGGER,
    ) -> None:
        """Take where to listen for other machines, as the owner."""
        self._directory = directory
        self.patience_seconds = directory.patience_seconds
        self._where = where if isinstance(where, Listen) else None
        self._on_nats = where if isinstance(where, ListenOnNats) else None
        self._exchange: Exchange | None = None
        self._logger = logger
        self._folder: PrivateFolder | None = None
        self.place = directory.name
        self._servers: list[asyncio.AbstractServer] = []
        self._listener: Listener | None = None
        self._make: MakeLine | None = None
        self._owner: Owned | None = None

    async def is_vacant(self) -> bool:
        """Tell whether nobody has the log, or has it for certain no more."""
        owner = await self._directory.owner()
        if owner is None or owner.seconds_left <= 0:
            return True
        for folder in _folders(owner.address):
            if is_abandoned(folder):
                await self._directory.strike(owner.session)
                remove_abandoned(folder)
                return True
        return False

    # -- as the owner -------------------------------------------------------------------------

    async def prepare(self, store: Store) -> None:
        """Make the folder, take the port, and let the store say both as it takes the log."""
        try:
            self._folder = PrivateFolder()
            places = [f"unix:{quote(self._folder.path)}"]
            if self._where is not None:
                places.append(await self._take_port(self._where))
            if self._on_nats is not None:
                self._exchange = Exchange(self._on_nats, self._logger)
                places.append(f"{_NATS}{self._exchange.subject}")
        except OSError as error:
            self.leave()
            place = "" if self._where is None else f" at {self._where.host}:{self._where.port}"
            raise StoreFailed(
                f"{self._directory.name}: members cannot be listened for{place}: {_said(error)}",
                written=False,
                passes=True,
            ) from error
        cast("Announcing", store).announce(" ".join(places))

    async def _take_port(self, where: Listen) -> str:
        loop = asyncio.get_running_loop()
        tls = None
        if where.sslcert is not None:
            tls = ServerCertificate(where.sslcert, where.sslkey, self._logger).context
        server = await loop.create_server(
            self._stranger, where.host, where.port, ssl=tls, start_serving=False
        )
        self._servers.append(server)
        port = server.sockets[0].getsockname()[1]
        host = f"[{where.advertise}]" if ":" in where.advertise else where.advertise
        return f"{'tcp' if tls is None else 'tls'}://{host}:{port}"

    def _stranger(self) -> Line:
        assert self._make is not None, "nobody connects before it is listened"
        assert self._where is not None
        return self._make(self._where.token is None)

    async def listen(self, make: MakeLine) -> None:
        """Listen in the folder, at the port that was taken, and on the NATS server."""
        assert self._folder is not None, "it is prepared before"
        self._make = make
        for server in self._servers:
            await server.start_serving()
        if self._exchange is not None:
            self._exchange.open(lambda: make(True))
        if self._listener is not None:
            self._listener.close()
        path = str(Path(self._folder.path) / _SOCKET)
        self._listener = await listen(path, lambda: make(True))

    def is_findable(self) -> bool:
        """Tell whether the socket stands in the folder."""
        return self._listener is not None and self._listener.is_at_its_path()

    def leave(self) -> None:
        """Take folder and port back."""
        if self._exchange is not None:
            self._exchange.leave()
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.remove()

    def admits(self, token: str) -> bool:
        """Compare a token, in a time that does not depend on what it is."""
        wanted = None if self._where is None else self._where.token
        if wanted is None:
            return True
        return hmac.compare_digest(token.encode(), wanted.revealed.encode())

    # -- as a member --------------------------------------------------------------------------

    async def connect(self, line: Line) -> str:
        """Connect in the owner's folder where it is on this machine, or else over TCP."""
        owner = self._owner = await self._directory.owner()
        if owner is None or owner.seconds_left <= 0:
            raise ConnectionRefusedError
        return await self.connect_at(owner.address, line)

    async def connect_at(self, address: str, line: Line) -> str:
        """Do so with who has this address; raises as `connect` does."""
        if await self.connect_here(address, line):
            return ""
        for place in address.split():
            scheme, _, rest = place.partition("://")
            if scheme in ("tcp", "tls"):
                return await self._connect_over(scheme, rest, line)
            if place.startswith(_NATS):
                return await self._connect_on_nats(place.removeprefix(_NATS), line)
        raise ConnectionRefusedError

    async def connect_here(self, address: str, line: Line) -> bool:
        """Connect in the folder of who has this address; tell whether that is on this machine."""
        for folder in _folders(address):
            # Another user's, or on another machine.
            with contextlib.suppress(PermissionError, FileNotFoundError):
                await connect(str(Path(folder) / _SOCKET), lambda: line)
                return True
        return False

    async def _connect_on_nats(self, subject: str, line: Line) -> str:
        if self._on_nats is None:
            why = "it is met over NATS: give this engine the listen= of the others"
            raise ConnectionRefusedError(errno.ECONNREFUSED, why)
        await join(self._on_nats, subject, line)
        return ""

    def is_dead_at(self, address: str) -> bool:
        """Tell whether who had this address is dead for certain: its folder shows that."""
        return any(is_abandoned(folder) for folder in _folders(address))

    async def _connect_over(self, scheme: str, place: str, line: Line) -> str:
        host, _, port = place.rpartition(":")
        host, where = host.strip("[]"), self._where
        tls = scheme == "tls"
        if not tls and not is_this_machine(host):
            raise self._refused(place, "it asks for no encryption, and is on another machine")
        root = None if where is None else where.sslrootcert
        try:
            context = ssl.create_default_context(cafile=root) if tls else None
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().create_connection(
                    lambda: line, host, int(port), ssl=context
                )
        except ssl.SSLCertVerificationError as error:
            otherwise = "give the certificate that signs it as sslrootcert= of listen="
            why = refusal_of(error, host, otherwise)
            raise self._refused(place, f"it {why}") from error
        except FileNotFoundError as error:
            raise self._refused(place, "there is no file as sslrootcert= says") from error
        return "" if where is None or where.token is None else where.token.revealed

    def _refused(self, place: str, why: str) -> StoreRefused:
        return StoreRefused(f"{self._directory.name}: its owner at {place} is not joined: {why}")

    def is_owner(self, welcome: Welcome) -> bool:
        """Tell whether who answers has the session that was read, of the same log."""
        owner = self._owner
        return owner is not None and (welcome.session, welcome.log_id) == (
            owner.session,
            owner.log_id,
        )

    async def until_gone(self) -> None:
        """Look at whom the log belongs to, until that is another one or the lease is over."""
        known = self._owner
        rest = most = min(_LOOK_SECONDS, self._directory.lease_seconds / _LOOKS)
        while True:
            await asyncio.sleep(rest)
            try:
                owner = await self._directory.owner()
            except (StoreFailed, StoreRefused):
                rest = most  # nothing is known, and the line still stands
                continue
            if owner is None or known is None or owner.session != known.session:
                return
            if owner.seconds_left <= 0:
                return
            rest = min(most, owner.seconds_left + _MARGIN_SECONDS)

    async def close(self) -> None:
        """Close the connection to the database."""
        self.leave()
        if self._exchange is not None:
            await self._exchange.close()
        await self._directory.close()


def _folders(address: str) -> list[str]:
    """Give the folder of an owner, where its address names one."""
    found = (place.partition("unix:") for place in address.split())
    return [unquote(path) for before, scheme, path in found if scheme and not before]


def _said(error: OSError) -> str:
    why = error.strerror or type(error).__name__
    if isinstance(error, ssl.SSLError):
        why += ". Look at sslcert and sslkey: a certificate, and its key without a password"
    return why


def meeting_of(
    found: str | OwnerDirectory,
    listen: str | None,
    elsewhere: bool,
    logger: logging.Logger,
    *,
    own_port: bool = True,
) -> Meeting:
    """Give where the processes of a log meet; raise DefinitionError for what does not go there."""
    if isinstance(found, str):
        if listen is not None:
            raise DefinitionError(
                "listen= goes with join=True and a log in PostgreSQL: the processes of a log in a "
                "file meet beside it, on one machine"
            )
        return FileMeeting(found)
    if elsewhere:
        raise DefinitionError(
            "join=True reads the views in the log's database: leave views= away, or join=True"
        )
    where = None if listen is None else read_listen(listen)
    if isinstance(where, Listen) and not own_port:
        where = msgspec.structs.replace(where, port=0)
    return LeaseMeeting(found, where, logger)
