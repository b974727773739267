"""The pages of the API: one for each group of `foldline.__all__`, and one for each kit.

Rules: groups, their order and their names are read out of `engine/__init__.py`, where a comment
stands above each. A group that is added there needs a title here. A kit's names are those of its
modules' `__all__`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["groups", "names", "pages"]

_TITLES = {
    "Who writes a domain": ("domain", "Domain: messages, aggregates, projections"),
    "Who runs it": ("running", "Running: engine, limits, ports"),
    "Who asks it": ("queries", "Queries: conditions and live answers"),
    "Who looks back": ("history", "History: past states, archive, feed"),
    "Who operates it": ("operations", "Operations: projections, statistics, telemetry"),
    "What is raised": ("errors", "Errors: classes and attributes"),
}


_KITS = {
    "testing": (
        "Testing: scenarios, test engines, simulation, replay, store conformance",
        (
            "testing.scenario",
            "testing.reactions",
            "testing.memory_engine",
            "testing.simulation",
            "testing.replaying",
            "testing.pytest_plugin",
            "testing.conformance",
        ),
    ),
    "integrations": (
        "Integrations: ASGI, FastAPI, console, MCP, server-sent events, OpenTelemetry, SQLAlchemy",
        (
            "integrations.asgi",
            "integrations.fastapi",
            "integrations.event_stream",
            "integrations.health",
            "integrations.server",
            "integrations.console",
            "integrations.mcp",
            "integrations.mongodb",
            "integrations.opensearch",
            "integrations.opentelemetry",
            "integrations.redis",
            "integrations.sqlalchemy",
        ),
    ),
    "relays": ("Relays: message brokers", ("relays",)),
    "imports": ("Imports: events of other stores", ("imports",)),
    "stores": ("Stores: the contract of a store of your own", ("stores.contract.log",)),
}


def groups(package: Path) -> Iterator[tuple[str, list[str]]]:
    """Give the comment above each group of public names, and the names."""
    lines = (package / "__init__.py").read_text().splitlines()
    for line, names in _listed(package / "__init__.py"):
        yield lines[line - 2].lstrip("# "), names


def _listed(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Give the line and the names of each statement that says what a module's `__all__` has."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign):
            target = node.targets[0]
        elif isinstance(node, ast.AugAssign):
            target = node.target
        else:
            continue
        if isinstance(target, ast.Name) and target.id == "__all__":
            yield node.lineno, ast.literal_eval(node.value)


def names(package: Path) -> dict[str, list[str]]:
    """Give the names on each page, from inside the package."""
    found = {_TITLES[re.split(r"[:.]", comment)[0]][0]: names for comment, names in groups(package)}
    for page, (_, modules) in _KITS.items():
        found[page] = [f"{m}.{name}" for m in modules for name in _names_of(package, m)]
    return found


def pages(package: Path) -> Iterator[tuple[str, str]]:
    """Give path and text of each page."""
    for comment, names in groups(package):
        name, title = _TITLES[re.split(r"[:.]", comment)[0]]
        blocks = "\n\n".join(_block(found) for found in names)
        text = f"# {title}\n\nImport these from `foldline`.\n\n{blocks}\n"
        yield f"reference/api/{name}.md", text
    for name, (title, modules) in _KITS.items():
        parts = [f"# {title}", *(_module(package, module) for module in modules)]
        yield f"reference/api/{name}.md", "\n\n".join(parts) + "\n"


def _block(name: str) -> str:
    """Give one name; an engine is made of parts, whose methods are its own."""
    parts = "\n    options:\n      inherited_members: true" if name == "Engine" else ""
    return f"::: foldline.{name}{parts}"


def _names_of(package: Path, module: str) -> list[str]:
    file = package.joinpath(*module.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    return [name for _, names in _listed(file) for name in names]


def _module(package: Path, module: str) -> str:
    options = "    options:\n      heading_level: 3"
    names = _names_of(package, module)
    blocks = "\n\n".join(f"::: foldline.{module}.{name}\n{options}" for name in names)
    return f"## foldline.{module}\n\nImport these from `foldline.{module}`.\n\n{blocks}"
