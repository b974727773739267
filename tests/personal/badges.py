"""A hotel's badges: a projection that keeps names of guests, and what tests of erasures look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import Engine, Meta, Projection, Row, Table, projects
from tests.personal.hotel import Guest, Registered
from tests.support.waiting import until


class BadgeRow(Row, key="guest"):
    guest: str
    name: str


class Badges(Projection, name="badges", version=1):
    rows: Table[BadgeRow]

    @projects
    def registered(self, event: Registered, meta: Meta) -> None:
        self.rows.put(BadgeRow(meta.id, event.name))


def badged(store: str, *projections: type[Projection], **options: Any) -> Engine:
    return Engine([Guest], projections=projections, store=store, **options)


async def folded(engine: Engine) -> None:
    await until(lambda: not any(p.lag_events for p in engine.statistics().projectors.values()))


def having(folder: Path, text: str) -> Sequence[str]:
    return sorted(p.name for p in folder.iterdir() if text.encode() in p.read_bytes())
