"""What a caller gives beside a message, checked and made the engine's own before anything is taken.

Rules: what comes out is exactly a str, an int, a float or a dict of this call alone: nothing that
the caller changes later changes it, and no method of a class of the caller's is called on it again.
What does not fit is InvalidInput that names the argument. It shows no value but short strings and
numbers: another object's own words are never asked for. This file knows no engine.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from types import CoroutineType
from typing import Final, TypeVar, cast

from ..errors import DefinitionError, InvalidInput

__all__ = [
    "SECONDS_MAX",
    "WHOLE_MAX",
    "as_function",
    "as_headers",
    "as_instance",
    "as_seconds",
    "as_text",
    "as_whole",
    "listed",
    "made_twice",
    "named",
    "shown",
]

T = TypeVar("T")

SECONDS_MAX: Final = 1e9
"""More than thirty years: whoever gives more, or infinity, is not told apart from that."""
WHOLE_MAX: Final = 2**63 - 1
"""What a column of the log can hold."""
_NAMES_TOLD: Final = 20
_SHOWN_BITS: Final = 128
_SHOWN_CHARACTERS: Final = 60


def made_twice(given: type, known: Iterable[type]) -> str:
    """Say so where a class is another one of a name that is known: its code was run again."""
    if any(one.__name__ == given.__name__ and one is not given for one in known):
        return (
            f" There is another class {given.__name__} here: its module was loaded again, or its "
            f"cell was run again. Make a new engine of the new classes."
        )
    return ""


def named(value: object) -> str:
    """Give what a value is by its type, as `a list` or `an int`."""
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"


def shown(value: object) -> str:
    """Give a value as an error may show it: a short string or a number, else its type."""
    kind = type(value)
    if kind is int:
        bits = cast("int", value).bit_length()
        # Python writes no number of thousands of digits.
        return str(value) if bits <= _SHOWN_BITS else f"a number of {bits} bits"
    if value is None or kind is float or kind is bool:
        return repr(value)
    if kind is str:
        return ascii(value)[:_SHOWN_CHARACTERS]
    if kind is CoroutineType:
        return "a coroutine, which nobody awaited"
    return named(value)


def listed(names: Sequence[str]) -> str:
    """Give names in a row for a message, and how many are left out of a long one."""
    told = ", ".join(names[:_NAMES_TOLD]) or "none"
    more = len(names) - _NAMES_TOLD
    return f"{told} and {more} more" if more > 0 else told


def as_instance(what: str, value: object, cls: type[T]) -> T:
    """Give what an engine is made with, or a new one for None; else raise DefinitionError."""
    if value is None:
        return cls()
    if isinstance(value, cls):
        return value
    raise DefinitionError(f"{what}= is a {cls.__name__}, as {cls.__name__}(), not {shown(value)}")


def as_function(what: str, value: T) -> T:
    """Give a function whose answer is used as soon as it is called; else raise DefinitionError.

    One that is async or yields does nothing when it is called: nobody would see that.
    """
    if not callable(value):
        raise DefinitionError(f"{what}= is a function, not {named(value)}")
    called: object = value
    for each in (called, inspect.getattr_static(type(called), "__call__", None)):
        if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each):
            raise DefinitionError(f"{what}= is async, and nothing awaits it: write it with def")
        if inspect.isgeneratorfunction(each):
            raise DefinitionError(f"{what}= yields, and nothing asks for that: let it return")
    return value


def as_text(what: str, value: object, characters_max: int | None = None) -> str:
    """Give a string that can be stored; with a maximum, it has a character at least."""
    if type(value) is str and value.isascii() and 0 < len(value) <= (characters_max or len(value)):
        return value  # most often so
    # Not isinstance, which believes what an object says of its own class.
    if not issubclass(type(value), str):
        raise InvalidInput(f"{what} is a string, not {named(value)}. Nothing was run.")
    text = str.__str__(cast("str", value))
    if characters_max is not None and not 0 < len(text) <= characters_max:
        raise InvalidInput(
            f"{what} is a string of 1 to {characters_max} characters, not one of {len(text)}. "
            f"Nothing was run."
        )
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"{what} has a lone surrogate at character {error.start}, as bytes that are no "
                f"UTF-8 become one: it cannot be stored. Nothing was run."
            ) from None
    return text


def as_whole(what: str, value: object, least: int = 0, most: int = WHOLE_MAX) -> int:
    """Give a whole number within its bounds; True and False are none."""
    kind = type(value)
    number = -1
    if issubclass(kind, int) and kind is not bool:
        number = int.__index__(cast("int", value))
        value = number
    if number < least:
        raise InvalidInput(f"{what} is a whole number from {least} on, not {shown(value)}")
    if number > most:
        raise InvalidInput(f"{what} is a whole number up to {most}, not {shown(value)}")
    return number


def as_seconds(what: str, value: object) -> float:
    """Give a number of seconds, which may be negative; a huge one is SECONDS_MAX."""
    kind = type(value)
    number: float = float("nan")
    if issubclass(kind, float):
        number = float.__float__(cast("float", value))
    elif issubclass(kind, int) and kind is not bool:
        number = int.__index__(cast("int", value))
    if number != number:
        raise InvalidInput(f"{what} is a number of seconds, not {shown(value)}. Nothing was run.")
    # As whole numbers are compared: one of hundreds of digits becomes no float.
    return float(min(max(number, -SECONDS_MAX), SECONDS_MAX))


def as_headers(value: object) -> dict[str, str]:
    """Give headers as a dict of this call alone."""
    found = shown(value)
    try:
        if not isinstance(value, Mapping):
            raise TypeError
        pairs = dict(cast("Mapping[object, object]", value)).items()
    except Exception as error:
        raise InvalidInput(
            f"headers map strings to strings, and {found} could not be read as such "
            f"({type(error).__name__}). Nothing was run."
        ) from error
    return {as_text("a name in headers", k): as_text("a value in headers", v) for k, v in pairs}
