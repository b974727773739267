"""The application of a command that needs its code: imported, looked at, and never started.

Rules: what cannot be imported is told in a line, with the name that was given. The engine that is
found is given back as it was made.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Final

from ..engine import Engine
from ..errors import UsageError

__all__ = ["APP_HELP", "attribute_of", "engine_of"]

APP_HELP: Final = """\
APP is module:attribute, an Engine that is not started or a function that gives one without
arguments, as in shop.main:make_engine."""


def engine_of(app: str) -> Engine:
    """Import the application, and give its engine."""
    found = attribute_of(app)
    engine = found if isinstance(found, Engine) else found() if callable(found) else None
    if not isinstance(engine, Engine):
        raise UsageError(f"{app} is no Engine, and no function that gives one without arguments")
    return engine


def attribute_of(name: str) -> Any:
    """Import a module, and give what is named in it; raise UsageError where there is none."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UsageError(f"{name!r} names nothing to import: write module:attribute")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # where `python -m` looks, and an installed program does not
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{name} cannot be imported from here: {error}") from error
    return found
