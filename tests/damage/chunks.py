"""So many flips in a row, on files made for them; what became of them is a line of a ledger."""

from __future__ import annotations

import asyncio
import logging
import signal
import tempfile
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from .flipping import Flip, Flipper
from .given import given

__all__ = ["CHUNK", "Chunk", "flipped", "left_alone", "noted"]

CHUNK = 500
"""Flips that one process does at a time, and that the ledger notes together."""


class Chunk(msgspec.Struct, frozen=True):
    """What became of so many flips, from `first` on; a line of the ledger."""

    seed: int
    first: int
    flips: int
    found: list[tuple[str, str, int]]
    """File, outcome, and how many."""
    unseen: list[str]


def left_alone() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process says when to end


def noted(ledger: Path, seed: int) -> dict[int, Chunk]:
    """Give the whole chunks of a seed that earlier runs have done, by their first flip."""
    chunks: list[Chunk] = []
    for line in ledger.read_bytes().splitlines() if ledger.exists() else ():
        with suppress(msgspec.MsgspecError):  # the last one, of a run that was killed
            chunks.append(msgspec.json.decode(line, type=Chunk))
    return {c.first: c for c in chunks if c.seed == seed and c.flips == CHUNK}


def flipped(seed: int, first: int, flips: int, folder: Path | None) -> Chunk:
    """Make files, and flip bits in them."""
    logging.disable()  # the poison of the sink would be shown each time
    memory = Path("/dev/shm")
    where = folder or (memory if memory.is_dir() else None)
    found: Counter[tuple[str, str]] = Counter()
    unseen: list[str] = []
    with tempfile.TemporaryDirectory(dir=where, prefix="damage-") as made:
        files = asyncio.run(given(Path(made)))
        with closing(Flipper(files, seed)) as flipper:
            for number in range(first, first + flips):
                flip = flipper.flip(number)
                found[flip.file, flip.outcome] += 1
                if flip.outcome not in ("told", "no meaning"):
                    unseen.append(said(flip, flipper))
    counts = [(file, outcome, count) for (file, outcome), count in sorted(found.items())]
    return Chunk(seed, first, flips, counts, unseen)


def said(flip: Flip, flipper: Flipper) -> str:
    where = f"byte {flip.byte}, bit {flip.bit} of {flip.file}"
    return f"{flip.outcome} {flip.number}, {where}: {flipper.difference(flip)}"
