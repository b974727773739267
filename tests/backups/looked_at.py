"""Verifies a log from outside, with nothing shown."""

from __future__ import annotations

from engine.outside.verifying import verify_log
from engine.runtime.ports import Ports
from engine.stores.contract.verifying import Finding
from engine.stores.urls import open_backend


class Lane:
    """Shows nothing, and rests not at all."""

    def progress(self, position: int, end: int) -> None:
        pass

    def rest(self) -> None:
        pass


def verified(store: str) -> tuple[int, list[str]]:
    """Give how many tags were looked at, and what is wrong."""
    outside, found = open_backend(store).outside(Ports()), list[Finding]()
    done = verify_log(outside.copy_source(), outside.structure(), found.append, Lane())
    return done.tags, [f"{each.wrong} {each.position}: {each.text}" for each in found]
