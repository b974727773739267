"""Engines that are made again and again, as by tenants: they leave nothing behind."""

from __future__ import annotations

import gc
from pathlib import Path

import msgspec

from domain.shop import open_shop


async def test_an_engine_that_was_closed_leaves_no_class_behind(tmp_path: Path) -> None:
    async def classes_after(name: str) -> int:
        async with open_shop(f"sqlite:{tmp_path}/{name}.db"):
            pass
        gc.collect()
        return len(msgspec.Struct.__subclasses__())

    first = await classes_after("first")

    assert [await classes_after(f"next-{number}") for number in range(3)] == [first] * 3
