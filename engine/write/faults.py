"""Whose fault it is that a command failed: of the code that decided it, or of what was sent.

Rules: a text with half a character can be stored nowhere, and some texts can be neither claimed
nor tags. A bool is an int to a type checker, and to no reader of JSON. If the command itself has
that value, its caller must send another one. Nothing is looked at before a command has failed, and
a field of the command is named, never its value.
"""

from __future__ import annotations

import msgspec

from ..errors import InvalidInput
from ..model.decisions import claimable
from ..model.messages import Command
from ..model.tags import no_tag

__all__ = ["fault_of_the_caller"]


def fault_of_the_caller(command: Command, cause: BaseException) -> InvalidInput | None:
    """Give what its caller is told if the command has what the code failed at; None if not."""
    behind = cause.__cause__
    if isinstance(cause, UnicodeEncodeError) or isinstance(behind, UnicodeEncodeError):
        for field in command.__struct_fields__:
            if _has_half(getattr(command, field)):
                return _told(command, field, "has half a character (a lone surrogate)")
    elif isinstance(behind, msgspec.ValidationError):
        return _of_another_type(command)
    elif isinstance(behind, InvalidInput):
        for field in command.__struct_fields__:
            value = getattr(command, field)
            if str(behind) in _faults(value):
                return _told(command, field, f"cannot be claimed: {behind}")
            if isinstance(value, str | int) and no_tag(str(value)) == str(behind):
                return _told(command, field, f"cannot be a tag: {behind}")
    return None


def _of_another_type(command: Command) -> InvalidInput | None:
    """Look whether the command itself has what no reader of JSON takes for its types."""
    try:
        msgspec.json.decode(msgspec.json.encode(command), type=type(command))
    except msgspec.ValidationError as error:
        return InvalidInput(
            f"{type(command).__name__} has a value of another type than it declares: {error}. "
            f"Nothing was written: give the declared type."
        )
    except Exception:  # JSON does not know one of its types: whose fault it is stays open
        return None
    return None


def _told(command: Command, field: str, what: str) -> InvalidInput:
    return InvalidInput(
        f"{type(command).__name__}.{field} {what}. Nothing was written: send another text."
    )


def _has_half(value: object) -> bool:
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        return True
    except Exception:  # it is of a type that JSON does not know: the fault is another one
        return False
    return False


def _faults(value: object) -> list[str]:
    """Say why a text cannot be claimed, without what stands around it, and with it."""
    found: list[str] = []
    for text in (value, value.strip()) if isinstance(value, str) else ():
        try:
            claimable(text)
        except InvalidInput as error:
            found.append(str(error))
    return found
