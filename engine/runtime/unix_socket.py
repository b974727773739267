"""Sockets with a path, by which processes of one machine find each other: listened at, connected.

Rules: a socket that is listened at is its owner's alone from its first moment on (mode 0600). A
path may be as long as the file system takes: where the system takes fewer bytes for a socket, its
folder is named by a descriptor. What is left of a process that was killed is replaced. What others
have put at the path meanwhile is left to them. A fork lets go of the sockets of its parent: else
they would stay open when that one is killed, and who waits at their other ends, or is about to
connect, would wait for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

__all__ = ["Listener", "connect", "hide", "keep_from_forks", "listen", "release"]

_BYTES_MAX: Final = 100
"""Of a path that each system takes; Linux takes 107 and macOS 103."""
_DESCRIPTORS: Final = "/proc/self/fd"
_NONE: Final = -1

_sockets: Final[set[int]] = set()
"""Descriptors of the sockets of this process."""


class Listener:
    """A socket that is listened at, from `listen` to `close`."""

    def __init__(self, path: str, server: asyncio.Server) -> None:
        self._path = path
        self._server = server
        made = Path(path).lstat()
        self._file = made.st_dev, made.st_ino
        self._descriptors = [each.fileno() for each in server.sockets]
        _sockets.update(self._descriptors)

    def is_at_its_path(self) -> bool:
        """Whether who connects to the path comes here: nobody has removed or replaced it."""
        try:
            found = Path(self._path).lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._file

    def close(self) -> None:
        """Listen no more, and take the socket away if it is still there."""
        _sockets.difference_update(self._descriptors)
        stands = self.is_at_its_path()
        self._server.close()
        if stands:
            with contextlib.suppress(OSError):
                _remove(self._path)


async def listen(path: str, make: Callable[[], asyncio.BaseProtocol]) -> Listener:
    """Listen at a path; each connection has a protocol of its own.

    Raises OSError where that is not possible.
    """
    with _short(path) as short:
        _remove(short)
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(make, short, start_serving=False)
        try:
            _keep_private(short)  # nobody can connect before it listens
            listener = Listener(path, server)
            await server.start_serving()
        except BaseException:
            server.close()
            raise
    return listener


async def connect(path: str, make: Callable[[], asyncio.BaseProtocol]) -> None:
    """Connect a protocol with what listens at a path; raise OSError where nobody does."""
    with _short(path) as short:
        await asyncio.get_running_loop().create_unix_connection(make, short)


def keep_from_forks(transport: asyncio.BaseTransport) -> int:
    """Let forks of this process have none of a connection; give what `release` takes.

    One that shares its socket with others is left to who has that.
    """
    socket = transport.get_extra_info("socket")
    return _NONE if socket is None else hide(socket.fileno())


def hide(descriptor: int) -> int:
    """Let forks of this process have none of what a descriptor names; give what `release` takes."""
    _sockets.add(descriptor)
    return descriptor


def release(descriptor: int) -> None:
    """Note that a connection has ended."""
    _sockets.discard(descriptor)


def _let_go() -> None:
    """Put what is nothing in the place of each socket: its number stays taken, as others think."""
    if not _sockets:
        return
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in _sockets:
        os.dup2(null, descriptor, inheritable=False)
    os.close(null)
    _sockets.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _remove(path: str) -> None:
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "what stands there is no socket: take it away", path)
    Path(path).unlink(missing_ok=True)


def _keep_private(path: str) -> None:
    Path(path).chmod(0o600)


@contextlib.contextmanager
def _short(path: str) -> Generator[str]:
    """Give a path that the system takes for a socket's."""
    if len(os.fsencode(path)) <= _BYTES_MAX or not Path(_DESCRIPTORS).is_dir():
        yield path
        return
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield str(Path(_DESCRIPTORS) / str(descriptor) / name)
    finally:
        os.close(descriptor)
