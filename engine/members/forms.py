"""How commands, errors and what operators are told travel between processes and stay the same.

Rules: a command arrives as it was sent, or as its declared types take what was sent, or is refused
where it was sent. One that a process of another release does not know so is voided, since the next
one may. An enum's number is told with its name. An error arrives as the
same class, if the other process has that class, or else as the nearest one that both have. Only
classes of EngineError are made of what comes, and none by its constructor. Values of an error that
MessagePack has no word for (a Decimal, a date) arrive as texts. Nothing is imported because of a
name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec import inspect
from msgspec.structs import astuple

from ..errors import DefinitionError, EngineError, InvalidInput, OutcomeUnknown, Voided
from ..model.checking import is_id
from ..model.messages import Command
from ..model.numbers import Names, changed_number, names_in
from ..model.sameness import first_difference
from ..model.shape import has_numbers
from ..runtime.contained import UNREACHED, is_unreached
from ..runtime.safely import as_error, described, text_of
from .moments import decode_with_zones, encode_with_zones, fixed, is_with_zones

__all__ = ["CommandForms", "as_failure", "decode_values", "encode_values", "error_of"]

C = TypeVar("C")


def _as_text(value: object) -> str:
    """Give what a value of the host's says of itself, or the name of its class."""
    try:
        return str(value).encode("utf-8", "replace").decode()
    except BaseException:  # of the host's class, whatever it is
        return type(value).__name__


_PLAIN: Final[frozenset[type]] = frozenset((str, int, float, bool, bytes, type(None)))
"""Classes whose values MessagePack has a word for: each arrives as it is, or is not encoded."""
_FREE: Final[tuple[inspect.Type, ...]] = (
    inspect.StrType(),
    inspect.IntType(),
    inspect.FloatType(),
    inspect.BoolType(),
    inspect.BytesType(),
    inspect.NoneType(),
)
"""What fields of these classes declare, without limits that a value may break."""
_SHAPES_MAX: Final = 64
_LATER: Final = "Nothing was run; send again when all processes are of one release."
_TAKEN_FOR: Final[frozenset[tuple[type[Any], type[Any]]]] = frozenset(
    ((int, float), (tuple, list), (frozenset, set))
)
"""Classes of values that a field of another type takes as they are meant."""
_values: Final = msgspec.msgpack.Encoder(enc_hook=_as_text)


class CommandForms:
    """The commands of one engine, by name. Raises DefinitionError for one that cannot be sent."""

    def __init__(self, commands: Mapping[type[Command], str]) -> None:
        """Take the classes of command, and the kind of the aggregate that handles each."""
        self._encoder = msgspec.msgpack.Encoder()
        self._names = _names_of(commands)
        self._classes = {name: cls for cls, name in self._names.items()}
        self._decoders: Mapping[str, msgspec.msgpack.Decoder[Command]] = {
            name: _decoder_of(cls) for name, cls in self._classes.items()
        }
        self._sure: dict[type[Command], set[tuple[type, ...]]] = {
            cls: set() for cls in commands if _is_as_its_fields(cls)
        }
        """Types of fields that have arrived as they were sent, whatever the values are."""
        self._numbered = frozenset(filter(has_numbers, commands))
        """Whose values may have members of enums that are numbers."""

    def names(self, command: Command) -> Names:
        """Give what the numbers of enums in a command are called here: they travel beside it."""
        return names_in(command) if type(command) in self._numbered else ()

    def encode(self, command: Command) -> tuple[str, bytes]:
        """Give a command's name and body; raise InvalidInput if it would arrive changed."""
        name = self._names[type(command)]
        sure = self._sure.get(type(command))
        shape = () if sure is None else tuple(map(type, astuple(command)))
        try:
            try:
                body = self._encoder.encode(command)
            except OverflowError:  # a whole number that MessagePack has no word for
                body = encode_with_zones(command)
            if sure is not None and shape in sure:
                return name, body  # most often so: it need not be read back
            arrived = self._decode(name, body)
            changed = first_difference(command, arrived, _as_declared)
            if changed is None and sure is not None:
                self._learn(sure, shape, arrived)
            if changed is not None:
                body = encode_with_zones(command)
                changed = first_difference(command, self._decode(name, body), _as_declared)
        except BaseException as error:  # of the command's class, whatever it is
            raise InvalidInput(
                f"{type(command).__name__} cannot be sent to the process that owns the log"
                f"{_place_of(error)}: give its fields values of their types. Nothing was run."
            ) from as_error(error)
        if changed is not None:
            raise InvalidInput(
                f"{type(command).__name__}{changed} would arrive as something else in the process "
                f"that owns the log: give a value of the declared type. Nothing was run."
            )
        return name, body

    def _learn(self, sure: set[tuple[type, ...]], shape: tuple[type, ...], arrived: Any) -> None:
        """Keep the types of values that have arrived, if they tell all of any such values."""
        same = _PLAIN.issuperset(shape) and tuple(map(type, astuple(arrived))) == shape
        if same and len(sure) < _SHAPES_MAX:
            sure.add(shape)

    def decode(self, name: str, body: bytes, names: Names = ()) -> Command:
        """Give the command; raise Voided if this process does not know it so."""
        if name not in self._decoders:
            raise Voided(
                f"the process that owns the log has no command {name!r:.200}: it runs another "
                f"release. {_LATER}"
            )
        try:
            command = self._decode(name, body)
        except BaseException as error:  # of the command's class, whatever it is
            raise Voided(
                f"the process that owns the log declares {name!r:.200} otherwise"
                f"{_place_of(error)}: it runs another release. {_LATER}"
            ) from as_error(error)
        changed = changed_number(command, names)
        if changed is not None:
            number, then, now = changed
            raise Voided(
                f"{name!r:.200} has the number {number} of an enum, which is called {then} where "
                f"it was sent, and {now} in the process that owns the log: it runs another "
                f"release. {_LATER}"
            )
        return command

    def _decode(self, name: str, body: bytes) -> Command:
        if is_with_zones(body):
            return decode_with_zones(body, self._classes[name])
        return self._decoders[name].decode(body)


def _names_of(commands: Mapping[type[Command], str]) -> Mapping[type[Command], str]:
    """Name each class by its kind, whatever its module is called in the process that runs it.

    A program is `__main__` where it was started, and has its own name where it is imported.
    """
    names = {cls: f"{kind}/{cls.__qualname__}" for cls, kind in commands.items()}
    often = Counter(names.values())
    return {
        cls: name if often[name] == 1 else f"{name} of {cls.__module__}"
        for cls, name in names.items()
    }


def _is_as_its_fields(cls: type[Command]) -> bool:
    """Tell whether a command is what its fields are: reading one does nothing of the host's.

    Then no field asks anything of its value but to be of a class that MessagePack has a word for.
    """
    if hasattr(cls, "__post_init__") or "__dict__" in dir(cls):
        return False
    info = inspect.type_info(cls)
    return isinstance(info, inspect.StructType) and all(_is_free(f.type) for f in info.fields)


def _is_free(info: inspect.Type) -> bool:
    if isinstance(info, inspect.Metadata):
        return is_id(info) or _is_free(info.type)  # ids are looked at before
    if isinstance(info, inspect.UnionType):
        return all(map(_is_free, info.types))
    return info in _FREE


def _decoder_of(cls: type[Command]) -> msgspec.msgpack.Decoder[Command]:
    try:
        return msgspec.msgpack.Decoder(cls)
    except Exception as error:
        raise DefinitionError(
            f"{cls.__qualname__} cannot be sent from one process to another, as join=True needs: "
            f"{described(error)}"
        ) from error


def _class_of(value: object) -> type[Any]:
    return type(value)


def _as_declared(sent: Any, arrived: Any) -> object:
    """Give what was sent as a field's declared type takes it, if nothing of it is lost by that.

    An int stands for a float, any sequence for a Sequence, and an enum of texts for a text.
    """
    kind, into = _class_of(sent), _class_of(arrived)
    if kind is datetime:
        return fixed(sent)
    made: Any = sent
    if (kind, into) in _TAKEN_FOR:
        made = into(sent)
    elif into in (str, int) and isinstance(sent, Enum) and isinstance(sent, into):
        made = sent.value
    return made if into is list or made == sent else sent


def _place_of(error: BaseException) -> str:
    """Say where a value is malformed, without the value."""
    _, found, place = text_of(error).rpartition(" - at ")
    return f" (at {place})" if found else f" ({type(error).__name__})"


def _name_of(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


# -- errors -----------------------------------------------------------------------------------


_PART_MAX: Final = 1024 * 1024
"""Bytes of one value of an error; what is larger, or cannot be encoded, is left out."""


def as_failure(error: BaseException) -> tuple[tuple[str, ...], bytes]:
    """Give the names of an error's classes, and its values."""
    if not isinstance(error, EngineError):
        error = OutcomeUnknown(f"the process that owns the log failed with {text_of(error)}")
    classes = tuple(_name_of(cls) for cls in type(error).__mro__ if issubclass(cls, EngineError))
    attributes = {name: value for name, value in vars(error).items() if name != "__notes__"}
    if is_unreached(error):
        attributes[UNREACHED] = True  # its causes stay here
    values: list[object] = [list(error.args), attributes]
    if _unsendable(values) is not None:
        values = [[*map(_sendable, error.args)], _sendable(attributes, 2)]
    return classes, encode_values(values)


def _unsendable(value: object) -> str | None:
    """Say why a value cannot be sent, or not be read where it arrives; None if it can be."""
    try:
        encoded = encode_values(value)
        msgspec.msgpack.decode(encoded)
    except Exception:
        return "is nested too deeply, or in itself"
    return f"has {len(encoded)} bytes" if len(encoded) > _PART_MAX else None


def _sendable(value: object, levels: int = 0) -> object:
    """Give a value, or a text in its place; in a dict, for each of its values."""
    if levels and isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {_as_text(name): _sendable(each, levels - 1) for name, each in items}
    why = _unsendable(value)
    return value if why is None else f"left out, since it {why}"


def error_of(classes: Sequence[str], values: bytes) -> EngineError:
    """Give the error that these came from, as near as this process knows it."""
    known = {_name_of(cls): cls for cls in _errors(EngineError)}
    cls = next((known[name] for name in classes if name in known), EngineError)
    try:
        args, attributes = msgspec.msgpack.decode(values, type=tuple[list[Any], dict[str, Any]])
    except Exception as malformed:
        # A line that was given up for it would be given up again, with each command on it.
        return OutcomeUnknown(
            f"the process that owns the log answered with {classes[:1]}, and the rest of it cannot "
            f"be read here ({described(malformed)}): it may have run the command or not"
        )
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
