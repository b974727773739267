"""The lines between an owner and its members, as tests cut them and write on them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from engine import Engine
from engine.members.wire import Line, Message
from engine.runtime.unix_socket import connect


def cut(owner: Engine) -> None:
    """Break all lines of an owner, as its death would."""
    for line in [*serving_of(owner)._lines]:
        line.abort()


def serving_of(owner: Engine) -> Any:
    joined = owner._joined
    assert joined is not None
    return joined._membership._serving


def forwarding_of(member: Engine) -> Any:
    joined = member._joined
    assert joined is not None
    return joined.forwarding


class Client:
    """One end of a line to an owner, for what no member would send."""

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.lost = asyncio.Event()
        self.line = Line(lambda _, message: self.got.append(message), lambda _: self.lost.set())

    async def to(self, path: Path) -> Client:
        await connect(f"{path}/log.db.members", lambda: self.line)
        return self

    def write(self, data: bytes) -> None:
        assert self.line._transport is not None
        self.line._transport.write(data)
