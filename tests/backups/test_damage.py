"""Flipped bits in each file of a log and of a backup: a sample of `python -m tests.damage`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    assert told >= {"rest.db", "rest.views.db", "left.db", "events", "beside", "manifest.json"}
