"""A program that holds a shop open until its input ends, and where programs are started."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
HOLD = """
import asyncio, sys
from domain.shop import open_shop

async def hold():
    async with open_shop(sys.argv[1]):
        print("open", flush=True)
        sys.stdin.read()

asyncio.run(hold())
"""
