"""Style as a test: imports go one way, the world is reached through ports, files stay readable."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine

ENGINE = Path(engine.__file__).parent
FILES = sorted(ENGINE.rglob("*.py"))

# Only the ports reach these; uuid5 is a pure function, and so is what `os` is used for.
FORBIDDEN = {"time", "random", "uuid", "threading", "queue", "secrets", "socket", "sqlite3", "os"}
ALLOWED = {
    "ports.py": FORBIDDEN,
    "native.py": {"threading", "time"},  # threads that gevent has replaced: for ports and portals
    "system_files.py": {"os", "threading"},  # what ports.py gives as the machine's files
    "keys.py": {"uuid"},  # uuid5 only: a pure function of its arguments
    "urls.py": {"os"},  # PathLike and fspath only: what a path is
    "entrance.py": {"os"},  # getpid only: to notice a fork
    "sqlite_process.py": {"os", "socket"},  # a child, the line to it, whose it is: no port
    "sqlite_child.py": {"os", "socket"},  # is a program of its own, on the machine's own ports
    "output.py": {"os"},  # streams that were closed: what is written into them goes nowhere
}

# Each file may import files of lower rank only: data flows one way, and engine.py wires it.
RANKS: list[set[str]] = [
    {"errors", "stores", "footprint", "commands", "difference", "integrations"},
    {"running", "printing", "integrations.bad_request"},
    {"bell", "safely", "sameness", "system_files", "futures"},
    {"native"},
    {"limits", "annotations", "ports", "statistics", "tracebacks", "given"},
    {"contained"},
    {"watchdog", "read_ahead", "progress", "calls", "arrivals", "exact", "withheld", "copying"},
    {"timekeeping", "ids", "stored"},
    {"messages", "keys", "stores.contract"},
    {"upcasting", "shape"},
    {"codec", "aggregate", "rows", "bus", "telemetry", "stores.memory", "log_reader"},
    {"fingerprint", "mailbox", "projection", "snapshot", "schema", "conditions"} | {"proving"},
    {
        "interest",
        "question",
        "authorization",
        "journal",
        "store_end",
        "deliberation",
        "snapshot_writer",
        "shared_feed",
        "sql_projection",
        "sink",
    },
    {"requests"},
    {"views", "courier"},
    {"parking", "writing", "reading", "stores.sqlite_gathered"},
    {"picking"},
    {"staging"},
    {"work"},
    {"sql_work", "sink_work"},
    {"works"},
    {"kind", "stores.sqlite_wire"},
    {"projector", "stores.sqlite_session", "stores.sqlite_pages"},
    {"stores.sqlite_shape"},
    {"stores.sqlite_views_shape"},
    {"stores.sqlite_schema"},
    {"stores.sqlite_place"},
    {"stores.sqlite_snapshots", "stores.sqlite_wal", "stores.sqlite_parked", "retrying"},
    {"stores.sqlite_damage", "stores.sqlite_heads", "stores.sqlite_lock"},
    {"projecting"},
    {"stores.sqlite_search", "stores.sqlite_own", "stores.sqlite_requests"},
    {"recording", "projections"},
    {"actor", "admission", "answers", "stores.sqlite_tables", "stores.sqlite", "stores.sqlite_reader"},
    {"directory", "stores.sqlite_builds", "stores.sqlite_joined", "stores.sqlite_copy"},
    {"stores.sqlite_process", "stores.sqlite_child"},
    {"stores.sqlite_history", "stores.urls"},
    {"stores.sqlite_keeper", "stores.sqlite_queries"},
    {"stores.sqlite_states"},
    {"stores.sqlite_shown"},
    {"dispatcher", "stores.sqlite_views", "stores.sqlite_views_reader", "history", "reception"},
    {"supervisor", "feed", "live", "past_views", "control", "log_file", "stores.sqlite_outside"},
    {"bulk", "archive", "onlooker", "entrance", "integrations.opentelemetry_metrics"},
    {"portal"},
    {"beside"},
    {"engine", "integrations.conditions", "integrations.origin"},
    {"integrations.asgi", "integrations.opentelemetry"},
    {"integrations.event_stream"},
    {"__init__", "commands.output", "commands.search", "commands.layout"},
    {"commands.options", "commands.application", "commands.standing"},
    {"commands.log", "commands.copy", "commands.tail", "commands.schema", "commands.sql_child"},
    {"commands.sql_bounded"},
    {"commands.sql"},
    {"commands.projections_build"},
    {"commands.projections"},
    {"__main__"},
]


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ENGINE).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Give every imported module, those of the engine relative to its root with a dot before."""
    package = path.relative_to(ENGINE).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                yield node.module or "", node.lineno
                continue
            base = package[: len(package) - (node.level - 1)]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (("." + ".".join((*base, name)), node.lineno) for name in names)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_world_is_reached_through_ports_only(path: Path) -> None:
    if path.is_relative_to(ENGINE / "testing" / "simulation"):
        return  # it makes other ports: of seeds, a virtual time and a disk that forgets
    if path.is_relative_to(ENGINE / "testing"):
        pytest.importorskip("pytest")
    allowed = ALLOWED.get(path.name, set())
    found = {
        f"{name} (line {line})"
        for name, line in imports_of(path)
        if name.split(".")[0] in FORBIDDEN - allowed
    }

    assert not found, f"{path.name} imports {found}: go through engine/ports.py"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_one_way(path: Path) -> None:
    rank = {name: number for number, names in enumerate(RANKS) for name in names}
    module = module_of(path)
    if module.startswith("testing"):
        return
    assert module in rank, f"give {module} its rank in this test"
    upward = {
        f"{name[1:]} (line {line})"
        for name, line in imports_of(path)
        if name.startswith(".") and rank[name[1:]] >= rank[module]
    }

    assert not upward, f"{module} imports {upward}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_every_file_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))

    assert docstring, f"{path.name} has no first paragraph"


def functions() -> Iterator[tuple[str, int]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                begin = (first.end_lineno or 0) if documented else node.lineno
                yield f"{path.name}:{node.name}", (node.end_lineno or 0) - begin + 1


def test_functions_are_short() -> None:
    lengths = dict(functions())

    assert not {name: n for name, n in lengths.items() if n > 70}
    assert statistics.quantiles(lengths.values(), n=10)[-1] <= 25


def test_files_hold_one_noun() -> None:
    lengths = {
        module_of(path): len(path.read_text().splitlines())
        for path in FILES
        if not path.is_relative_to(ENGINE / "testing")  # a suite is as long as its contract
    }

    assert not {name: n for name, n in lengths.items() if n > 600}


def test_public_names_come_from_one_file_each() -> None:
    tree = ast.parse((ENGINE / "__init__.py").read_text())
    names = [
        alias.asname
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]

    assert len(names) == len(set(names))
    assert all(hasattr(engine, name or "") for name in names)
