"""Runs the functions that the log makes in the database, from their own text.

Rules: the flow, the assignments and the conditions are read, so that a slip in them shows as what
it does. Each statement in them is one of those that are listed here, word for word but for its
condition, and does what the server does with it; any other is refused. A statement of a function
sees what was committed when it began, as in READ COMMITTED, and what its transaction changed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from .expressions import NULL, Expression, UnknownSql, compiled, or_null

__all__ = ["Call", "Function", "Running", "Wait", "functions_of", "words"]


class Wait(msgspec.Struct, frozen=True):
    """What a statement waits for: a lock, or a time."""

    lock: Any = None
    seconds: float = 0.0


Running: TypeAlias = Generator[Wait, None, Any]


class Call(Protocol):
    """The transaction in which a function runs."""

    @property
    def tables(self) -> Any:
        """What is committed."""
        ...

    def change(self, *change: Any) -> None:
        """Change something as the transaction commits."""
        ...

    def clock(self) -> float:
        """Give the time of the database's clock."""
        ...

    def setting(self, name: str) -> str:
        """Give a setting as it is in the transaction."""
        ...

    def set_local(self, name: str, value: str) -> None:
        """Set it up to the end of the transaction."""
        ...

    def fail(self, sqlstate: str, message: str) -> Exception:
        """Give the error that ends the transaction."""
        ...


Step: TypeAlias = Callable[[Call, dict[str, Any]], Running]
_RETURN: Final = object()


class Function(msgspec.Struct, frozen=True):
    """A function as it was made."""

    name: str
    takes: Sequence[str]
    gives: Sequence[str]
    """Its OUT parameters; none where it returns a value or nothing."""
    steps: Sequence[Step]

    def run(self, call: Call, values: Sequence[Any]) -> Running:
        """Run it; give its row by name, or what it returns as ""."""
        variables: dict[str, Any] = dict(zip(self.takes, map(or_null, values), strict=True))
        variables |= dict.fromkeys(self.gives, NULL)
        variables["current_setting"] = call.setting
        variables["clock_timestamp"] = call.clock
        yield from _run(self.steps, call, variables)
        names = self.gives or ("",)
        row = {name: variables.get(name, NULL) for name in names}
        return {name: None if value is NULL else value for name, value in row.items()}


def _run(steps: Sequence[Step], call: Call, variables: dict[str, Any]) -> Running:
    for step in steps:
        if (yield from step(call, variables)) is _RETURN:
            return _RETURN
    return None


def words(text: str) -> str:
    """Give a text without comments, and with one space between its words."""
    return " ".join(re.sub(r"--[^\n]*", "", text).split())


# -- the text of a migration --------------------------------------------------------------------

_FUNCTION: Final = re.compile(
    r"CREATE (?:OR REPLACE )?FUNCTION \{s\}\.(?P<name>\w+_[1-9])\((?P<parameters>[^)]*)\)"
    r"(?P<head>[^$]*?)"
    r"AS \$\$(?P<body>.*?)\$\$;"
)
_IN_SQL: Final = " LANGUAGE sql "
"""Of a function that the model does by itself."""
_HEAD: Final = re.compile(
    r"( RETURNS (?:void|boolean))? LANGUAGE plpgsql SECURITY DEFINER "
    r"SET search_path = pg_catalog, pg_temp (SET enable_seqscan = off )?SET lock_timeout = '5s' "
)


_VIEW: Final = re.compile(r"CREATE VIEW \{s\}\.log AS [^;]*;")
"""It is for people: no engine reads it."""


@functools.cache
def functions_of(text: str) -> tuple[dict[str, Function], str]:
    """Give the functions of a migration in PL/pgSQL, and the rest of its words."""
    text = words(text)
    found: dict[str, Function] = {}
    for one in _FUNCTION.finditer(text):
        if _IN_SQL in one["head"]:
            continue
        if not _HEAD.fullmatch(one["head"]):
            raise UnknownSql(f"{one['name']} is made with {one['head']!r}")
        parameters = [part.split() for part in one["parameters"].split(",")]
        gives = [part[1] for part in parameters if part[0] == "OUT"]
        takes = [part[0] for part in parameters if part[0] != "OUT"]
        found[one["name"]] = Function(one["name"], takes, gives, _body(one["body"]))
    rest = _FUNCTION.sub(lambda one: one[0] if _IN_SQL in one["head"] else "", text)
    return found, words(_VIEW.sub("", rest))


def _body(text: str) -> Sequence[Step]:
    text = text.strip().removeprefix("#variable_conflict use_column ")
    if text.startswith("DECLARE "):
        text = text[text.index("BEGIN ") :]
    if not (text.startswith("BEGIN ") and text.endswith(" END")):
        raise UnknownSql(f"a body: {text!r}")
    parts = [part.strip() for part in text.removeprefix("BEGIN ").removesuffix(" END").split(";")]
    steps, rest = _block([part for part in parts if part])
    if rest:
        raise UnknownSql(f"behind the end: {rest[0]!r}")
    return steps


def _block(parts: list[str]) -> tuple[list[Step], list[str]]:
    """Read statements up to the end of a block; give them, and what is left."""
    steps: list[Step] = []
    while parts:
        part = parts.pop(0)
        if part == "END IF" or part.startswith("ELSE "):
            return steps, [part, *parts]
        if not part.startswith("IF "):
            steps.append(_step(part))
            continue
        condition, _, first = part.removeprefix("IF ").partition(" THEN ")
        then, parts = _block([first, *parts])
        otherwise: list[Step] = []
        if parts[0].startswith("ELSE "):
            otherwise, parts = _block([parts[0].removeprefix("ELSE "), *parts[1:]])
        parts.pop(0)
        steps.append(_if(compiled(condition), then, otherwise))
    return steps, []


def _if(condition: Expression, then: Sequence[Step], otherwise: Sequence[Step]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        return _run(then if condition(variables, {}) else otherwise, call, variables)

    return step


def _step(text: str) -> Step:
    if text == "RETURN":
        return _return(None)
    if text.startswith("RETURN "):
        return _return(compiled(text.removeprefix("RETURN ")))
    name, assigned, value = text.partition(" := ")
    if assigned:
        return _assign(name, compiled(value))
    from .functions import known_step  # which needs what is above

    return known_step(text)


def _return(value: Expression | None) -> Step:
    def step(_: Call, variables: dict[str, Any]) -> Running:
        if value is not None:
            variables[""] = value(variables, {})
        yield from ()
        return _RETURN

    return step


def _assign(name: str, value: Expression) -> Step:
    def step(_: Call, variables: dict[str, Any]) -> Running:
        if name not in variables:
            raise UnknownSql(f"the variable {name}")
        variables[name] = value(variables, {})
        yield from ()

    return step
