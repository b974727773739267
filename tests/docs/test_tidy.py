"""Style as a test: imports go one way, the world is reached through ports, files stay readable."""

from __future__ import annotations

import ast
import fnmatch
import io
import re
import statistics
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine

ENGINE = Path(engine.__file__).parent
FILES = sorted(ENGINE.rglob("*.py"))
TESTS = Path(__file__).parents[1]

# Only the machine behind the ports reaches these, and whoever stands here with what for.
FORBIDDEN = {"time", "random", "uuid", "threading", "queue", "secrets", "socket", "sqlite3", "os"}
ALLOWED = {
    "runtime.machine": FORBIDDEN,
    "runtime.ports": {"time"},  # names the stopwatch
    "runtime.contained": {"socket"},  # gaierror: the type of an error
    "runtime.native": {"threading", "time"},  # threads that gevent has replaced
    "stores.sqlite.held_files": {"os", "threading"},  # the machine's files
    "stores.sqlite.lock_files": {"os"},
    "stores.sqlite.marks": {"os"},
    "stores.sqlite.system_files": {"os"},
    "imports.event_stores": {"uuid"},  # UUID: the type of a value that is read
    "stores.umadb.form": {"uuid"},  # UUID: the type of a value that is sent
    "model.checking": {"uuid"},  # UUID: the type of a value that is checked
    "write.keys": {"uuid"},  # uuid5 only: a pure function of its arguments
    "runtime.interpreter": {"os"},  # the environment of a child, and its place among processes
    "runtime.folder": {"os"},  # files of a folder, synced
    "runtime.unix_socket": {"os"},  # what a socket's path is to the system
    "cli.console": {"socket"},  # the port that it listens to
    "runtime.private_folder": {"os"},  # a folder's descriptor, which is locked
    "recording.forms": {"os"},  # PathLike and fspath only: what a path is
    "testing.replaying": {"os"},  # the same
    "engine": {"os"},  # PathLike only
    "tenants.names": {"os"},  # PathLike and fspath only: what a path is
    "tenants.tenants": {"os"},  # the same
    "members.joined": {"os"},  # PathLike: what a path is
    "stores.urls": {"os"},  # PathLike and fspath only: what a path is
    "host.entrance": {"os"},  # getpid, register_at_fork: to notice a fork
    "stores.sqlite.process.store": {"os", "socket"},  # a child and the line to it
    "stores.sqlite.process.child": {"os", "socket"},  # a program of its own
    "testing.simulation.disk": {"os", "random"},  # the simulated machine below the ports
    "testing.simulation.fence": FORBIDDEN,  # refuses them
    "testing.simulation.lives": {"random"},  # Random(seed) only, here and below
    "testing.simulation.machine": {"random"},
    "testing.simulation.running": {"os", "random"},  # the environment's seed
    "testing.simulation.schedule": {"random"},
    "testing.simulation.simulation": {"random"},
    "cli.output": {"os"},  # streams that were closed: what is written into them goes nowhere
}

# Each room may import from those above it in this list, and from itself. Rooms of one line do not
# know each other: the write side learns nothing of the projections, nor they of it.
ROOMS: list[set[str]] = [
    {"errors", "explained"},
    {"histogram"},
    {"limits", "statistics", "running"},
    {"runtime"},
    {"model"},
    {"telemetry", "authorization"},
    {"stores.contract"},
    {"stores.leased"},
    {"stores.memory", "stores.sqlite", "stores.postgres", "stores.umadb", "stores.dynamodb"},
    {"stores.own"},
    {"stores.urls"},
    {"log"},
    {"write", "projections"},
    {"queries", "timers"},
    {"middleware"},
    {"retry"},
    {"host"},
    {"personal"},
    {"outside"},
    {"recording"},
    {"imports", "exports"},
    {"backups"},
    {"wiring"},
    {"health"},
    {"brokers"},
    {"members"},
    {"operations"},
    {"calls"},
    {"engine"},
    {"tenants"},
    {"__init__"},
    {"relays"},
    {"integrations", "testing"},
    {"cli"},
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
    if path.is_relative_to(ENGINE / "testing"):
        pytest.importorskip("pytest")
    allowed = ALLOWED.get(module_of(path), set())
    found = {
        f"{name} (line {line})"
        for name, line in imports_of(path)
        if name.split(".")[0] in FORBIDDEN - allowed
    }

    assert not found, f"{path.name} imports {found}: go through engine/runtime/ports.py"


def room_of(module: str) -> tuple[int, str]:
    """Give a module's room, and the room's place in the list."""
    for place, names in enumerate(ROOMS):
        for name in names:
            if module == name or module.startswith(name + "."):
                return place, name
    raise AssertionError(f"{module} is in no room: say in this test where its room stands")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_one_way_between_rooms(path: Path) -> None:
    module = module_of(path)
    if module in {"stores", "projections"}:
        return  # pages, which import nothing
    place, room = room_of(module)
    upward = {
        f"{name[1:]} (line {line})"
        for name, line in imports_of(path)
        if name.startswith(".") and (found := room_of(name[1:] or "__init__"))[1] != room
        if found[0] >= place
    }

    assert not upward, f"{module} imports {upward}, whose room is not below its own"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_file_outside_the_stores_names_a_database(path: Path) -> None:
    if path.is_relative_to(ENGINE / "stores") or path.parent == ENGINE / "testing/simulation":
        return  # a simulated disk lies below a store
    code = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    names = {token.string for token in code if token.type == tokenize.NAME}
    databases = ("sqlite", "apsw", "postgres", "asyncpg", "umadb", "dynamodb")

    assert not {name for name in names if any(word in name.lower() for word in databases)}


def test_no_file_imports_itself_by_way_of_others() -> None:
    left = {
        module_of(path): {name[1:] for name, _ in imports_of(path) if name.startswith(".")}
        for path in FILES
        if "testing" not in path.relative_to(ENGINE).parts
    }
    while free := {name for name, needs in left.items() if not needs & left.keys()}:
        for name in free:
            del left[name]

    assert not left, f"these import each other in a circle, or are behind one: {sorted(left)}"


TOP_LEVEL = {
    *("engine", "domain", "benchmarks", "tests", "docs", ".ci", "pyproject.toml", "README.md"),
    *("requirements-dev.txt", "mkdocs.yml", ".gitignore", "LICENSE", "CHANGELOG.md"),
    *("CONTRIBUTING.md", "SECURITY.md", "AGENTS.md", ".git"),
}


def test_nothing_lies_at_the_top_that_does_not_belong_there() -> None:
    """A program's stray output beside the README would be committed with all else."""
    root = TESTS.parent
    ignored = [line.rstrip("/") for line in (root / ".gitignore").read_text().splitlines()]
    found = {
        path.name
        for path in root.iterdir()
        if path.name not in TOP_LEVEL
        if not any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored)
    }

    assert not found, f"{found}: remove them, or name them in TOP_LEVEL and say what for"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_every_file_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))

    assert docstring, f"{path.name} has no first paragraph"


def test_architecture_shows_each_room_with_the_first_line_of_its_page() -> None:
    named = [path for path in FILES if path.name == "__init__.py" and path.parent != ENGINE]
    named += [path for path in FILES if path.parent == ENGINE and path.name[0] != "_"]
    expected = []
    for path in named:
        page = path.name == "__init__.py"
        name = f"{path.parent.relative_to(ENGINE)}/" if page else path.stem
        head = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        expected.append(f"| `{name}` | {head.rstrip('.')} |")
    text = (ENGINE.parent / "docs/explanation/architecture.md").read_text()

    assert [line for line in expected if line not in text] == []


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

    assert not {name: n for name, n in lengths.items() if n > 60}
    assert statistics.quantiles(lengths.values(), n=10)[-1] <= 25


def test_files_hold_one_noun() -> None:
    """Aim for 400 lines."""
    lengths = {
        str(path): len(path.read_text().splitlines()) for path in (*FILES, *TESTS.rglob("*.py"))
    }

    assert not {name: n for name, n in lengths.items() if n > 500}


def test_no_test_module_is_imported_by_another() -> None:
    found = {
        f"{path.relative_to(TESTS)} (line {node.lineno})"
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom | ast.Import)
        for alias in node.names
        if ".test_" in f".{getattr(node, 'module', '')}.{alias.name}"
    }

    assert not found, f"{found}: what tests share belongs into tests/support or beside the tests"


OWN_NAME = re.compile(
    r"-m engine\b|\b(?:from|import) engine\b|[\"']engine[\"'.]|"
    r"\bengine\.(?:cli|host|integrations|model|outside|runtime|stores|testing|write)\b"
)
"""What would be another module, or none, where the package is installed under another name."""


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_file_names_its_own_package(path: Path) -> None:
    found = [line for line in path.read_text().splitlines() if OWN_NAME.search(line)]

    assert not found, "in code go by engine/runtime/package.py, in a docstring say foldline"


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
