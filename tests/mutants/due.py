"""Which mutants are due in a run that cannot plant all: what changed lately, and a part by turns.

A mutant may survive today though it was caught yesterday if its file, its tests or itself changed.
So those of the last `COMMITS` commits are always due. The others may survive because of a change
elsewhere: a part of them is due, by the hash of their names, and another part after as many
commits. So each one is planted at least once in `PARTS * COMMITS` commits. Which are due follows
from the commit alone: a run can be repeated. Where the history does not go back so far, as in a
clone without depth, all are due.
"""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path

COMMITS = 80
PARTS = 4


def due(names: dict[str, list[str]], tree: Path) -> set[str]:
    """Choose names of mutants.

    Args:
        names: of each mutant, the files by whose change it may survive, from the root of the tree.
        tree: a checkout of a git repository.
    """
    changed = _changed(tree)
    if changed is None:
        return set(names)
    turn = int(_git(tree, "rev-list", "--count", "HEAD")) // COMMITS
    return {
        name
        for name, files in names.items()
        if not changed.isdisjoint(files) or zlib.crc32(name.encode()) % PARTS == turn % PARTS
    }


def _changed(tree: Path) -> set[str] | None:
    """Give the files that differ from so many commits before; None where nobody knows them."""
    try:
        base = _git(tree, "rev-parse", "--verify", f"HEAD~{COMMITS}")
        told = _git(tree, "diff", "--name-only", base)
        return {*told.splitlines(), *_git(tree, "ls-files", "--others").splitlines()}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(tree: Path, *arguments: str) -> str:
    """Run a command of git's; raise `CalledProcessError` if it fails, `OSError` without git."""
    command = ["git", "-C", str(tree), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
