"""The application of a command that needs its code: imported, looked at, and never started.

Rules: what cannot be imported or made is told in a line, with the name that was given and the place
in the application's code. Code that ends the program meanwhile ends no command: its status would be
taken for the command's. The engine that is found is given back as it was made.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from ..engine import Engine
from ..errors import EngineError, UsageError
from ..stores.urls import store_of_text

__all__ = ["APP_HELP", "attribute_of", "engine_of"]

APP_HELP: Final = """\
APP is module:attribute, an Engine that is not started or a function that gives one, as in
shop.main:make_engine. One that takes a store, as tenants have it, is given that of the log."""


def engine_of(app: str, log: str | None) -> Engine:
    """Import the application, and give its engine; raise UsageError where there is none.

    `log` is what the command was told of a log: a function that takes a store is given its URL.
    """
    found = attribute_of(app)
    if not isinstance(found, Engine) and callable(found):
        make = found
        if _takes_a_store(found):
            if log is None:
                raise UsageError(f"{app} takes a store, and no log is named for it: give --log")
            make = partial(found, _url_of(log))
        found = _run(make, f"{app} gives no engine")
    if inspect.iscoroutine(found):
        found.close()  # it is never awaited, and would be warned about
    if not isinstance(found, Engine):
        raise UsageError(f"{app} is no Engine, and no function that gives one")
    return found


def _takes_a_store(function: Callable[..., Any]) -> bool:
    """Tell whether a function cannot be called without its first argument."""
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        return False  # of C, which has none to look at
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(
        first.default is first.empty and first.kind in positional for first in parameters[:1]
    )


def _url_of(text: str) -> str:
    store = store_of_text(text)
    return store if isinstance(store, str) else f"sqlite:{store}"


def attribute_of(name: str) -> Any:
    """Import a module, and give what is named in it; raise UsageError where there is none."""
    module, _, attribute = name.partition(":")
    if not module or not attribute or module.startswith("."):
        raise UsageError(f"{name!r} names nothing to import: write module:attribute")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # where `python -m` looks, and an installed program does not

    def found() -> Any:
        reached: Any = importlib.import_module(module)
        for part in attribute.split("."):
            reached = getattr(reached, part)
        return reached

    return _run(found, f"{name} cannot be imported from here")


def _run(code: Callable[[], Any], wrong: str) -> Any:
    """Run code of the application; raise UsageError for all that it raises."""
    try:
        return code()
    except EngineError:
        raise
    except SystemExit as error:
        raise UsageError(
            f"{wrong}: its code ended the program{_place(error)}. Put what a script does behind "
            f'`if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise UsageError(f"{wrong}: {kind}{error}{_place(error)}") from error


def _place(error: BaseException) -> str:
    """Say where in the application's code it was raised, if it was there."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename != __file__ and frame.filename[:1] != "<"]
    if not theirs or isinstance(error, SyntaxError) or _is_of_python(theirs[-1].filename):
        return ""
    return f" ({theirs[-1].filename}, line {theirs[-1].lineno})"


def _is_of_python(filename: str) -> bool:
    return Path(filename).parent == Path(importlib.__file__).parent
