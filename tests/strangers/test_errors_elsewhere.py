"""Errors of the engine that cross to another process, or are copied: they come as they were."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import engine
from engine import (
    ArchiveUnread,
    BrokerFailed,
    Conflict,
    Damaged,
    EngineError,
    EventUnread,
    Forbidden,
    ProjectionFailed,
    ProjectionLag,
    ProjectionUnserved,
    ReactionTooDeep,
    Rejected,
    StoreFailed,
    StoreLocked,
    WrongVersion,
)
from engine.integrations.asgi import BadRequest
from engine.projections.targets.courier import Abandoned

WITH_MORE: list[EngineError | BadRequest] = [
    StoreFailed("the disk is gone", written=None),
    StoreLocked("in use", briefly=True),
    BrokerFailed("no stream", passes=True),
    Rejected("too-many", "there are not so many", left=3, sku="tea"),
    Conflict("order:1", 3, 4),
    WrongVersion("order:1", 3, 4),
    EventUnread("sold", 2, ("process 7",)),
    Damaged(7, "a flipped bit"),
    ArchiveUnread(7, "shop.archive.db", "the file is not there"),
    Forbidden("no", "mallory", "execute"),
    ProjectionFailed("sales", 3, "sold", "KeyError"),
    ProjectionLag(7, {"sales": 3}, {"sales": "stopped"}),
    ProjectionUnserved("sales"),
    ReactionTooDeep("shipping", "order-paid v1", 65, 64),
    Abandoned("given up"),
    BadRequest(400, "bad-key", "no"),
]


class OutOfStock(Rejected):
    """An application's own, whose constructor takes something else."""

    def __init__(self, *, sku: str) -> None:
        super().__init__("out-of-stock", f"no {sku} is left", sku=sku)
        self.sku = sku


def plain() -> list[EngineError]:
    """Give one of each public class that takes a message alone."""
    classes: list[object] = list(vars(engine).values())
    special = {type(error) for error in WITH_MORE}
    found = [
        cls
        for cls in classes
        if isinstance(cls, type) and issubclass(cls, EngineError) and cls not in special
    ]
    assert len(found) > 10
    return [cls("what broke") for cls in found]


def pickled(protocol: int) -> Callable[[Any], Any]:
    return lambda error: pickle.loads(pickle.dumps(error, protocol))


WAYS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle-{number}": pickled(number) for number in range(pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", WAYS)
def test_an_error_comes_as_it_was(way: str) -> None:
    for error in (*WITH_MORE, *plain(), OutOfStock(sku="tea")):
        error.add_note("seen at the till")
        other = WAYS[way](error)

        assert type(other) is type(error)
        assert (str(other), other.args) == (str(error), error.args)
        assert vars(other) == vars(error)
        assert getattr(other, "safe_to_resend", None) == getattr(error, "safe_to_resend", None)
