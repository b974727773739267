"""Joint decisions of a member's callers are decided by the owner of the log."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from engine import Engine, InvalidInput, Receipt, Rejected, UsageError, WrongVersion
from tests.write.accounts import Deposit, Share, Transfer, bank, cents


async def test_a_member_sends_a_joint_decision_and_gets_the_whole_receipt(tmp_path: Path) -> None:
    def make() -> Engine:
        return bank(store=f"sqlite:{tmp_path}/log.db", join=True)

    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(make())
        member = await stack.enter_async_context(make())
        await member.execute(Deposit("a", 100))

        first = await member.execute(Transfer("a", "b", 30), key="k")
        assert first == Receipt("account:a", 2, 3, 70, (("account:b", 1),))
        assert await owner.execute(Transfer("a", "b", 30), key="k") == first
        assert await member.execute(Transfer("a", "b", 30), key="k") == first
        shared = await member.execute(Share("a", ["c", "d"], 5), expected=first.versions)
        assert shared.versions == {"account:a": 3, "account:c": 1, "account:d": 1}
        with pytest.raises(WrongVersion) as wrong:
            await member.execute(Transfer("a", "b", 30), expected=first.versions)
        assert (wrong.value.stream, wrong.value.actual) == ("account:a", 3)
        with pytest.raises(Rejected, match="too-little-money"):
            await member.execute(Transfer("b", "a", 31))
        with pytest.raises(InvalidInput, match="twice"):
            await member.execute(Transfer("a", "a", 1))
        with pytest.raises(UsageError, match="give expected= by stream"):
            await member.execute(Transfer("a", "b", 1), expected=3)
        assert await cents(member, "a", "b", "c", "d") == [60, 30, 5, 5]
