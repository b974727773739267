"""What another engine appended: nine answers that were false where two engines just raced.

In each of them one engine knows an aggregate, and another one appends to it. What the first one
then answers is the truth, whether it is a member of the other or the owner that others write to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from engine import Engine, InvalidInput, Receipt, Rejected, WrongVersion
from tests.members.joining import some
from tests.support.counters import Add, Look, Touch
from tests.support.postgres import Server
from tests.support.tallies import GetTally, Tally


@pytest.fixture(params=["file", "server"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Give where the log is; None for a file."""
    if request.param == "file":
        return None
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.new_schema())


class Two:
    """Two engines of a log: `other` has appended what `asked` did not write itself."""

    def __init__(self, other: Engine, asked: Engine, last: Receipt) -> None:
        self.other = other
        self.asked = asked
        self.last = last


@pytest.fixture(params=["member", "owner"])
async def two(
    request: pytest.FixtureRequest, log: str | None, tmp_path: Path
) -> AsyncGenerator[Two]:
    """Give them; the one that is asked is of this role, and knows the aggregate at version 1."""
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack, **({} if log is None else {"store": log}))
        other, asked = (owner, member) if request.param == "member" else (member, owner)
        await other.execute(Add("c", 1))
        with pytest.raises(Rejected, match="1 at 1"):
            await asked.execute(Look("c"))
        yield Two(other, asked, await other.execute(Add("c", 10), key="k"))


async def test_what_another_engine_appended_is_told_as_it_is(two: Two) -> None:
    asked, last = two.asked, two.last
    with pytest.raises(Rejected, match="11 at 2"):  # 1: a false no
        await asked.execute(Look("c"))
    assert await asked.execute(Touch("c")) == last  # 2: a receipt of an old version
    with pytest.raises(WrongVersion) as wrong:
        await asked.execute(Add("c", 1), expected=1)
    assert wrong.value.actual == 2
    assert await asked.execute(Add("c", 10), key="k") == last  # 4: safe, by a detour
    assert await asked.query(GetTally("c"), at=last) == Tally("c", 11, 2)  # 5 and 9: a lag for ever
    assert (await asked.execute(Add("c", 1), expected=2)).version == 3  # 3: a false 412


async def test_the_end_of_the_log_is_known_to_who_appended_nothing(two: Two) -> None:
    async with aclosing(two.asked.feed(two.last.position)) as feed:  # 6: another log, it said
        assert [logged async for logged in feed] == []
    assert two.asked.statistics().position == two.last.position  # 7
    with pytest.raises(InvalidInput, match=f"the log ends at position {two.last.position}"):
        await anext(two.asked.feed(two.last.position + 1))


async def test_who_appended_nothing_is_told_of_what_comes(two: Two) -> None:
    async with (  # 8: a silence for ever
        aclosing(two.asked.feed(two.last.position, follow=True)) as feed,
        aclosing(two.asked.watch(GetTally("c"), at=two.last)) as watch,
    ):
        assert await anext(watch) == Tally("c", 11, 2)
        coming = asyncio.ensure_future(anext(feed))
        receipt = await two.other.execute(Add("c", 1))

        assert (await coming).meta.position == receipt.position
        assert await anext(watch) == Tally("c", 12, 3)
