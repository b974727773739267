"""Python processes that this one begins: where they import from, and what the machine has for them.

Rules: a child imports what this process has imported, from where it has: nothing of the folder that
is current, and nothing that the environment names. This file begins none.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final

from .package import HOME, bare_import

__all__ = ["can_begin", "child_arguments", "child_environment", "cores", "give_way"]

_KEPT_OF_ENVIRONMENT: Final = ("PYTHONHOME", "PYTHONMALLOC", "PYTHONDONTWRITEBYTECODE")
"""Of Python's own variables; the others name what is to be imported, or how it is run."""
_LOWEST: Final = 19


def can_begin() -> bool:
    """Tell whether this program has an interpreter to begin another process with."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def child_arguments(module: str, *told: object) -> list[str]:
    """Give the arguments of a process that runs `main(*told)` of an inner module."""
    # Of the current folder (-P) and of the user's own modules (-s) nothing is imported.
    code = (
        "import json, sys; told = json.loads(sys.argv[1]); sys.path[:] = told.pop(0); "
        f"{bare_import(module, 'main')}; main(*told)"
    )
    return [sys.executable, "-s", "-P", "-c", code, json.dumps((_modules_path(), *told))]


def _modules_path() -> list[str]:
    """Give where this process imports from, without what depends on the current folder.

    What it has imported from there is found where it was, behind all else.
    """
    entries: list[object] = [*sys.path]  # where some hosts put what is no text, and is passed over
    kept = [entry for entry in entries if isinstance(entry, str) and Path(entry).is_absolute()]
    return kept if HOME in kept else [*kept, HOME]


def child_environment(**more: str) -> dict[str, str]:
    """Give the environment without what tells Python to import something, and with more."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON") or name in _KEPT_OF_ENVIRONMENT
    }
    return kept | more


def cores() -> int:
    """Tell how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def give_way() -> None:
    """Let every other process of the machine have its cores first, until this one ends."""
    os.nice(_LOWEST)
