"""What is public: named in `engine/__init__.py`, explained, and enough to work with."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pydoc
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import engine
from engine.calls import Calls
from engine.stores.contract import log

ROOT = Path(__file__).parents[2]
PUBLIC = {name: getattr(engine, name) for name in engine.__all__}
CLASSES = {name: found for name, found in PUBLIC.items() if isinstance(found, type)}

PLACES = ("testing", "integrations", "stores.contract.log")
"""Where else public names are; each says what is in it."""
COMMAND_LINES = ("cli.options", "cli.output", "cli.printing", "cli.tables")
"""What the shop's own command line shares with the engine's: how arguments are read and text is
shown. A user's program needs none of it."""
GIVEN = {
    "Feed",
    "History",
    "LiveQuery",
    "PastViews",
    "PersonalData",
    "Portal",
    "Projections",
    "Table",
    "Views",
}
"""Classes that nobody makes but the engine: how is no part of what is public."""
INSIDE = {
    "Archive.registry",
    "Command.command_reply",
    "Engine.registry",
    "Event.event_exactness",
    "PastViews.tables",
    "PersonalData.entrance",
    *(f"Schedule.{name}" for name in ("drop", "ran", "run", "set", "was_dropped", "was_set")),
    "Views.of",
}
"""Without an underscore, since other rooms of the engine use them."""


PLAIN = ("self", "cls", "function")
"""Arguments that need no word; a decorator's function is what it stands above."""


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Give the public methods and properties that a class has of its own, as functions."""
    for name, found in vars(cls).items():
        if name == "__init__" and cls.__name__ not in GIVEN and not _is_protocol(cls):
            yield name, found
        if name.startswith("_"):
            continue
        plain = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
        if inspect.isfunction(plain):
            yield name, plain


def _is_protocol(cls: type) -> bool:
    return bool(getattr(cls, "_is_protocol", False))


def functions() -> Iterator[tuple[str, Any]]:
    """Give every public function and method, by its name."""
    for name, found in PUBLIC.items():
        if inspect.isfunction(found):
            yield name, found
    for name, cls in CLASSES.items():
        yield from ((f"{name}.{method}", found) for method, found in members(cls))
    yield from ((f"Engine.{method}", found) for method, found in members(Calls))


def annotated() -> Iterator[tuple[str, Any]]:
    """Give the types of all that public calls take and return, and of what structs hold."""
    for name, function in functions():
        if name not in INSIDE:
            hints = typing.get_type_hints(function, None, {"Ports": engine.Ports})
            yield from ((f"{name}({argument})", hint) for argument, hint in hints.items())
    for name, cls in CLASSES.items():
        for field, hint in typing.get_type_hints(cls).items():
            if field[0] != "_" and f"{name}.{field}" not in INSIDE:
                yield f"{name}.{field}", hint


def classes_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        yield hint
    inside = hint if isinstance(hint, list) else (typing.get_origin(hint), *typing.get_args(hint))
    for part in inside:
        if part is not None and part is not hint:
            yield from classes_in(part)


def is_public(cls: type) -> bool:
    package, _, module = cls.__module__.partition(".")
    if package != "engine" or cls in CLASSES.values():
        return True
    return module.startswith(PLACES) or (
        # What a store is given stands in the contract of stores, wherever it was made.
        vars(log).get(cls.__name__) is cls
    )


def test_what_public_calls_take_and_return_is_public() -> None:
    inner = {
        f"{where}: {cls.__module__}.{cls.__qualname__}"
        for where, hint in annotated()
        for cls in classes_in(hint)
        if not is_public(cls)
    }

    assert inner == set()


def test_every_public_name_is_in_one_group() -> None:
    imported = {name for name, found in vars(engine).items() if name[0] != "_"}
    modules = {name for name in imported if inspect.ismodule(vars(engine)[name])}

    assert len(set(engine.__all__)) == len(engine.__all__)
    assert set(engine.__all__) == imported - modules


def test_no_module_hides_behind_a_public_name() -> None:
    hidden = [name for name in engine.__all__ if importlib.util.find_spec(f"engine.{name}")]

    assert hidden == []


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_has_a_docstring(name: str) -> None:
    found = PUBLIC[name]
    if isinstance(found, type):
        assert inspect.getdoc(found), f"{name} has none"
        silent = [method for method, function in members(found) if not inspect.getdoc(function)]
        assert [method for method in silent if method != "__init__"] == []
    elif inspect.isfunction(found):
        assert inspect.getdoc(found), f"{name} has none"


def programs(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def modules_imported(program: str, package: str) -> set[str]:
    """Give the modules of a package that a program imports from, without the package's name."""
    found = set[str]()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {
        name.removeprefix(package).lstrip(".") for name in found if name.split(".")[0] == package
    }


@pytest.mark.parametrize(
    "document",
    ["README.md", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/*/*.md")))],
)
def test_the_documents_programs_import_what_is_public(document: str) -> None:
    for program in programs(document):
        inner = [m for m in modules_imported(program, "foldline") if m and not m.startswith(PLACES)]
        assert inner == []
        assert modules_imported(program, "engine") == set()


def test_the_shop_imports_what_is_public() -> None:
    inner = {
        f"{path.relative_to(ROOT)}: engine.{module}"
        for path in sorted((ROOT / "domain").rglob("*.py"))
        for module in modules_imported(path.read_text(), "engine")
        if module and not module.startswith(PLACES)
        if module not in COMMAND_LINES
    }

    assert inner == set()


def is_told(parameter: str, name: str, function: Any) -> bool:
    """Tell whether a docstring explains a parameter: its own, its class's, or where it refers to.

    `Engine.state`, say, in the docstring of `Archive.state`.
    """
    texts = [inspect.getdoc(function) or ""]
    cls, _, method = name.partition(".")
    if method:
        texts.append(inspect.getdoc(CLASSES[cls]) or "")
    known = dict(functions())
    references = re.findall(r"`(\w+\.\w+)`", texts[0])
    texts += [inspect.getdoc(known[found]) or "" for found in references if found in known]
    return any(re.search(rf"`[^`]*\b{parameter}\b[^`]*`", text) for text in texts)


def test_every_argument_of_a_public_call_is_explained() -> None:
    """Where there is one alone, the sentence is about it."""
    silent = []
    for name, function in functions():
        cls = CLASSES.get(name.partition(".")[0])
        if name in INSIDE or (cls is not None and issubclass(cls, BaseException)):
            continue
        parameters = [p for p in inspect.signature(function).parameters if p not in PLAIN]
        if len(parameters) > 1:
            silent += [f"{name}({p})" for p in parameters if not is_told(p, name, function)]

    assert silent == []


@pytest.mark.parametrize(
    "name", [name for name, found in CLASSES.items() if issubclass(found, msgspec.Struct)]
)
def test_help_explains_every_field_of_a_public_struct(name: str) -> None:
    """Beside the field, or in the docstring of its class."""
    shown = pydoc.plain(pydoc.render_doc(CLASSES[name]))
    own = inspect.get_annotations(CLASSES[name])
    fields = [field for field in own if field[0] != "_" and f"{name}.{field}" not in INSIDE]
    silent = [
        field
        for field in fields
        if not re.search(rf"^ \|  {field}: .*\n \|      \S|`{field}`", shown, re.MULTILINE)
    ]

    assert silent == []
