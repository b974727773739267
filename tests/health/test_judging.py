"""What is found is held against its bounds: each number against its own, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine import Health, HealthReport
from engine.health.bounds import CHECKS
from engine.health.facts import Facts, ProjectionFacts
from engine.health.report import Backup, Disk, Found, judge

SINK = ProjectionFacts(
    name="sink",
    kind="sink",
    state="live",
    position=9,
    lag_events=0,
    lag_seconds=0.0,
    parked=0,
)
VIEW = msgspec.structs.replace(SINK, name="view", kind="projection")
FACTS = Facts(
    position=9,
    projections=(VIEW, SINK),
    timers_overdue=0.0,
    timers_parked=0,
    lease_seconds=5.0,
    clock_behind=0.0,
)
DISK = Disk(2 * 1024**3, {"log": 0, "views": 0}, None)
FOUND = Found(
    state="running",
    is_live=True,
    role="owner",
    facts=FACTS,
    disk=DISK,
    disk_answer=0.0,
    backup=Backup(60.0),
)


def with_facts(**changes: Any) -> Found:
    return msgspec.structs.replace(FOUND, facts=msgspec.structs.replace(FACTS, **changes))


def with_view(**changes: Any) -> Found:
    return with_facts(projections=(msgspec.structs.replace(VIEW, **changes), SINK))


def with_sink(**changes: Any) -> Found:
    return with_facts(projections=(VIEW, msgspec.structs.replace(SINK, **changes)))


def with_disk(**changes: Any) -> Found:
    return msgspec.structs.replace(FOUND, disk=msgspec.structs.replace(DISK, **changes))


def changed(**changes: Any) -> Found:
    return msgspec.structs.replace(FOUND, **changes)


def failing(report: HealthReport) -> list[tuple[str, str]]:
    return [(check.name, check.of) for check in report.failing]


@pytest.mark.parametrize(
    ("found", "name", "of", "ready"),
    [
        (changed(state="stopping"), "state", "", False),
        (changed(role="waiting"), "owner", "", False),
        (changed(role="member", owner_says="it did not answer"), "owner", "", False),
        (with_facts(lease_seconds=0.0), "lease", "", False),
        (with_view(state="stopped", failed_at=10), "projection", "view", True),
        (with_view(parked=1), "parked", "view", True),
        (with_view(lag_seconds=60.1), "lag.seconds", "view", True),
        (with_sink(lag_seconds=300.1), "undelivered.seconds", "sink", True),
        (with_facts(timers_overdue=60.1), "timers.overdue", "", True),
        (with_facts(timers_parked=1), "timers.parked", "", True),
        (with_facts(clock_behind=60.1), "clock.behind", "", True),
        (changed(disk_answer=5.1), "disk.answer", "", True),
        (with_disk(free_bytes=1024**3), "disk.bytes", "", True),
        (with_disk(seconds_left=86_400.0), "disk.seconds", "", True),
        (with_disk(wal_bytes={"log": 0, "views": 1024**3 + 1}), "wal.bytes", "views", True),
        (changed(backup=Backup(93_600.1)), "backup.seconds", "", True),
    ],
    ids=str,
)
def test_what_is_beyond_its_bound_is_named_and_nothing_else(
    found: Found, name: str, of: str, ready: bool
) -> None:
    report = judge(found, Health())

    assert failing(report) == [(name, of)]
    assert (report.live, report.ready, report.ok) == (True, ready, False)
    assert report.failing[0].says


def test_within_the_bounds_all_is_well_and_every_check_is_told() -> None:
    report = judge(FOUND, Health(lag_events_max=0))

    assert report.ok
    assert report.ready
    assert {check.name for check in report.checks} == set(CHECKS)


def test_what_nobody_knows_is_told_and_not_wrong() -> None:
    unknown = with_facts(timers_overdue=None, timers_parked=None, lease_seconds=None)
    report = judge(msgspec.structs.replace(unknown, disk=None), Health())

    assert report.ok
    assert next(check for check in report.checks if check.name == "disk.bytes").value is None


def test_a_bound_that_is_off_is_never_exceeded() -> None:
    off = Health(lag_seconds_max=None, disk_bytes_min=None, parked_max=None)
    found = with_view(lag_seconds=1e9, parked=9)

    assert judge(msgspec.structs.replace(found, disk=Disk(0, {}, None)), off).ok


def test_a_check_may_make_unready_too() -> None:
    report = judge(with_view(lag_seconds=61.0), Health(unready=("lag.seconds",)))

    assert (report.live, report.ready) == (True, False)
    assert report.failing[0].decides == "ready"


def test_a_report_comes_back_from_its_json() -> None:
    report = judge(with_view(state="stopped", failed_at=3), Health())

    assert msgspec.json.decode(msgspec.json.encode(report), type=HealthReport) == report
