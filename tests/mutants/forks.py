"""A program in a copy of the tree: it imports what the tests need once, and forks for each run.

Rules: it is started as a file of the copy, never as a module, so that it has imported nothing of
the tree; nor has it threads. It reads calls as lines of JSON (`tests`, `test_seconds_max` of each,
`seconds_max` of all) and answers each by a line (`status`, `output`, `begun`: the test that was
begun last). A child runs pytest on the copy as that is then, in a session of its own, of which
nothing is left when it has ended. A status below 0 is a run that had to be killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import IO, NoReturn

OPTIONS = ["-x", "-q", "-p", "no:cacheprovider"]
LIBRARIES = (
    "anyio._backends._asyncio",
    "apsw",
    "apsw.unicode",
    "asyncio",
    "httpx",
    "hypothesis",
    "msgspec",
    "opentelemetry.sdk.metrics",
    "opentelemetry.sdk.trace",
    "starlette.applications",
    "uvicorn",
    "uvloop",
)
"""What the tree imports; those that are not installed are left out."""
IMPORT_ALL = """
import contextlib, importlib

def test_nothing():
    for name in {}:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
"""
ALONE = ["-q", "-c", os.devnull, "-o", "asyncio_default_fixture_loop_scope=function"]
OURS = ("engine", "domain", "tests", "benchmarks")
KILLED = -1


def prepare() -> None:
    """Have pytest import its plugins and the libraries, as it does for a test."""
    import pytest

    with tempfile.TemporaryDirectory() as empty:
        Path(empty, "test_nothing.py").write_text(IMPORT_ALL.format(LIBRARIES))
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            status = pytest.main([*ALONE, "--rootdir", empty, empty])
    assert status == 0, "the libraries cannot be imported"
    sys.modules.pop("test_nothing", None)
    loaded = [name for name in sys.modules if name.partition(".")[0] in OURS]
    assert not loaded, f"{loaded} must not be imported before a mutant is planted"


def run(tests: list[str], test_seconds_max: int, seconds_max: float) -> dict[str, int | str]:
    """Run tests in a child; give its exit status, and what it has printed."""
    options = [*OPTIONS, "-o", f"faulthandler_timeout={test_seconds_max}"]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as begun:
        pid = os.fork()
        if pid == 0:
            be_a_child([*options, *tests], output.fileno(), Begun(begun.fileno()))
        status = end_of(pid, seconds_max)
        said, last = (text_of(file) for file in (output, begun))
        return {"status": status, "output": said, "begun": last}


def text_of(file: IO[bytes]) -> str:
    """Read a file that a child has written."""
    file.seek(0)
    return file.read().decode(errors="replace")


class Begun:
    """A plugin that keeps in a file which test was begun last: of a hang nothing else tells."""

    def __init__(self, file: int) -> None:
        self._file = file

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Keep the test that begins."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, nodeid.encode(), 0)


def be_a_child(arguments: list[str], output: int, begun: Begun) -> NoReturn:
    """Run pytest, and end without a word to what the parent has open."""
    status = 3
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        import pytest

        status = int(pytest.main(arguments, plugins=[begun]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def end_of(pid: int, seconds_max: float) -> int:
    """Wait for a child, but not longer than that; let nothing of its session stay."""
    watch = os.pidfd_open(pid)
    try:
        in_time = bool(select.select([watch], [], [], seconds_max)[0])
    finally:
        os.close(watch)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if in_time else KILLED


def main() -> None:
    """Answer calls until there are no more."""
    folder = str(Path(__file__).parents[2])
    os.chdir(folder)
    sys.path[0] = folder
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    prepare()
    for line in sys.stdin:
        call = json.loads(line)
        print(json.dumps(run(**call)), file=answers, flush=True)


if __name__ == "__main__":
    main()
