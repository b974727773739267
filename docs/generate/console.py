"""The API of the console, as its table of endpoints has it: for the reference."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from engine.integrations.console.retention import ALL

__all__ = ["tables"]


def tables() -> str:
    """Give one row for each endpoint: what it takes and gives, and the action that it needs."""
    lines = ["| call | action | takes | gives | what it is |", "| --- | --- | --- | --- | --- |"]
    for each in ALL:
        takes = ", ".join(f"`{name}`" for name in _fields(each.takes)) or "nothing"
        of = f" of `{each.target}`" if each.target else ""
        lines.append(
            f"| `{each.method} {each.path}` | `{each.action}`{of} | {takes} | "
            f"`{_name(each.gives)}` | {each.about} |"
        )
    return "\n".join(lines) + "\n"


def _fields(takes: type[msgspec.Struct]) -> list[str]:
    needed = len(takes.__struct_fields__) - len(takes.__struct_defaults__)
    return [
        f"{name}" if n < needed else f"{name}?" for n, name in enumerate(takes.__struct_fields__)
    ]


def _name(gives: Any) -> str:
    inner = get_args(gives)
    return f"[{inner[0].__name__}]" if inner else gives.__name__
