"""Conditions and values of SQL, as far as the log's functions use them.

Rules: NULL compares with nothing, and is not true. A name with an alias is a column of the row, one
without is a column or else a variable. What is not known here is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

__all__ = ["NULL", "Expression", "Names", "UnknownSql", "compiled", "or_null"]

Names: TypeAlias = Mapping[str, Any]
Expression: TypeAlias = Callable[[Names, Names], Any]
"""Takes variables, and the columns of a row."""


class UnknownSql(Exception):
    """The model was asked for what it has not learnt to do as a server does."""


class _Null:
    """Neither true nor false, equal to nothing."""

    def __bool__(self) -> bool:
        return False

    def _compared(self, _: object) -> _Null:
        return self

    __lt__ = __gt__ = __le__ = __ge__ = _compared
    __eq__ = __ne__ = _compared  # type: ignore[assignment]
    __hash__ = object.__hash__


NULL: Final = _Null()
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<op><>|<=|>=|=|<|>|\(|\)|,|\+|-)|(?P<text>'[^']*')|(?P<number>\d+)"
    r"|(?P<name>[A-Za-z_][A-Za-z_0-9.]*))"
)
_OPERATORS: Final = {"=": "==", "<>": "!="}
_WORDS: Final = {
    "AND": "and",
    "OR": "or",
    "NOT": "not",
    "true": "True",
    "false": "False",
    "NULL": "NULL",
    "IS": "is",
}


def or_null(value: Any) -> Any:
    """Give what SQL has for a value of ours."""
    return NULL if value is None else value


def _coalesce(*values: Any) -> Any:
    return next((value for value in values if value is not NULL), NULL)


def _greatest(*values: Any) -> Any:
    found = [value for value in values if value is not NULL]
    return max(found) if found else NULL


def _cardinality(values: Sequence[Any] | _Null) -> Any:
    return values if isinstance(values, _Null) else len(values)


_CALLS: Final = {"coalesce": _coalesce, "greatest": _greatest, "cardinality": _cardinality}
_OF_THE_CALL: Final = ("current_setting", "clock_timestamp")


def compiled(text: str) -> Expression:
    """Give an expression; raise UnknownSql for what is none that is known."""
    parts: list[str] = []
    at, text = 0, text.strip()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise UnknownSql(f"an expression: {text!r}")
        at = token.end()
        follows_call = text[at:].lstrip().startswith("(")
        parts.append(_python(token, follows_call, text))
    try:
        code = compile(" ".join(parts), "<sql>", "eval")
    except SyntaxError:
        raise UnknownSql(f"an expression: {text!r}") from None

    def run(variables: Names, row: Names) -> Any:
        def value(name: str) -> Any:
            column = name.rpartition(".")[2]
            if column in row:
                return or_null(row[column])
            if "." in name or name not in variables:
                raise UnknownSql(f"the name {name} in {text!r}")
            return variables[name]

        known = {name: variables.get(name) for name in _OF_THE_CALL} | _CALLS
        return eval(code, {"value": value, "NULL": NULL, "__builtins__": {}, **known})

    return run


def _python(token: re.Match[str], is_call: bool, text: str) -> str:
    kind, word = token.lastgroup, token[token.lastgroup or 0]
    if kind == "op":
        return _OPERATORS.get(word, word)
    if kind != "name":
        return word
    if word in _WORDS:
        return _WORDS[word]
    if not is_call:
        return f"value({word!r})"
    if word not in (*_CALLS, *_OF_THE_CALL):
        raise UnknownSql(f"the function {word} in {text!r}")
    return word
