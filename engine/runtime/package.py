"""What this package is called where it runs: `engine` in its repository, `foldline` in a wheel.

Rules: no file of the package spells the package's name in code that it runs, or in a text that it
prints. A process that is started imports by `PACKAGE`, and a text says `COMMAND`. So one folder
works under each name, also beside a user's own module that has the other one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

__all__ = ["COMMAND", "HOME", "PACKAGE", "bare_import", "release"]

PACKAGE: Final = __name__.removesuffix(".runtime.package")
"""The name under which this package was imported."""
HOME: Final = str(Path(__file__).absolute().parents[PACKAGE.count(".") + 2])
"""The folder that has to be on the path of modules for that name to be found."""
COMMAND: Final = "foldline" if PACKAGE == "foldline" else f"python -m {PACKAGE}"
"""How a user starts the command line. A wheel installs it as a program of its own."""


def bare_import(module: str, names: str) -> str:
    """Give the code by which a child imports names of an inner module without the public page.

    The page, `__init__`, imports the whole engine. A child that serves one store needs a fifth of
    it, and is there in half the time. Every module inside finds the others as ever.
    """
    path = list(sys.modules[PACKAGE].__path__)
    return (
        f"import sys, types; bare = sys.modules[{PACKAGE!r}] = types.ModuleType({PACKAGE!r}); "
        f"bare.__path__ = {path!r}; from {PACKAGE}.{module} import {names}"
    )


def release() -> str:
    """Give the release that is installed; "unknown" where it runs from a checkout."""
    # It reads an archive's and a mail's form, and few ask for a release.
    from importlib import metadata

    try:
        return metadata.version("foldline")
    except metadata.PackageNotFoundError:
        return "unknown"
