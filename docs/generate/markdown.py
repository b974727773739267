"""Markdown out of values: tables, and text of docstrings as a cell of one."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

__all__ = ["cell", "explained", "table"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """Give a text as one line that ends no cell and is no HTML, but for what is code in it."""
    pieces = " ".join(text.split()).split("`")
    pieces[::2] = [piece.replace("|", "\\|").replace("<", "&lt;") for piece in pieces[::2]]
    return "`".join(pieces)


def explained(path: Path, within: str | None = None) -> Iterator[tuple[str, str, str]]:
    """Give each name of a file, or of a class in it, that has a value and a docstring below it.

    Name, value as it is written, docstring.
    """
    body = ast.parse(path.read_text()).body
    if within is not None:
        (body,) = (n.body for n in body if isinstance(n, ast.ClassDef) and n.name == within)
    for node, below in itertools.pairwise(body):
        target: ast.expr | None = None
        if isinstance(node, ast.Assign):
            target = node.targets[0]
        elif isinstance(node, ast.AnnAssign):
            target = node.target
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if not isinstance(target, ast.Name) or value is None or not isinstance(below, ast.Expr):
            continue
        if isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            yield target.id, ast.unparse(value), below.value.value
