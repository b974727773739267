"""Keys that the engine made name places of a former log, which others may get in the new one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engine import Engine
from engine.__main__ import main
from engine.imports.drafts import ExportedDrafts
from engine.imports.events import SourceEvent
from engine.imports.numbering import Numbering
from engine.model.aggregate import definitions_of
from engine.model.codec import decode_metadata
from tests.exports.reminding import Rang, Wind, make_engine
from tests.support.waiting import until

APP = ("--app", "tests.exports.reminding:make_engine")
NOW = 1_800_000_000_000_000


async def rung(engine: Engine, bell: str) -> None:
    """Wind a bell, and wait until its timer has rung it."""
    fired = engine.statistics().timers.fired
    await engine.execute(Wind(bell))
    await until(lambda: engine.statistics().timers.fired == fired + 1)


async def test_a_timer_at_the_place_of_a_former_logs_timer_is_fired(tmp_path: Path) -> None:
    path, lines, again = (str(tmp_path / name) for name in ("a.db", "b.jsonl", "b.db"))
    async with make_engine(f"sqlite:{path}") as engine:
        for bell in "ab":
            await rung(engine, bell)
    assert main(["export", path, "--to", lines, "--stream", "bell:b"]) == 0
    assert main(["import", lines, again, *APP]) == 0

    async with make_engine(f"sqlite:{again}") as engine:
        assert (await engine.execute(Wind("b"))).position == 3, "as in the other log"
        await until(lambda: engine.statistics().timers.fired == 1)
        rang = [logged.meta.position async for logged in engine.feed() if logged.name == "rang"]
    assert rang == [2, 4]


async def test_a_timer_that_was_fired_early_in_a_former_log_is_not_called_lost(
    tmp_path: Path,
) -> None:
    path, lines, again = (str(tmp_path / name) for name in ("a.db", "b.jsonl", "b.db"))
    async with make_engine(f"sqlite:{path}") as engine:
        for bell in "ab":
            await rung(engine, bell)
        await engine.fire_timer("bell:b", "later")
        await until(lambda: engine.statistics().timers.fired == 3)
    assert main(["export", path, "--to", lines, "--stream", "bell:b"]) == 0
    assert main(["import", lines, again, *APP]) == 0
    assert main(["timers", again, "--verify"]) == 0
    assert main(["verify", again]) == 0


KEYS: dict[str, tuple[dict[str, Any], bool]] = {
    "timer": ({"key": "timer:8:soon", "fired": ["bell:b", "soon", 8]}, True),
    "reaction": ({"key": "reaction:echo:8:0", "depth": 1}, True),
    "somebodys": ({"key": "reaction:echo:8:0"}, False),
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("position", [1, 9])
def test_such_a_key_is_left_out_at_another_place_and_kept_at_its_own(
    kind: str, position: int
) -> None:
    more, is_made = KEYS[kind]
    engine = make_engine()
    drafts = ExportedDrafts("a.jsonl", engine.registry, definitions_of(engine.aggregates))
    line: dict[str, Any] = {
        "position": position,
        "recorded": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
        "stream": "bell:b",
        "version": 1,
        "event": Rang.event_name,
        "event_version": 1,
        "payload": {},
        "fingerprint": 7,
        "causation": "bell:a@1",
        **more,
    }

    [draft] = drafts(SourceEvent(place="line 1", data=line, raw=json.dumps(line).encode()))
    metadata = decode_metadata(Numbering(NOW).place(draft))

    is_kept = position == 1 or not is_made
    assert (metadata.key, metadata.fingerprint) == ((more["key"], 7) if is_kept else (None, None))
    assert metadata.causation == "bell:a@1"
