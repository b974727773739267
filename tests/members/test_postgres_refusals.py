"""What a former owner of a log in PostgreSQL would refuse, since the next one has moved it on.

Its batch has the first event of a type, so that it is planned on what the log has by now, and
nothing of it fits. Then nothing is appended, which would tell that the log is another engine's.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from engine import Ports, StoreFailed
from engine.model.stored import EventData, EventType
from engine.stores.contract.claims import TakeClaim
from engine.stores.contract.log import AppendRequest, Batch, Committed, Write
from engine.stores.contract.tags import Unchanged
from engine.stores.contract.timers import FiredTimer
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.store import PostgresStore
from engine.testing.conformance import ADDED, append, event, request
from tests.members.joining import part, some
from tests.support.counters import Add, Counter
from tests.support.postgres import Server, asked
from tests.support.waiting import until

NEW = EventType("of-the-former-alone", 1, "01")


@pytest.fixture
def log(postgres: Server) -> str:
    # No renewal of the lease comes between.
    return postgres.url(postgres.new_schema(), "lease=3600")


@pytest.mark.parametrize("key", ["k", None], ids=["with-a-key", "without"])
async def test_it_is_handed_on_to_the_next_owner(
    log: str,
    tmp_path: Path,
    postgres: Server,
    caplog: pytest.LogCaptureFixture,
    key: str | None,
) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack, store=log)
        store: Any = owner._joined._wiring.store  # type: ignore[union-attr]
        real, came, goes = store.append, asyncio.Event(), asyncio.Event()

        async def append_later(batch: Batch) -> Committed:
            came.set()
            await goes.wait()
            committed: Committed = await real(batch)
            return committed

        store.append = append_later
        sent = asyncio.create_task(owner.execute(Add("c", 1), key=key))
        await came.wait()
        # As where it stands still past its lease: another one has the log, and it has not heard.
        await asked(postgres, f"SELECT {read_address(log).schema}.end_session_1(1)")
        await until(lambda: part(member).role == "owner")
        await member.execute(Add("c", 10))
        goes.set()

        assert (await sent).version == 2
        assert (await member.state(Counter, "c")).total == 11
        await until(lambda: part(owner).role == "member")
        assert owner.failed is None
    assert "Nothing was written. This process is a member from now on." in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


@pytest.mark.parametrize(
    "refused",
    [
        AppendRequest([Write("a:1", 0, [event(1, NEW)])]),
        AppendRequest([Write("b:1", 0, [event(1, NEW)])], [TakeClaim("mail", "x", "b:1")]),
        AppendRequest([Write("b:1", 0, [event(1, NEW)])], [FiredTimer("b:1", "off", 9)]),
        AppendRequest(
            [Write("b:1", 0, [event(1, NEW)])], [Unchanged(("room:1",), ("added",), 0, "b:1")]
        ),
    ],
    ids=["stream", "claim", "timer", "tags"],
)
async def test_the_store_says_that_the_log_is_another_engines(
    log: str, postgres: Server, refused: AppendRequest
) -> None:
    former, owner = PostgresStore(read_address(log)), PostgresStore(read_address(log))
    await former.open(Ports())
    await asked(postgres, f"SELECT {read_address(log).schema}.end_session_1(1)")
    await owner.open(Ports())
    tagged = EventData(ADDED, b"{}", tags=("room:1",))
    taking = AppendRequest([Write("c:1", 0, [tagged])], [TakeClaim("mail", "x", "c:1")])
    await append(owner, request("a:1", 0, 1), taking)

    with pytest.raises(StoreFailed, match="taken this log over.*Run one engine, or give") as failed:
        await append(former, refused)

    assert (failed.value.written, failed.value.stopped) == (False, True)
    assert former.is_succeeded
    await former.close()
    await owner.close()
