"""The steps at which a process that shares a log can be made to stand still: each is come by."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine import Engine
from engine.runtime.ports import SHARED_FAILPOINTS, Ports
from tests.support.counters import Add, Counter
from tests.support.postgres import Server
from tests.support.waiting import until

COMMAND = ("member.sending", "owner.asked", "owner.answering", "member.answered")
BATCH = ("append.sending", "append.answered")


def recording(came: list[str], log: str, **options: Any) -> Engine:
    return Engine([Counter], store=log, ports=Ports(failpoint=came.append), **options)


async def test_a_members_command_comes_by_each_step_in_its_order(tmp_path: Path) -> None:
    came: list[str] = []
    log = f"sqlite:{tmp_path}/log.db"
    async with AsyncExitStack() as stack:
        _, member = [
            await stack.enter_async_context(recording(came, log, join=True)) for _ in range(2)
        ]
        await member.execute(Add("c", 1))

    assert [step for step in came if step in SHARED_FAILPOINTS] == [*COMMAND]
    between = came[came.index("owner.asked") : came.index("owner.answering")]
    assert {"mailbox.accepted", "actor.decided", "journal.durable"} <= {*between}


@pytest.mark.parametrize("join", [True, "spread"])
async def test_a_log_in_a_server_has_steps_of_its_batches_its_lease_and_its_members(
    postgres: Server, join: Any
) -> None:
    came: list[str] = []
    log = postgres.url(postgres.new_schema(), "lease=2")
    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(recording(came, log, join=join)) for _ in range(2)
        ]
        for number in range(16):
            await engines[number % 2].execute(Add(f"c{number}", 1))
        wanted = [name for name in SHARED_FAILPOINTS if join == "spread" or name[:4] != "view"]
        await until(partial({*wanted}.issubset, came))

    assert {*came} & {*SHARED_FAILPOINTS} == {*wanted}
    assert came.index(BATCH[0]) < came.index(BATCH[1])
    assert came.index("lease.renewing") < came.index("lease.renewed")
