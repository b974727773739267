"""How commands, errors and what operators are told travel between processes and stay the same.

Rules: a command arrives as it was sent, or is refused where it was sent. An error arrives as the
same class, if the other process has that class, or else as the nearest one that both have. Only
classes of EngineError are made of what comes, and none by its constructor. Values of an error that
MessagePack has no word for (a Decimal, a date) arrive as texts. Nothing is imported because of a
name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

import msgspec

from ..errors import EngineError, InvalidInput, OutcomeUnknown
from ..model.messages import Command
from ..model.sameness import first_difference
from ..runtime.safely import text_of

__all__ = ["CommandForms", "as_failure", "decode_values", "encode_values", "error_of"]

C = TypeVar("C")


def _as_text(value: object) -> str:
    """Give what a value of the host's says of itself, or the name of its class."""
    try:
        return str(value).encode("utf-8", "replace").decode()
    except Exception:
        return type(value).__name__


_values: Final = msgspec.msgpack.Encoder(enc_hook=_as_text)


class CommandForms:
    """The commands of one engine, by name."""

    def __init__(self, commands: Sequence[type[Command]]) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoders: Mapping[str, msgspec.msgpack.Decoder[Command]] = {
            _name_of(cls): msgspec.msgpack.Decoder(cls) for cls in commands
        }
        self._names = {cls: _name_of(cls) for cls in commands}

    def encode(self, command: Command) -> tuple[str, bytes]:
        """Give a command's name and body; raise InvalidInput if it would arrive changed."""
        name = self._names[type(command)]
        try:
            body = self._encoder.encode(command)
            changed = first_difference(command, self._decoders[name].decode(body))
        except Exception as error:
            raise InvalidInput(
                f"{type(command).__name__} cannot be sent to the process that owns the log"
                f"{_place_of(error)}: give its fields values of their types. Nothing was run."
            ) from error
        if changed is not None:
            raise InvalidInput(
                f"{type(command).__name__}{changed} would arrive as something else in the process "
                f"that owns the log: give a value of the declared type. Nothing was run."
            )
        return name, body

    def decode(self, name: str, body: bytes) -> Command:
        """Give the command; raise InvalidInput if this process does not know it so."""
        decoder = self._decoders.get(name)
        if decoder is None:
            raise InvalidInput(
                f"the process that owns the log has no command {name!r:.200}: it runs another "
                f"release. Nothing was run."
            )
        try:
            return decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InvalidInput(
                f"the process that owns the log declares {name!r:.200} otherwise"
                f"{_place_of(error)}: it runs another release. Nothing was run."
            ) from error


def _place_of(error: Exception) -> str:
    """Say where a value is malformed, without the value."""
    _, found, place = str(error).rpartition(" - at ")
    return f" (at {place})" if found else f" ({type(error).__name__})"


def _name_of(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


# -- errors -----------------------------------------------------------------------------------


def as_failure(error: BaseException) -> tuple[tuple[str, ...], bytes]:
    """Give the names of an error's classes, and its values."""
    if not isinstance(error, EngineError):
        error = OutcomeUnknown(f"the process that owns the log failed with {text_of(error)}")
    classes = tuple(_name_of(cls) for cls in type(error).__mro__ if issubclass(cls, EngineError))
    attributes = {name: value for name, value in vars(error).items() if name != "__notes__"}
    return classes, encode_values([list(error.args), attributes])


def error_of(classes: Sequence[str], values: bytes) -> EngineError:
    """Give the error that these came from, as near as this process knows it."""
    known = {_name_of(cls): cls for cls in _errors(EngineError)}
    cls = next((known[name] for name in classes if name in known), EngineError)
    args, attributes = cast("tuple[list[Any], dict[str, Any]]", msgspec.msgpack.decode(values))
    error = cls.__new__(cls)
    error.args = tuple(args)
    vars(error).update(attributes)
    return error


def _errors(cls: type[EngineError]) -> Iterator[type[EngineError]]:
    yield cls
    for inner in cls.__subclasses__():
        yield from _errors(inner)


# -- what operators send and are told ---------------------------------------------------------


def encode_values(values: object) -> bytes:
    """Encode values of any kind."""
    try:
        return _values.encode(values)
    except Exception:  # a number that is too large, half a character: said as text
        return _values.encode(_in_texts(values))


def _in_texts(values: object) -> object:
    if isinstance(values, dict):
        found = cast("dict[object, object]", values)
        return {_as_text(name): _in_texts(value) for name, value in found.items()}
    if isinstance(values, list | tuple):
        return [_in_texts(value) for value in cast("Sequence[object]", values)]
    if values is None or isinstance(values, bool | float):
        return values
    if isinstance(values, int) and -(2**63) <= values < 2**63:
        return values
    return _as_text(values)


def decode_values(body: bytes, as_type: type[C]) -> C:
    """Decode what `encode_values` gave; raise ValueError for anything else."""
    return msgspec.msgpack.decode(body, type=as_type)
