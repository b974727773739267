"""Asks clients of Kafka for user and password, in front of a server that asks for none.

Tansu keeps no users over an object store, so this stands in for that part of a server: it answers
what signing in asks (PLAIN), and then passes bytes on.
`python -m tests.support.sasl_gate PORT INNER USER PASSWORD [CERTIFICATE KEY]` runs it until it is
killed. With a certificate connections must be encrypted.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import sys
from typing import Final

_HANDSHAKE: Final = 17
_AUTHENTICATE: Final = 36
_VERSIONS: Final = 18
_FAILED: Final = 58
_UNSUPPORTED: Final = 33


class Gate:
    """Listens on a port, and passes on to another what has signed in."""

    def __init__(self, port: int, inner: int, user: str, password: str) -> None:
        self._ports = (port, inner)
        self._known = [user.encode(), password.encode()]

    async def run(self, tls: ssl.SSLContext | None) -> None:
        port = self._ports[0]
        async with await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls) as server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        forth: asyncio.StreamWriter | None = None
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self._ports[1])
            if await self._sign_in(reader, writer, back, forth):
                await asyncio.gather(_pass(reader, forth), _pass(back, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            if forth is not None:
                forth.transport.abort()

    async def _sign_in(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
    ) -> bool:
        """Answer until somebody has signed in; tell whether that was so."""
        while True:
            request = await _frame(reader)
            kind, version, number, named = struct.unpack_from(">hhih", request)
            rest = request[10 + max(named, 0) :]
            if kind == _VERSIONS:
                forth.write(_framed(request))
                writer.write(_framed(await _frame(back)))
            elif kind == _HANDSHAKE:
                mechanism = rest[2:].decode()
                code = 0 if mechanism == "PLAIN" else _UNSUPPORTED
                answer = struct.pack(">ihih", number, code, 1, 5) + b"PLAIN"
                writer.write(_framed(answer))
            elif kind == _AUTHENTICATE:
                is_known = rest[4:].split(b"\0")[1:] == self._known
                head = struct.pack(">ihhi", number, 0 if is_known else _FAILED, -1, 0)
                writer.write(_framed(head + (bytes(8) if version else b"")))
                if is_known:
                    return True
            else:
                return False
            await writer.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


def _framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.transport.abort()


if __name__ == "__main__":
    _, port_, inner_, user_, password_, *files = sys.argv
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if files else None
    if context is not None:
        context.load_cert_chain(*files)
    asyncio.run(Gate(int(port_), int(inner_), user_, password_).run(context))
