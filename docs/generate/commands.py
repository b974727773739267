"""The sections on command lines: what `foldline --help` says of each command, option by option."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from engine.__main__ import COMMANDS
from engine.runtime.package import COMMAND

from .markdown import cell, table

__all__ = ["arguments", "parsers", "sections"]


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Give the parser of each command that runs something, by its name."""
    root = argparse.ArgumentParser(prog="foldline")
    subparsers: Any = root.add_subparsers()
    for command in COMMANDS:
        command.add_parser(subparsers)
    return dict(_below(root))


def _below(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in _actions(parser):
        children: dict[str, argparse.ArgumentParser] | None = action.choices
        if isinstance(children, dict):
            for child in children.values():
                yield child.prog, child
                yield from _below(child)


def _actions(parser: argparse.ArgumentParser) -> list[Any]:
    parts: Any = parser  # argparse has no public way to them
    actions: list[Any] = parts._actions
    return actions


def sections() -> str:
    """Give a section for each command."""
    return "\n".join(_section(name, parser) for name, parser in parsers().items())


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    level = "#" * min(len(name.split()), 3)
    usage = textwrap.fill(
        " ".join(parser.format_usage().partition(":")[2].split()),
        88,
        subsequent_indent="    ",
        break_on_hyphens=False,
    )
    parts = [f"{level} {name}", _prose(parser.description), f"```text\n{usage}\n```"]
    rows = [[f"`{argument}`", cell(text)] for argument, text in arguments(parser)]
    if rows:
        parts.append(table(["argument", "meaning"], rows))
    parts.append(_epilog(parser.epilog))
    return "\n\n".join(part for part in parts if part) + "\n"


def arguments(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Give each argument of a command, and its help."""
    return [
        (_name(action), _help(action, parser))
        for action in _actions(parser)
        if action.dest != "help" and not isinstance(action.choices, dict)
    ]


def _prose(text: str | None) -> str:
    """Give a description as Markdown; its own backticks are code already."""
    text = cell(text or "")
    return text[:1].upper() + text[1:] + "." * bool(text and not text.endswith("."))


def _epilog(text: str | None) -> str:
    return f"```text\n{text.strip().replace(COMMAND, 'foldline')}\n```" if text else ""


def _name(action: argparse.Action) -> str:
    shown = action.metavar if isinstance(action.metavar, str) else action.dest
    if not action.option_strings:
        return shown
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {shown}"


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = action.help or ""
    values = {**vars(action), "prog": parser.prog}
    return re.sub(r"%\((\w+)\)[sd]", lambda found: str(values[found[1]]), text).replace("%%", "%")
