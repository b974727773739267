"""Timers as a handler sets them: commands that are to be run later, each under a name.

Rules: a timer is a value; nothing happens before the events of its decision are durable. What is
wrong with one is told before anything is encoded, and then nothing was written. A command is kept
as JSON with all its fields and the names of its enums' numbers, so that a default that a later
release changes changes no timer. This file knows no actor, log or clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, Final, TypeAlias, cast

import msgspec

from ..errors import DefinitionError, HandlerFailed, InvalidInput
from ..limits import Limits
from .annotations import UNRESOLVED
from .checking import checked_copy
from .depth import decode_deep
from .exact import Exactness, exactness_of
from .given import SECONDS_MAX, as_seconds, as_text, shown
from .ids import as_id, check_id
from .messages import Command, check_name
from .numbers import changed_number, names_in, with_names, without_names
from .shape import has_numbers

__all__ = [
    "NO_TIMERS",
    "After",
    "At",
    "CancelTimer",
    "NewTimer",
    "SetTimers",
    "TimedCommands",
    "Timer",
    "is_at_once",
    "set_timers",
]

NO_TIMERS: Final[Sequence[Any]] = ()
SECONDS_AHEAD_MAX: Final = 36_500 * 86_400
"""Nearly a hundred years: what is further off is a mistake, as of milliseconds for seconds."""
SECONDS_PAST_MAX: Final = 60
"""How far in the past a time may be: a command waits for its turn, and clocks differ."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_Ids: TypeAlias = Callable[[Any], Sequence[object]]
_encode: Final = msgspec.json.Encoder().encode
_NAMES_MAX: Final = 1_000
_good_names: Final[set[str]] = set()
"""Names that were looked at before: a program has few."""


class Timer(msgspec.Struct, frozen=True, gc=False):
    """What a decision says of a timer: `After`, `At` or `CancelTimer`."""


class _Waits(Timer, frozen=True, gc=False):
    command: Command
    """What is run then; for any aggregate of the engine."""
    name: str = ""
    """Of the timer, among those of the aggregate that sets it; that of its command unless given."""


class After(_Waits, frozen=True, gc=False, kw_only=True):
    """A command that is run after a while: `After(Expire(order_id), "payment", minutes=15)`.

    It takes the place of a timer that the aggregate has set by that name. All durations are added
    up; with none the command is run at once.
    """

    days: float = 0
    """Of 24 hours."""
    hours: float = 0
    """Added to the days."""
    minutes: float = 0
    """Added to both."""
    seconds: float = 0
    """Added to all of them."""


class At(Timer, frozen=True, gc=False):
    """A command that is run at a time: `At(opening, Open(shop_id), "opening")`.

    It takes the place of a timer that the aggregate has set by that name.
    """

    when: datetime | int
    """With a time zone, or µs since 1970-01-01 UTC; at most a minute ago."""
    command: Command
    """What is run then; for any aggregate of the engine."""
    name: str = ""
    """Of the timer, among those of the aggregate that sets it; that of its command unless given."""


class CancelTimer(Timer, frozen=True, gc=False):
    """A timer that is not to be run any more; without an effect if the aggregate has none so."""

    name: str
    """Of the timer, among those of the aggregate that cancels it."""


class NewTimer(msgspec.Struct, frozen=True, gc=False):
    """A timer, as it is stored."""

    name: str
    due: int
    """When, in µs since 1970-01-01 UTC."""
    command: str
    """The stored name of its class."""
    payload: bytes
    """The command as JSON."""


class SetTimers(msgspec.Struct, frozen=True, gc=False):
    """What a decision does to the timers of its aggregate."""

    new: Sequence[NewTimer]
    cancelled: Sequence[str]


class _Form(msgspec.Struct, frozen=True):
    """How commands of one class are kept."""

    name: str
    fields: tuple[tuple[str, str], ...]
    """Names in the class and as JSON."""
    tag: tuple[tuple[str, Any], ...]
    exactness: Exactness
    decode: Any
    read_back: Any
    has_numbers: bool
    """Whether it may have numbers of enums."""


class TimedCommands:
    """The commands that timers may have: those of the aggregates of one engine."""

    def __init__(self, commands: Iterable[tuple[type[Command], _Ids]]) -> None:
        """Take the classes, each with what gives the ids of the aggregates that a command names."""
        self._ids = dict(commands)
        self._by_name: dict[str, list[type[Command]]] = {}
        for cls in self._ids:
            self._by_name.setdefault(cls.command_name, []).append(cls)
        self._forms: dict[type[Command], _Form] = {}

    def encode(self, where: str, command: Any) -> tuple[str, bytes]:
        """Give a command's stored name and the command as JSON; raise HandlerFailed."""
        given = cast("type[object]", type(command))
        cls = cast("type[Command]", given)
        if cls not in self._ids:
            what = f"{given.__name__}, which no aggregate of this engine handles"
            if not issubclass(given, Command):
                is_class = isinstance(command, type)
                what = f"{command.__name__ if is_class else shown(command)}, which is no "
                what += "instance but a class" if is_class else "command"
            raise HandlerFailed(
                f"{where} gives a timer the command {what}: give one that an aggregate of "
                f"Engine([...]) handles. Nothing was written."
            )
        form = self._forms.get(cls) or self._form(where, cls)
        try:
            command = checked_copy(command)
        except InvalidInput as error:
            told = str(error).replace("Nothing was run", "Nothing was written")
            raise HandlerFailed(f"{where} gives a timer a command: {told}") from error
        try:
            for each in self._ids[cls](command):
                check_id(as_id(each))
            # All fields: a default that changes while it waits is none of this command's.
            fields = {stored: getattr(command, name) for name, stored in form.fields}
            payload = _encode({**dict(form.tag), **fields})
            form.read_back(command, payload)
            if form.has_numbers:
                payload = with_names(payload, names_in(command))
        except HandlerFailed as error:
            raise HandlerFailed(f"{where} gives a timer a command: {error}") from error
        except Exception as error:
            raise HandlerFailed(
                f"{where} gives a timer a {cls.__name__} that cannot be stored "
                f"({type(error).__name__}): give its fields values of their types. Nothing was "
                f"written."
            ) from error
        return form.name, payload

    def decode(self, name: str, payload: bytes) -> Command:
        """Give a command that waited; raise HandlerFailed if it is declared otherwise today."""
        classes = self._by_name.get(name, ())
        if len(classes) != 1:
            raise HandlerFailed(
                f"the command {name!r} of a timer is handled by {len(classes)} aggregates of this "
                f"engine: declare one of that name, as the release had that set the timer. Nothing "
                f"was run."
            )
        form = self._forms.get(classes[0]) or self._form("a timer", classes[0])
        try:
            payload, names = without_names(payload)
            command: Command = decode_deep(form.decode, payload)
        except Exception as error:
            raise HandlerFailed(
                f"the command {name!r} of a timer is declared otherwise today "
                f"({type(error).__name__}): give new fields defaults, and keep the types of former "
                f"ones. Nothing was run."
            ) from error
        changed = changed_number(command, names)
        if changed is not None:
            number, then, now = changed
            raise HandlerFailed(
                f"the command {name!r} of a timer has the number {number} of an enum, which was "
                f"called {then} and is {now} today: give {then} that number again, as in "
                f"`{then} = {number}`. Nothing was run."
            )
        return command

    def _form(self, where: str, cls: type[Command]) -> _Form:
        name = cls.command_name
        if len(self._by_name[name]) > 1:
            raise HandlerFailed(
                f"{where} gives a timer the command {cls.__name__}, and another class of this "
                f"engine is called {name!r} too: give one of them another name=. Nothing was "
                f"written."
            )
        try:
            exactness = exactness_of(cls, "command")
        except (DefinitionError, *UNRESOLVED) as error:
            raise HandlerFailed(f"{where} gives a timer: {error}. Nothing was written.") from error
        config = cls.__struct_config__
        decode = msgspec.json.Decoder(cls).decode
        form = self._forms[cls] = _Form(
            name,
            tuple(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True)),
            () if config.tag is None else ((str(config.tag_field), config.tag),),
            exactness,
            decode,
            exactness.reader(f"the command {name}", decode),
            has_numbers(cls),
        )
        return form


def set_timers(
    where: str,
    timers: object,
    commands: object,
    has_events: bool,
    *,
    version: int,
    now: int,
    known: TimedCommands,
    limits: Limits,
    depth: int = 0,
) -> SetTimers | None:
    """Give what a decision does to timers, None for nothing; raise HandlerFailed.

    `version` is that of the decision's first event, and `now` the time in µs; `depth` counts the
    commands and reactions in a row that led to it at once.
    """
    given = _listed(where, "timers", timers)
    at_once = _listed(where, "commands", commands)
    if not given and not at_once:
        return None
    count = len(given) + len(at_once)
    if count > limits.command_timers:
        raise HandlerFailed(
            f"{where} gives {count} timers and commands, above Limits.command_timers at "
            f"{limits.command_timers}. Nothing was written."
        )
    if not has_events:
        raise HandlerFailed(
            f"{where} gives {'timers' if given else 'commands'} and no event. They are kept with "
            f"events: return one that says why they are there. Nothing was written."
        )
    if at_once and depth >= limits.reaction_depth:
        raise HandlerFailed(
            f"{where} gives commands, and {depth} in a row led to it (Limits.reaction_depth is "
            f"{limits.reaction_depth}): break the circle, or let time pass, by After(...). Nothing "
            f"was written."
        )
    new: list[NewTimer] = []
    cancelled: list[str] = []
    seen: set[str] = set()
    for timer in given:
        if isinstance(timer, After | At):
            known.encode(where, timer.command)  # what is no command is told before its name
        name = _name_of(where, timer)
        if name in seen:
            raise HandlerFailed(
                f"{where} names the timer {name!r} twice: set it once or cancel it once. Nothing "
                f"was written."
            )
        seen.add(name)
        if type(timer) is CancelTimer:
            cancelled.append(name)
            continue
        due = _due(where, name, timer, now)
        new.append(NewTimer(name, due, *known.encode(where, cast("Any", timer).command)))
    for number, command in enumerate(at_once):
        # No name of a host's has a dot, and no two decisions of one aggregate have one version.
        name = f"{version}.{number:04}"
        new.append(NewTimer(name, now, *known.encode(where, command)))
    return SetTimers(tuple(new), tuple(cancelled))


def is_at_once(name: str) -> bool:
    """Tell whether a timer is a command that its decision leads to at once, by its name."""
    return "." in name


def _listed(where: str, what: str, given: object) -> Sequence[object]:
    if not isinstance(given, list | tuple):
        raise HandlerFailed(
            f"{where} gives {what}={shown(given)}: write a list, as {what}=[...]. Nothing was "
            f"written."
        )
    listed = cast("Sequence[object]", given)
    # A class of the host's may say anything of its own length.
    return listed if type(listed) in (list, tuple) else tuple(listed)


def _name_of(where: str, timer: object) -> str:
    if type(timer) not in (After, At, CancelTimer):
        raise HandlerFailed(
            f"{where} gives {shown(timer)} as a timer: give an After, an At or a CancelTimer. "
            f"Nothing was written."
        )
    named = cast("After | At | CancelTimer", timer)
    name: object = named.name
    if type(named) is not CancelTimer and name == "":
        name = getattr(type(cast("After | At", named).command), "command_name", "")
    if type(name) is str and name in _good_names:
        return name
    try:
        good = check_name(as_text("the name of a timer", name), "a timer", "")
        if len(_good_names) < _NAMES_MAX:
            _good_names.add(good)
        return good
    except (DefinitionError, InvalidInput) as error:
        why = str(error).removesuffix("Nothing was run.").strip()
        raise HandlerFailed(f"{where}: {why} Nothing was written.") from None


def _due(where: str, name: str, timer: object, now: int) -> int:
    """Give when a timer is due, in µs."""
    if isinstance(timer, At):
        due = _moment(where, name, timer.when)
        ahead = (due - now) / 1e6
    else:
        assert isinstance(timer, After)
        ahead = _seconds(where, name, timer)
        due = now + round(min(ahead, SECONDS_AHEAD_MAX) * 1e6)
    least = -SECONDS_PAST_MAX if isinstance(timer, At) else 0
    if not least <= ahead <= SECONDS_AHEAD_MAX:
        past = f"{-ahead:g} s in the past" if ahead < 0 else f"{ahead / 86_400:,.0f} days ahead"
        raise HandlerFailed(
            f"{where} sets the timer {name!r} {past}: give a time from now on, and within "
            f"{SECONDS_AHEAD_MAX // 86_400:,} days. For what is late already, give After(...) "
            f"without a duration. Nothing was written."
        )
    return due


def _moment(where: str, name: str, when: object) -> int:
    if isinstance(when, datetime) and when.utcoffset() is not None:
        return (when - _EPOCH) // _MICROSECOND
    if type(when) is int and when.bit_length() < 63:
        return when
    raise HandlerFailed(
        f"{where} sets the timer {name!r} at {shown(when)}: give a datetime with a time zone, as "
        f"datetime(..., tzinfo=UTC), or µs since 1970-01-01 UTC. Nothing was written."
    )


_PLAIN: Final = frozenset({int, float})
_UNITS: Final = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))
_DEFAULT: Final[object] = 0


def _seconds(where: str, name: str, timer: After) -> float:
    seconds: float = 0
    try:
        for unit, factor in _UNITS:
            given: object = getattr(timer, unit)
            if given is _DEFAULT:
                continue  # most durations have one unit
            plain: Any = given
            if type(given) not in _PLAIN or not -SECONDS_AHEAD_MAX < plain < SECONDS_AHEAD_MAX:
                plain = as_seconds(unit, given)
                if plain >= SECONDS_MAX:
                    plain = inf  # it is not told apart from more, and would be run in thirty years
            seconds += plain * factor
        return seconds
    except InvalidInput as error:
        why = str(error).removesuffix("Nothing was run.").strip()
        raise HandlerFailed(
            f"{where} sets the timer {name!r}: {why} Nothing was written."
        ) from None
