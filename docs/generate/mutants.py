"""The tables of mutants: each planted bug, and the test that caught it, promise by promise."""

from __future__ import annotations

import re
from pathlib import Path

from tests.mutants.__main__ import load, load_catches

from .markdown import cell, table

__all__ = ["tables"]


def tables(promises: Path) -> str:
    """Give a table for each promise, with the promises' titles out of their own page."""
    mutants, catches = load([]), load_catches()
    parts: list[str] = []
    for number, title in re.findall(r"^### (\d+)\. (.*)$", promises.read_text(), re.MULTILINE):
        rows = [
            [
                f"`{name}`",
                cell(mutant.breaks) + (" *Seeds.*" if mutant.simulated else ""),
                f"`{_test(catches.get(name, mutant.tests[0] if mutant.tests else ''))}`",
            ]
            for name, mutant in mutants.items()
            if mutant.promise == int(number)
        ]
        parts.append(f"## {number}. {title}\n\n{table(['mutant', 'bug', 'caught by'], rows)}\n")
    return "\n".join(parts)


def _test(node: str) -> str:
    return node.removeprefix("tests/").replace(".py", "") or "simulation"
