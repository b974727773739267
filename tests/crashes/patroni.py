"""A cluster under Patroni whose leader goes, while one engine writes, or several processes do.

The leader is switched over, killed with its machine, and cut off from the others and from etcd
while engines still reach it. With strict synchronous replication nothing that was acknowledged may
be lost, nothing doubled, and each call is answered. With asynchronous replication a leader that is
cut off goes on alone, and what it confirmed is lost: that must be found, and one engine must say
that the log went back, and append no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import engine
from engine import Engine, EngineError
from tests.support.counters import Add, Counter

from .patroni_cluster import SECONDS, Cluster, lose_leaders
from .patroni_members import JOINS, alone_with_members, members_go_on

__all__ = ["ALL", "main"]

ALONE: Final = "alone"
ALL: Final = (ALONE, *JOINS)
"""How the log is written: by one engine, and by processes that share it in these ways."""
CLIENTS: Final = 16
_LOOK_SECONDS: Final = 0.2
_WENT_BACK: Final = "the log went back"


class Clients:
    """Commands without a pause, and all their receipts."""

    def __init__(self, running: Engine) -> None:
        self.receipts: dict[int, tuple[str, int]] = {}
        self.refused: list[str] = []
        self._engine = running
        self._is_over = False
        self._tasks = [asyncio.ensure_future(self._send(number)) for number in range(CLIENTS)]

    async def end(self) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def go_on(self) -> None:
        """Wait until more was acknowledged, or the engine has failed."""
        wanted, end = len(self.receipts) + CLIENTS, time.monotonic() + SECONDS
        while len(self.receipts) < wanted and self._engine.failed is None:
            assert time.monotonic() < end, "no command was acknowledged any more"
            await asyncio.sleep(_LOOK_SECONDS)

    async def _send(self, number: int) -> None:
        sent = 0
        while not self._is_over and self._engine.failed is None:
            sent += 1
            try:
                receipt = await self._engine.execute(Add(f"c{number}", 1), key=str(sent))
            except EngineError as error:
                self.refused.append(f"{type(error).__name__}: {error}"[:300])
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            self.receipts[receipt.position] = receipt.stream, receipt.version
            await asyncio.sleep(0.001)


def _problems(clients: Clients, rows: list[tuple[str, int, int]]) -> list[str]:
    stored = {position: (stream, version) for stream, version, position in rows}
    lost = [at for at, what in clients.receipts.items() if stored.get(at) != what]
    found = [f"{len(lost)} acknowledged commands are lost: {lost[:5]}"] if lost else []
    if [*stored] != [*range(1, len(rows) + 1)]:
        found.append("positions have holes")
    if more := len(rows) - len(clients.receipts):
        found.append(f"{more} events are there that nobody was told of, or fewer")
    if clients.refused:
        found.append(f"commands with a key were refused: {clients.refused[:5]}")
    return found


async def _synchronous(cluster: Cluster) -> list[str]:
    """Let the leader go in each way; give what is wrong then."""
    async with Engine([Counter], store=cluster.url()) as running:
        clients = Clients(running)
        await clients.go_on()
        await lose_leaders(cluster, clients.go_on)
        await clients.end()
    problems = _problems(clients, cluster.rows())
    print(f"strict synchronous: {len(clients.receipts):,} acknowledged, {len(problems)} problems")
    return problems


async def _asynchronous(cluster: Cluster) -> list[str]:
    """Let a leader go on alone, and be replaced; the engine must say what was lost."""
    running = Engine([Counter], store=cluster.url())
    await running.__aenter__()
    clients = Clients(running)
    try:
        await clients.go_on()
        leader = cluster.leader()
        assert leader is not None
        before = len(clients.receipts)
        leader.cut_off()
        await cluster.until(lambda: cluster.leader() not in (None, leader))
        alone = len(clients.receipts) - before
        await clients.go_on()
        await clients.end()
    finally:
        with contextlib.suppress(EngineError):
            await running.__aexit__(None, None, None)
    lost = [problem for problem in _problems(clients, cluster.rows()) if "are lost" in problem]
    said = str(running.failed)
    print(f"asynchronous: {alone:,} acknowledged by a leader that was alone; {lost}; {said}")
    problems = [] if lost else ["nothing was lost, so nothing was shown"]
    if _WENT_BACK not in said:
        problems.append(f"the engine has not said that {_WENT_BACK}, but {said}")
    return problems


async def run(packages: str, folder: Path, joins: Sequence[str]) -> list[str]:
    """Run both clusters, one after the other."""
    found: list[str] = []
    for synchronous in (True, False):
        inside = folder / ("strict" if synchronous else "asynchronous")
        inside.mkdir(mode=0o711)
        cluster = Cluster(inside, Path(packages), synchronous=synchronous)
        async with cluster.running():
            for join in joins:
                await cluster.be_whole()
                found += await _lived_through(cluster, join)
    return found


async def _lived_through(cluster: Cluster, join: str) -> list[str]:
    if join == ALONE:
        return await (_synchronous if cluster.synchronous else _asynchronous)(cluster)
    return await (members_go_on if cluster.synchronous else alone_with_members)(cluster, join)


def main(packages: str, joins: Sequence[str] = ALL) -> int:
    """Run it and print what was found; give 1 where a promise was broken."""
    folder = Path(tempfile.mkdtemp(prefix="foldline-patroni-"))
    folder.chmod(0o711)
    try:
        problems = engine.run(run, packages, folder, joins)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for problem in problems:
        print(f"    {problem}")
    return 1 if problems else 0
