"""What a command declares that its handler replies, and a reply as bytes.

Rules: `class Reserve(Command[Reservation])` declares it, and nothing else does. The type is studied
when the class is made, as the fields of events are: a type that cannot be stored is refused there.
A caller gets a copy of what its handler gave, read from the bytes that are kept with the key, so
that the first answer and a repeated one are the same. A reply of an earlier release is read only
if the type of today keeps all that it says. This file knows no command, key or store.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import inspect

from ..errors import DefinitionError, HandlerFailed
from ..runtime.safely import as_error
from .depth import decode_deep
from .exact import Exactness, change_of, exactness_of
from .numbers import Names, changed_number, names_in, with_names, without_names

__all__ = ["ReplyForm", "reply_form"]

_encode = msgspec.json.Encoder().encode
_plain: Callable[[bytes], Any] = msgspec.json.Decoder().decode


class ReplyForm(msgspec.Struct, frozen=True):
    """How the replies of one class of command are stored and read."""

    command: str
    """The name of the class."""
    exactness: Exactness
    decode: Callable[[bytes | msgspec.Raw], Any]
    is_plain: bool
    """Whether `==` tells all of a reply, and none is nested deeper than the stack."""
    may_have_enums: bool
    """Whether a reply may have members of enums, which are told with their names."""

    def kept(self, reply: Any, bytes_max: int) -> tuple[Any, bytes]:
        """Give a copy of a reply and its bytes; raise HandlerFailed for one that cannot be kept."""
        try:
            payload = _encode(reply)
            if self.is_plain:
                read = self.decode(payload)
            else:
                self.exactness.check_depth(f"the reply to {self.command}", payload)
                read = self._decoded(payload)
        except msgspec.MsgspecError as error:
            raise HandlerFailed(
                f"the reply to {self.command} is no value of its declared type "
                f"({type(error).__name__}): return what Command[...] says. Nothing was written."
            ) from error
        if not self.is_plain or read != reply:
            found = change_of(reply, read, "reply")
            if found is not None:
                raise HandlerFailed(f"{self.command}: {found}. Nothing was written.")
        if len(payload) > bytes_max:
            raise HandlerFailed(
                f"the reply to {self.command} has {len(payload)} bytes, above Limits.reply_bytes "
                f"at {bytes_max}. Nothing was written: reply less, and let a view answer the rest."
            )
        return read, self._named(reply, payload)

    def _named(self, reply: Any, payload: bytes) -> bytes:
        return with_names(payload, names_in(reply)) if self.may_have_enums else payload

    def _unnamed(self, payload: bytes) -> tuple[bytes, Names]:
        return without_names(payload) if self.may_have_enums else (payload, ())

    def read(self, payload: bytes | None, names: Names | None = None) -> Any:
        """Give a reply that was kept; raise HandlerFailed where it is none of the type today.

        `names` are those of its numbers, where they are not kept with it.
        """
        cause: Exception | None = None
        if payload is not None:
            try:
                if names is None:
                    payload, names = self._unnamed(payload)
                reply = self._decoded(payload)
                again = _encode(reply)
                says_all = again == payload or _says_all(_plain(again), _plain(payload))
                if says_all and changed_number(reply, names) is None:
                    return reply
            except BaseException as error:  # of the type's own code, whatever it is
                cause = as_error(error)
        raise HandlerFailed(
            f"{self.command} was run before, and the reply that is kept with its key is none of "
            f"the declared type. Nothing was written now: read what it did from a view, or keep a "
            f"type that former replies fit."
        ) from cause

    def _decoded(self, payload: bytes) -> Any:
        return decode_deep(self.decode, payload) if self.exactness.deep else self.decode(payload)


def _says_all(now: Any, former: Any) -> bool:
    """Tell whether one JSON value has all that another one says; it may have more fields."""
    if isinstance(former, dict) and isinstance(now, dict):
        return all(name in now and _says_all(now[name], former[name]) for name in _listed(former))
    if isinstance(former, list) and isinstance(now, list):
        said, says = _listed(former), _listed(now)
        if len(said) == len(says) and all(map(_says_all, says, said)):
            return True
        return sorted(map(_encode, says)) == sorted(map(_encode, said))  # as those of a set
    return bool(now == former)


def _listed(value: Any) -> list[Any]:
    return list(value)


def reply_form(cls: type, base: type, local: Mapping[str, Any]) -> ReplyForm | None:
    """Give the form of what a class declares as `base[...]`; None where it declares nothing.

    Raises DefinitionError for a type that cannot be stored, and NameError for one that is not there
    yet.
    """
    declared = _declared(cls, base)
    if declared in (None, type(None)):
        return None
    if isinstance(declared, typing.TypeVar):
        raise DefinitionError(
            f"command {cls.__qualname__} declares the reply {declared}: give the type itself"
        )
    module = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
    carrier = types.SimpleNamespace(__annotations__={"reply": declared})
    hints = typing.get_type_hints(carrier, dict(module), dict(local), include_extras=True)
    if hints["reply"] is type(None):
        return None
    wrapper = msgspec.defstruct(cls.__qualname__, [("reply", hints["reply"])])
    exactness = exactness_of(wrapper, "the reply of command")
    decode = msgspec.json.Decoder(hints["reply"]).decode
    is_plain = not exactness.deep and not exactness.doubtful
    may_have_enums = _may_have_enums(inspect.type_info(wrapper), set())
    return ReplyForm(cls.__name__, exactness, decode, is_plain, may_have_enums)


def _may_have_enums(part: Any, seen: set[int]) -> bool:
    """Tell whether values of a type, as msgspec describes it, may have members of enums."""
    if id(part) in seen:
        return False
    seen.add(id(part))
    if isinstance(part, tuple):
        return any(_may_have_enums(each, seen) for each in _listed(part))
    if isinstance(part, inspect.EnumType | inspect.AnyType | inspect.CustomType):
        return True
    inner = getattr(part, "__struct_fields__", ())
    return any(_may_have_enums(getattr(part, name), seen) for name in inner)


def _declared(cls: type, base: type) -> Any:
    for each in cls.__mro__:
        for declared in vars(each).get("__orig_bases__", ()):
            if typing.get_origin(declared) is base:
                return typing.get_args(declared)[0]
    return None
