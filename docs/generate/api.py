"""The pages of the API: one for each group of `foldline.__all__`, with the docstrings of its names.

Rules: groups, their order and their names are read out of `engine/__init__.py`, where a comment
stands above each. A group that is added there needs a title here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["groups", "pages"]

_TITLES = {
    "Who writes a domain": ("domain", "Domain: messages, aggregates, projections"),
    "Who runs it": ("running", "Running: engine, limits, ports"),
    "Who asks it": ("queries", "Queries: conditions and live answers"),
    "Who looks back": ("history", "History: past states, archive, feed"),
    "Who operates it": ("operations", "Operations: projections, statistics, telemetry"),
    "What is raised": ("errors", "Errors: classes and attributes"),
}


def groups(package: Path) -> Iterator[tuple[str, list[str]]]:
    """Give the comment above each group of public names, and the names."""
    text = (package / "__init__.py").read_text()
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign):
            target = node.targets[0]
        elif isinstance(node, ast.AugAssign):
            target = node.target
        else:
            continue
        if isinstance(target, ast.Name) and target.id == "__all__":
            yield lines[node.lineno - 2].lstrip("# "), ast.literal_eval(node.value)


def pages(package: Path) -> Iterator[tuple[str, str]]:
    """Give path and text of each page."""
    for comment, names in groups(package):
        name, title = _TITLES[re.split(r"[:.]", comment)[0]]
        blocks = "\n\n".join(f"::: foldline.{found}" for found in names)
        yield (
            f"reference/api/{name}.md",
            f"# {title}\n\nImport these from `foldline`.\n\n{blocks}\n",
        )
