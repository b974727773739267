"""Passes bytes on to a server on loopback, until it is killed: then all its connections break.

`python -m tests.support.gate PORT INNER [CERTIFICATE KEY]` stands for the part of a server that can
die where the server itself keeps nothing on disk. With a certificate connections must be encrypted.
"""

from __future__ import annotations

import asyncio
import ssl
import sys


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.transport.abort()


async def run(port: int, inner: int, tls: ssl.SSLContext | None) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        forth: asyncio.StreamWriter | None = None
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", inner)
            await asyncio.gather(_pass(reader, forth), _pass(back, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            if forth is not None:
                forth.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls) as server:
        await server.serve_forever()


if __name__ == "__main__":
    _, port_, inner_, *files = sys.argv
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if files else None
    if context is not None:
        context.load_cert_chain(*files)
    asyncio.run(run(int(port_), int(inner_), context))
