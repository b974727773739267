"""Which mutants a run plants that does not plant all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.mutants import due as chosen
from tests.mutants.due import due

NAMES = {f"m{n}": [f"engine/{n}.py", f"tests/test_{n}.py"] for n in range(100)}


def commit(tree: Path, count: int = 1) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    for _ in range(count):
        for command in (["add", "."], [*who, "commit", "-q", "--allow-empty", "-m", "a"]):
            subprocess.run(["git", "-C", str(tree), *command], check=True)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(chosen, "COMMITS", 2)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "engine").mkdir()
    commit(tmp_path, 3)
    return tmp_path


def test_what_changed_lately_is_due_and_each_other_one_in_its_turn(tree: Path) -> None:
    seen: list[set[str]] = []
    for _ in range(chosen.PARTS):
        (tree / "engine/7.py").write_text(f"{len(seen)}")
        commit(tree, chosen.COMMITS)
        seen.append(due(NAMES, tree))

    assert set.intersection(*seen) == {"m7"}
    assert set.union(*seen) == set(NAMES)
    assert max(len(part) for part in seen) < len(NAMES) / 2


def test_what_is_not_committed_yet_is_due(tree: Path) -> None:
    before = due(NAMES, tree)
    other = next(n for n in range(100) if f"m{n}" not in before)
    (tree / f"engine/{other}.py").write_text("")

    assert due(NAMES, tree) == before | {f"m{other}"}


def test_all_are_due_where_the_history_is_too_short(tree: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    clone = ["git", "clone", "-q", "--depth", "2", tree.as_uri(), str(shallow)]
    subprocess.run(clone, check=True, capture_output=True)

    assert due(NAMES, shallow) == set(NAMES)
    assert due(NAMES, tmp_path / "nothing") == set(NAMES)
