"""Flipped bits in each file of a log and of a backup: a sample of `python -m tests.damage`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.damage.chunks import CHUNK, Chunk, noted
from tests.damage.flipping import Flipper
from tests.damage.given import given

FLIPS = 150


@pytest.fixture
def flipper(tmp_path: Path) -> Iterator[Flipper]:
    flipper = Flipper(asyncio.run(given(tmp_path)), seed=1)
    yield flipper
    flipper.close()


def test_no_flipped_bit_that_matters_goes_unseen(flipper: Flipper) -> None:
    flips = [flipper.flip(number) for number in range(FLIPS)]

    assert [flip for flip in flips if flip.outcome == "UNSEEN"] == []
    told = {flip.file.partition("-0")[0] for flip in flips if flip.outcome == "told"}
    assert told >= {
        "rest.db",
        "rest.views.db",
        "left.db",
        "cold.archive.db",
        "events",
        "beside",
        "manifest.json",
    }


def test_a_run_of_flips_goes_on_where_one_that_was_killed_had_ended(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    chunks = [Chunk(seed, n * CHUNK, CHUNK, [], []) for seed, n in ((1, 0), (2, 1), (1, 2))]
    lines = [msgspec.json.encode(chunk) for chunk in chunks]
    ledger.write_bytes(b"\n".join([*lines, lines[0][:20]]))

    assert list(noted(ledger, 1)) == [0, 2 * CHUNK]
