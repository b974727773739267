"""`python -m engine members`: who shares a log, as its owner tells."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from engine import Engine, StoreFailed
from engine.__main__ import main
from engine.members.roster import roster
from engine.members.wire import Line
from engine.runtime.unix_socket import listen
from tests.members.joining import some
from tests.support.counters import Add, Counter


async def told(path: Path, *options: str) -> int:
    # A command has an event loop of its own.
    return await asyncio.to_thread(main, ["members", str(path), *options])


async def test_the_owner_and_its_members_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.db"
    async with AsyncExitStack() as stack:
        _, member, _ = await some(tmp_path, 3, stack)
        for _ in range(4):
            await member.execute(Add("c", 1))

        assert await told(path, "--json") == 0
        found = [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines()]
        assert [(one["role"], one["process"]) for one in found] == [
            ("owner", os.getpid()),
            ("member", os.getpid()),
            ("member", os.getpid()),
        ]
        assert [(one["commands"], one["waiting"]) for one in found] == [(0, 0), (4, 0), (0, 0)]
        assert await told(path) == 0
        assert capsys.readouterr().out.splitlines()[0].split()[:2] == ["PROCESS", "ROLE"]


async def test_where_nobody_shares_the_log_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.db"
    async with Engine([Counter], store=f"sqlite:{path}"):
        assert await told(path) == 0
        said = f"process {os.getpid()} has this log open, and lets nobody join\n"
        assert capsys.readouterr().err == said
    assert await told(path) == 0
    assert capsys.readouterr().err == "no engine has this log open\n"


async def test_an_owner_that_does_not_answer_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    server = await listen(path, lambda: Line(lambda _, __: None, lambda _: None))
    with pytest.raises(StoreFailed, match="has not answered within 0.01 s"):
        await roster(path, 0.01)
    server.close()
