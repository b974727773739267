"""What these tests share: a world that died in one is buried before the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.testing.simulation.lives import free_the_dead


@pytest.fixture(autouse=True)
def _buried() -> Iterator[None]:
    """Free the dead here, where nobody listens: elsewhere each would raise as it goes."""
    yield
    free_the_dead()
