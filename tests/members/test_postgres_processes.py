"""Processes that share a log in PostgreSQL, of which the owner is killed or stands still."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from engine import OutcomeUnknown, Receipt
from tests.members.joining import joined, nowhere, part, running
from tests.support.certificates import certify
from tests.support.counters import Add, Counter
from tests.support.postgres import Server
from tests.support.waiting import until


async def test_the_owner_of_this_machine_that_is_killed_is_followed_at_once(
    postgres: Server, tmp_path: Path
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=60")
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(running(log))
        member = await stack.enter_async_context(joined(tmp_path, store=log))
        assert part(member).role == "member"
        await member.execute(Add("c", 1))
        sent = [
            asyncio.create_task(member.execute(Add("c", 1), key=key))
            for key in ("a", "b", None, None)
        ]
        await until(lambda: part(member).forwarded == 5)
        owner.send_signal(signal.SIGKILL)

        async with asyncio.timeout(15):  # a lease is four times as long
            answers = await asyncio.gather(*sent, return_exceptions=True)
        assert all(isinstance(answer, Receipt) for answer in answers[:2])
        assert {type(answer) for answer in answers[2:]} <= {Receipt, OutcomeUnknown}
        assert part(member).role == "owner"
        again = [await member.execute(Add("c", 1), key=key) for key in ("a", "b")]
        assert again == answers[:2]


async def test_an_owner_that_is_told_to_stop_hands_over_at_once_and_leaves_nothing_unknown(
    postgres: Server, tmp_path: Path
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=60")
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(running(log))
        member = await stack.enter_async_context(joined(tmp_path, store=log))
        sent = [asyncio.create_task(member.execute(Add("c", 1))) for _ in range(20)]
        await until(lambda: part(member).forwarded == 20)
        owner.send_signal(signal.SIGTERM)

        async with asyncio.timeout(15):  # a lease is four times as long
            answers = await asyncio.gather(*sent)
            await until(lambda: part(member).role == "owner")
        assert sorted(answer.version for answer in answers) == [*range(1, 21)]


async def test_an_owner_that_stands_still_is_followed_when_its_lease_is_over(
    postgres: Server, tmp_path: Path
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=2")
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(running(log))
        member = await stack.enter_async_context(joined(tmp_path, store=log))
        await member.execute(Add("c", 1))
        owner.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        sent = asyncio.create_task(member.execute(Add("c", 1), key="k"))

        first = await asyncio.wait_for(sent, 30)
        took = time.monotonic() - stopped
        assert took > 1.0, "the lease of one that lives was not waited for"
        owner.send_signal(signal.SIGCONT)
        assert await member.execute(Add("c", 1), key="k") == first
        assert (await member.state(Counter, "c")).total == 2
        assert part(member).role == "owner"


async def test_members_of_other_machines_come_over_tls_with_the_token(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify(tmp_path, "here", "IP:127.0.0.1")
    files = f"sslcert={tmp_path}/here.crt&sslkey={tmp_path}/here.key"
    listen = f"tcp://:a-token-of-this-test@127.0.0.1:0?{files}&sslrootcert={tmp_path}/here.crt"
    log = postgres.url(postgres.new_schema(), "lease=1")
    # As if this process were on another machine: the folder of the owner is nowhere.
    monkeypatch.setattr("engine.members.meeting._folders", nowhere)
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(running(log, listen))
        member = await stack.enter_async_context(joined(tmp_path, store=log, listen=listen))
        receipts = await asyncio.gather(*(member.execute(Add("c", 1)) for _ in range(50)))
        assert [receipt.version for receipt in receipts] == list(range(1, 51))
        owner.send_signal(signal.SIGKILL)

        answer = await asyncio.wait_for(member.execute(Add("c", 1), key="k"), 30)
        assert answer.version == 51
        assert part(member).role == "owner"


async def test_an_owner_is_waited_for_as_long_as_its_database(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.members.forwarding.PATIENCE_SECONDS", 0.0)
    log = postgres.url(postgres.new_schema(), "lease=2&patience=60")
    async with running(log) as owner, joined(tmp_path, store=log) as member:
        first = await member.execute(Add("c", 1), key="a")
        owner.kill()
        await owner.wait()
        receipt = await member.execute(Add("c", 1), key="b")
        assert receipt.version == first.version + 1
