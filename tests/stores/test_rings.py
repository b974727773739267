"""Rings that are waited for, and missed by nobody who had not yet heard of them."""

from __future__ import annotations

import asyncio

from engine.runtime.ring import Ring

LONG = 3_600.0


async def test_who_knew_of_fewer_rings_does_not_wait() -> None:
    ring = Ring()
    known = ring.count
    ring.ring()
    async with asyncio.timeout(60):
        await ring.wait(known, LONG)


async def test_a_ring_wakes_all_and_only_once() -> None:
    ring = Ring()
    waiting = [asyncio.ensure_future(ring.wait(0, LONG)) for _ in range(3)]
    await asyncio.sleep(0)
    ring.ring()
    await asyncio.wait_for(asyncio.gather(*waiting), 60)

    later = asyncio.ensure_future(ring.wait(ring.count, LONG))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not later.done()
    later.cancel()


async def test_a_pause_ends_without_a_ring() -> None:
    await Ring().wait(0, 0.001)
