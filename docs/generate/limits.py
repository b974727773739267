"""The tables of limits: name, default, unit and meaning of each, out of `engine/limits.py`."""

from __future__ import annotations

from pathlib import Path

import engine

from .markdown import cell, explained, table

__all__ = ["tables"]

_UNITS = {
    "_seconds": "seconds",
    "_ms": "milliseconds",
    "_bytes": "bytes",
    "_characters": "characters",
}


def tables(package: Path) -> str:
    """Give the tables."""
    file = package / "limits.py"
    limits = engine.Limits()
    rows = [
        [f"`{name}`", _shown(getattr(limits, name)), _unit(name), cell(text)]
        for name, _, text in explained(file, "Limits")
    ]
    fixed = [
        [f"`{name}`", _shown(int(value.replace("_", ""))), cell(text)]
        for name, value, text in explained(file)
        if not name.startswith("_")
    ]
    return (
        "## Limits of an engine\n\n"
        + table(["name", "default", "unit", "meaning"], rows)
        + "\n\n## Limits that cannot be changed\n\n"
        + table(["name", "value", "meaning"], fixed)
        + "\n\n`KEY_WINDOW` is a default: an aggregate changes it with `key_window=`.\n"
    )


def _unit(name: str) -> str:
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "count")


def _shown(value: int) -> str:
    mebibytes, rest = divmod(value, 1024 * 1024)
    return f"{mebibytes} MiB" if mebibytes and not rest else f"{value:,}"
