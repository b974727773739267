"""The harness of the crashes is sharp: it dies at every place, and its judge sees what is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from engine.runtime.ports import FAILPOINTS, SWAP_FAILPOINTS

from .__main__ import CANNOT
from .cells import trail
from .dying import CALL_PLACES
from .judge import judge
from .kills import place_of
from .story import Image, Logged, Operation, Seen, Story, Told, View

ROOT = Path(__file__).parents[2]


def crashes(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.crashes", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_hundred_seeds_die_at_every_failpoint_and_at_every_call() -> None:
    places = {place_of(seed) for seed in range(100)}

    assert {*FAILPOINTS, *SWAP_FAILPOINTS} <= {place.name for place in places}
    assert set(CALL_PLACES) <= places


def test_what_killed_processes_leave_holds() -> None:
    done = crashes("kills", "--trials", "6")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 trials, 0 bad" in done.stdout


@pytest.mark.slow
def test_processes_that_share_a_log_lose_and_double_nothing() -> None:
    done = crashes("members", "--trials", "1")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 trials of 10 rounds, 0 bad" in done.stdout


@pytest.mark.slow
def test_processes_that_share_a_log_in_a_server_lose_and_double_nothing() -> None:
    done = crashes("members", "--store", "postgresql", "--trials", "1", "--rounds", "4")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 trials of 4 rounds, 0 bad" in done.stdout


@pytest.mark.slow
def test_processes_that_own_a_log_together_lose_and_double_nothing() -> None:
    done = crashes(
        *("members", "--store", "postgresql", "--spread", "--trials", "1", "--rounds", "2")
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 trials of 2 rounds, 0 bad" in done.stdout


def test_a_cluster_that_cannot_run_here_is_no_success() -> None:
    done = crashes("patroni", "--packages", "nowhere")

    assert done.returncode == CANNOT
    assert done.stdout.startswith("no cluster can run here: there is no ")


def test_a_disk_that_lies_about_its_syncs_is_found_out() -> None:
    done = crashes("power", "--lying", "--trials", "3")

    if done.returncode == CANNOT:
        assert done.stdout.startswith("the power cannot be cut here: ")
    else:
        assert done.returncode == 1, done.stdout + done.stderr
        assert "P1: operation" in done.stdout


# -- the judge ------------------------------------------------------------------------------------


def story() -> Story:
    """A life in which one command was acknowledged and one rejected, and a quiet one."""
    first, second = trail(0, 1, 0), trail(trail(0, 1, 0), 1, 1)
    log = [
        Logged(1, "cell:c", 1, 1, 5, 0, 2, "k1"),
        Logged(2, "cell:c", 2, 1, 5, 1, 2, None),
        Logged(3, "cell:d", 1, 3, 1, 0, 1, "k3"),
    ]
    view = View({"c": (10, 2, second), "d": (1, 1, trail(0, 3, 0))}, {1: 2, 3: 1})
    early = Image(0, ["wal", "wal"], [], log[:2], {"cells": 1}, View({}, {}), 0)
    early.view.cells["c"] = (5, 1, first)
    reached = {"cells": 3, "operations 0": 3, "operations 1": 3}
    late = Image(1, ["wal", "wal"], [], log, reached, view, 1)
    return Story(
        0,
        operations=[Operation(1, 0, "c", 5, 2, 0), Operation(2, 0, "c", -50, 1, 0)],
        told=[
            Told(0, "receipt", 1, "c", version=2, position=2),
            Told(0, "rejected", 2, "c", version=2, total=10, trail=second),
            Told(1, "receipt", 1, "c", version=2, position=2),
            Told(1, "rejected", 2, "c", version=2, total=10, trail=second),
        ],
        images=[early, late],
        seen=Seen(list(log), view),
        ends=["killed", "lived"],
    )


def test_a_story_that_holds_together_has_no_problem() -> None:
    assert judge(story()) == []


def logged(place: int, **changed: object) -> Callable[[Story], None]:
    def change(story: Story) -> None:
        for image in story.images:
            if place < len(image.log):
                image.log[place] = msgspec.structs.replace(image.log[place], **changed)

    return change


def told(place: int, **changed: object) -> Callable[[Story], None]:
    def change(story: Story) -> None:
        story.told[place] = msgspec.structs.replace(story.told[place], **changed)

    return change


def lost(story: Story) -> None:
    del story.images[0].log[:]
    story.images[0].checkpoints.clear()
    story.images[0].view.cells.clear()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lost, "P1: operation 1 was acknowledged in life 0"),
        (lambda s: s.images[0].complaints.append("torn"), "P1: integrity: torn"),
        (lambda s: s.images[0].journal_modes.append("delete"), "P1: the journal modes"),
        (logged(1, part=2), "P2: operation 1 has parts [0, 2] of 2"),
        (logged(1, stream="cell:d"), "do not stand together"),
        (logged(1, version=3), "P3: cell:c has version 3"),
        (logged(1, position=4), "P4: position 4 stands in place 2"),
        (lambda s: s.images[1].log.reverse(), "P3: what the log had before"),
        (lambda s: s.seen.log.pop(), "P3: the engine shows another log"),
        (told(1, operation=1), "P6: operation 1 was rejected, and is in the log"),
        (told(1, what="error", error="Boom"), "P6: operation 2 was answered Boom for no reason"),
        (told(1, what="unknown", error="Lost"), "P6: operation 2 was answered Lost"),
        (told(3, operation=7), "had no answer, or several, in the last life: [2]"),
        (told(1, total=11), "tells a state that the log does not have"),
        (told(1, version=9), "tells a state that the log does not have"),
        (told(0, position=1), "P8: operation 1 has"),
        (told(3, operation=1), "P8: operation 1 was acknowledged, and later rejected"),
        (logged(2, key="k1"), "P8: key k1 is there 2 times"),
        (logged(2, key=None), "P8: the events of operation 3 have the keys [None]"),
        (lambda s: s.images[1].checkpoints.update(cells=4), "P9: cells is at 4"),
        (lambda s: s.images[0].view.cells.clear(), "P9: the view of the cells is {}"),
        (lambda s: s.images[1].view.operations.pop(1), "P9: the view of the operations differs"),
        (lambda s: s.images[1].parked.append(2), "P9: the view of the operations differs"),
        (lambda s: s.images[1].parked.append(2), "is parked, and nothing before it fails"),
        (lambda s: s.images[1].parked.append(1), "is folded, and one before it is parked"),
        (lambda s: setattr(s, "seen", None), "the last life did not come to its end"),
        (lambda s: s.problems.append("it hung"), "it hung"),
    ],
)
def test_the_judge_sees_what_is_wrong(change: Callable[[Story], None], problem: str) -> None:
    broken = story()
    change(broken)

    assert [found for found in judge(broken) if problem in found]


def test_a_disk_that_failed_excuses_what_was_not_done_and_no_yes() -> None:
    cut = story()
    cut.cut = True
    told(1, what="unknown", error="StoreFailed")(cut)

    assert judge(cut) == []
    lost(cut)
    assert [found for found in judge(cut) if "P1: operation 1 was acknowledged" in found]
