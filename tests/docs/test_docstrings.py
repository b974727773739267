"""What the site shows of docstrings and of `--help` is plain English, as the documents are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import griffe
import pytest

from docs.generate import api, commands
from tests.support.plain_english import faults

ENGINE: Final = Path(__file__).parents[2] / "engine"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the package as the site reads it."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "foldline").symlink_to(ENGINE, target_is_directory=True)
    return griffe.load("foldline", search_paths=[folder])


def shown(found: Any, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Give each docstring that the site shows of a name, with where it is from."""
    found = found.final_target if found.is_alias else found
    if found.path in seen:
        return
    seen.add(found.path)
    if found.docstring:
        yield found.path, found.docstring.value
    if found.is_class:
        for name, member in found.members.items():
            if not member.is_alias and (name == "__init__" or not name.startswith("_")):
                yield from shown(member, seen)


def test_docstrings_of_the_api_are_plain_english(package: Any) -> None:
    names = [name for page in api.names(ENGINE).values() for name in page]
    seen: set[str] = set()
    found = [
        f"{path}: {fault}"
        for name in names
        for path, text in shown(package[name], seen)
        for fault in faults(text)
    ]

    assert len(seen) > 500
    assert not found, "\n".join(["", *found])


def test_the_help_of_commands_is_plain_english() -> None:
    found = [
        f"{name}: {fault}"
        for name, parser in commands.parsers().items()
        for text in (parser.description, *(found for _, found in commands.arguments(parser)))
        for fault in faults(text or "")
    ]

    assert not found, "\n".join(["", *found])
