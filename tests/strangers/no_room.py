"""`python -m tests.strangers.no_room PROGRAM FILE`: a log in a process whose files may not grow.

Rules: the bound is RLIMIT_FSIZE, whose error (EFBIG) SQLite takes as it takes a quota's. Each line
on the output is a number that its reader knows what to do with.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from pathlib import Path

from engine import Engine, Receipt, StoreFailed, Voided
from engine.runtime.ports import Ports
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.wal import PAGE_BYTES
from engine.testing.conformance import append, request
from tests.strangers.writing import LIMITS, Put, Shelf, engine_on

ROOMY = resource.RLIM_INFINITY


def bound(size: int) -> None:
    """Let no file of this process grow above a size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, ROOMY))


async def engine(path: str) -> None:
    """Fill a log's write-ahead log three times, then make room; print what was acknowledged."""
    async with engine_on(f"sqlite:{path}") as engine:
        await engine.execute(Put("before", "x"))
        bound(2_000_000)
        answers: list[object] = []
        for _ in range(3):
            sent = [engine.execute(Put(f"s-{n}", "x" * 9_000)) for n in range(150)]
            answers += await asyncio.gather(*sent, return_exceptions=True)
        assert {type(answer) for answer in answers} == {Voided, Receipt}, answers
        assert type(answers[-1]) is Voided, "it was to find no room"
        bound(ROOMY)
        await engine.execute(Put("after", "x"))
        print(sum(type(answer) is Receipt for answer in answers) + 2, flush=True)


async def opened(path: str) -> SqliteStore:
    store = SqliteStore(path)
    await store.open(Ports())
    await append(store, request("counter:a", 0, 1))
    return store


LONG = request("counter:b", 0, *range(3_000))
SHORT = request("counter:c", 0, 1)
MIDDLE = request("counter:d", 0, *range(1_000))


async def commits(path: str) -> None:
    """Let two commits fail in their very last pages, one before the other; then be killed."""
    sizes: list[int] = []
    for wanted in (LONG, SHORT, MIDDLE):  # how much each takes, in a log of its own
        store = await opened(f"{path}.{len(sizes)}")
        before = Path(f"{store.path}-wal").stat().st_size
        await append(store, wanted)
        sizes.append(Path(f"{store.path}-wal").stat().st_size - before)
        await store.close()
    long, short, middle = sizes
    store = await opened(path)
    end = Path(f"{path}-wal").stat().st_size
    # The head of the last page finds room, and says that it is a commit; half of the page does.
    for wanted, last in ((LONG, end + long), (SHORT, ROOMY), (MIDDLE, end + short + middle)):
        bound(last - PAGE_BYTES // 2 if last != ROOMY else ROOMY)
        try:
            await append(store, wanted)
        except StoreFailed as error:
            print(int(error.written is False), flush=True)
    os._exit(9)


async def views(path: str) -> None:
    """Fold a log into views that find no room, until there is; print what was seen meanwhile."""
    async with Engine([Shelf], store=f"sqlite:{path}", limits=LIMITS) as engine:
        await asyncio.gather(*[engine.execute(Put(f"{n:0200}", "x")) for n in range(1_000)])
    bound(150_000)
    async with engine_on(f"sqlite:{path}") as engine:
        while (seen := engine.statistics().projectors["fills"]).retries <= LIMITS.projector_retries:
            assert seen.failure is None, seen
            await asyncio.sleep(0.01)
        assert seen.state == "retrying"
        assert seen.retrying is not None
        print(int("FullError" in seen.retrying.cause or "IOError" in seen.retrying.cause))
        bound(ROOMY)
        while engine.statistics().projectors["fills"].lag_events:
            await asyncio.sleep(0.01)
        print(engine.statistics().projectors["fills"].position, flush=True)


PROGRAMS = {"engine": engine, "commits": commits, "views": views}

if __name__ == "__main__":
    asyncio.run(PROGRAMS[sys.argv[1]](sys.argv[2]))
