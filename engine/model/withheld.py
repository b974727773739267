"""What is told of an error whose own text may quote what is in an event.

Rules: of msgspec's errors the path, the types and the names of fields are told, and no value. Of
what the host's code raises, the type and the place in its source are told, and no text. The error
itself is not passed on: whoever prints a chain of errors would print it. Its traceback is.
"""

from __future__ import annotations

import re
import traceback

import msgspec

from ..errors import EngineError

__all__ = ["Withheld", "is_own_refusal", "text_without_values", "withheld"]

_AT = r"( - at `[^`]*`)?\Z"
_VALUE = re.compile(r"(Invalid (?:enum )?value) .*?" + _AT, re.DOTALL)
_LONG_NAME = re.compile(r"(unknown field `.{60}).*(`)" + _AT, re.DOTALL)


class Withheld(EngineError):
    """Stands for an error with its type and its traceback, and without its text."""


def withheld(error: BaseException) -> Withheld | None:
    """Give what stands for an error as the cause of another; None where its text tells all."""
    own = error.__cause__ if isinstance(error, msgspec.MsgspecError) else error
    if own is None or isinstance(own, EngineError):
        return None
    said = f"{type(own).__qualname__}, whose text may quote the event and is left out"
    return Withheld(said).with_traceback(own.__traceback__)


def is_own_refusal(error: BaseException) -> bool:
    """Tell whether the class that was decoded to raised it, and not the decoder."""
    if isinstance(error, msgspec.MsgspecError):
        return error.__cause__ is not None
    return not isinstance(error, UnicodeDecodeError | RecursionError | MemoryError)


def text_without_values(error: BaseException) -> str:
    """Give what an error says that is no value."""
    if isinstance(error, EngineError):
        return str(error)
    if isinstance(error, msgspec.MsgspecError):
        return _without_values(str(error), error.__cause__)
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested deeper than can be read"
    return _raised(error)


def _without_values(text: str, raised: BaseException | None) -> str:
    if raised is not None:
        # msgspec puts the path behind what the class said.
        said = str(raised)
        return _raised(raised) + text[len(said) :] * text.startswith(said)
    text = _VALUE.sub(lambda found: found[1] + (found[2] or ""), text)
    return _LONG_NAME.sub(lambda found: found[1] + "..." + found[2] + (found[3] or ""), text)


def _raised(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__qualname__}{place}"
