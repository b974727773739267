"""The processes of `start`: one that writes until it is killed, and those that come after it.

    python -m benchmarks.start_child write LOG EVENTS   catches its view up with EVENTS, then
        writes for ever, and tells each acknowledged command by a dot before it sends the next
    python -m benchmarks.start_child engine LOG         sends one command; prints when it was done
    python -m benchmarks.start_child views LOG          the same with views, and asks them at once
    python -m benchmarks.start_child floor LOG          inserts one event by bare APSW

Times are of the machine's monotonic clock, which all processes share. Nothing is imported that a
mode does not need: imports are part of a process's start.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main(mode: str, path: str, *rest: str) -> None:
    """Do what the mode says."""
    if mode == "floor":
        told = _insert_bare(path)
    else:
        import engine

        if mode == "write":
            engine.run(_write, path, int(rest[0]))
            return
        told = engine.run(_first_command, path, mode == "views")
    print(json.dumps(told))


def _insert_bare(path: str) -> dict[str, float]:
    import apsw

    begun = time.monotonic()
    connection: Any = apsw.Connection(path)
    for pragma in ("journal_mode=wal", "synchronous=full"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    head = "SELECT position, stream, version, type FROM events ORDER BY position DESC LIMIT 1"
    position, stream, _, kind = connection.execute(head).fetchall()[0]
    last = "SELECT max(version) FROM events WHERE stream = ?"
    version = connection.execute(last, (stream,)).fetchall()[0][0]
    row = (position + 1, stream, version + 1, kind, 0, 0, b'{"order_id":"floor"}', b"", 0)
    connection.execute("INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?)", row).fetchall()
    done = time.monotonic()
    connection.close()
    return {"begun": begun, "done": done, "position": position + 1}


async def _first_command(path: str, views: bool) -> dict[str, float]:
    import engine

    from .project import CountSummaries, Summaries, count_summaries
    from .workload import BenchmarkOrder, OpenOrder

    begun = time.monotonic()
    shop = engine.Engine(
        [BenchmarkOrder],
        projections=[Summaries] if views else [],
        answers=[count_summaries] if views else [],
        store=f"sqlite:{path}",
    )
    async with shop:
        receipt = await shop.execute(OpenOrder("after-the-kill", "mouse", 1))
        done = time.monotonic()
        told = {"begun": begun, "done": done, "position": receipt.position}
        if views:
            found = await shop.query(CountSummaries(1), at=receipt, timeout=600)
            told |= {"seen": time.monotonic(), "changes": found[0][1]}
    return told


async def _write(path: str, events: int) -> None:
    import engine

    from .project import CountSummaries, Summaries, count_summaries
    from .workload import BenchmarkOrder
    from .writers import CLIENTS, clients, write_for

    shop = engine.Engine(
        [BenchmarkOrder],
        projections=[Summaries],
        answers=[count_summaries],
        store=f"sqlite:{path}",
    )
    async with shop:
        await shop.query(CountSummaries(1), at=events, timeout=3_600)

        async def execute(command: Any) -> None:
            await shop.execute(command)
            os.write(1, b".")

        # Their orders are not those that the log is full of.
        await write_for(execute, clients(first=CLIENTS), float("inf"))


if __name__ == "__main__":
    main(*sys.argv[1:])
