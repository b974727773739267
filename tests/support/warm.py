"""Processes of Python that need not import the engine: they are forked from one that has.

Rules: such a process is as `python -m MODULE` or `python -c PROGRAM` makes it, and is there a
quarter of a second of processor time sooner. It has streams, a folder, variables, a process id and
an end of its own, and is killed like any other. What depends on how an interpreter starts is not
asked for here: flags, another interpreter, the order of imports. Variables that Python reads when
it starts are those of the tests, or the process is started cold.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
PRELOADED: Final = ("engine.__main__", "domain.__main__", "tests.support.counters")
_READ_LATER: Final = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}
_LEAST_SPARE: Final = 200
"""Descriptors from here on are out of the way of those that a process shall have."""
_READ_AT_START: Final = ("PYTHON", "LC_", "LANG", "MALLOC")

Job = dict[str, Any]


# -- in the tests -------------------------------------------------------------------------------


class Warm(subprocess.Popen[Any]):
    """`subprocess.Popen` of `[sys.executable, "-m" or "-c", ...]`."""

    _status: socket.socket | None = None

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        _close_fds, pass_fds, cwd, env, _startup, _flags, shell, *ends = rest
        streams, start_new_session = ends[:6], ends[11]
        variables = {**os.environ} if env is None else {**env}
        command = [os.fsdecode(part) for part in args]
        if command[0] != sys.executable or command[1] not in ("-m", "-c"):
            raise ValueError(f"{command[:2]} is not started warm")
        if preexec_fn or shell or executable or start_new_session or _read_at_start(variables):
            super()._execute_child(args, executable, preexec_fn, *rest)  # type: ignore[misc]
            return
        stdin, _, _, stdout, _, stderr = streams
        given = [n if own < 0 else own for n, own in enumerate((stdin, stdout, stderr))]
        job = {"command": command[1:], "cwd": os.fspath(cwd or Path.cwd()), "env": variables}
        try:
            self.pid, self._status = _server().start(job, [*given, *pass_fds], [0, 1, 2, *pass_fds])
            self._child_created = True
        finally:
            self._close_pipe_fds(*streams)  # type: ignore[attr-defined]

    def _internal_poll(self, *arguments: Any, **options: Any) -> int | None:
        if self._status is None:
            found: int | None = super()._internal_poll(*arguments, **options)  # type: ignore[misc]
            return found
        return self.returncode if self._ended(0) else None

    def _wait(self, timeout: float | None) -> int:
        if self._status is None:
            waited: int = super()._wait(timeout)  # type: ignore[misc]
            return waited
        if not self._ended(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _ended(self, timeout: float | None) -> bool:
        if self.returncode is None:
            assert self._status is not None
            if not select.select([self._status], [], [], timeout)[0]:
                return False
            told = self._status.recv(100)
            assert told, "the server of warm processes has ended"
            self.returncode = os.waitstatus_to_exitcode(int(told))
            self._status.close()
        return True


def run(
    command: Sequence[Any],
    *,
    input: Any = None,  # noqa: A002 - as `subprocess.run` has it
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run`, warm."""
    if capture_output:
        options["stdout"] = options["stderr"] = subprocess.PIPE
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with Warm(command, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _read_at_start(variables: Mapping[str, str]) -> bool:
    """Tell whether Python would read other variables when it starts than it did for the tests."""

    def read(of: Mapping[str, str]) -> dict[str, str]:
        names = (name for name in of if name.startswith(_READ_AT_START))
        return {name: of[name] for name in names if name not in _READ_LATER}

    return read(variables) != read(os.environ)


class _Server:
    """The process that forks."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        atexit.register(self.end)

    def start(
        self, job: Job, descriptors: Sequence[int], places: Sequence[int]
    ) -> tuple[int, socket.socket]:
        """Have a process started; give its id, and where its status will come."""
        ours, theirs = socket.socketpair()
        text = json.dumps({**job, "places": places}).encode(errors="surrogateescape")
        with self._lock, theirs:
            head = len(text).to_bytes(4, "big")
            socket.send_fds(self._line, [head], [theirs.fileno(), *descriptors])
            self._line.sendall(text)
            pid = int.from_bytes(ours.recv(4), "big")
        assert pid, "the server of warm processes has ended"
        return pid, ours

    def end(self) -> None:
        """Let it end, and wait for that."""
        self._line.close()
        self._process.wait()


_SERVERS: Final[dict[int, _Server]] = {}
"""That of this process; one that was forked from it makes its own."""


def _server() -> _Server:
    pid = os.getpid()
    if pid not in _SERVERS:
        _SERVERS[pid] = _Server()
    return _SERVERS[pid]


# -- in the server, and in what it forks ----------------------------------------------------------


def serve(line: socket.socket) -> Job | None:
    """Fork for each job until the tests have ended; give the job to who was forked for it."""
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the tests'
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([line.fileno(), waking], [], [])
        if waking in ready:
            os.read(waking, 4_096)
            report(running)
        if line.fileno() not in ready:
            continue
        head, descriptors, _, _ = socket.recv_fds(line, 4, 100)
        if not head:
            return None
        text = line.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
        job: Job = {**json.loads(text), "descriptors": descriptors[1:]}
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            return job
        running[pid] = socket.socket(fileno=descriptors[0])
        running[pid].sendall(pid.to_bytes(4, "big"))
        for descriptor in descriptors[1:]:
            os.close(descriptor)


def report(running: dict[int, socket.socket]) -> None:
    """Give the status of each that has ended to who waits for it."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with running.pop(pid) as line:
            try:
                line.sendall(str(status).encode())
            except BrokenPipeError:
                continue  # nobody waits for it


def become(job: Job) -> None:
    """Be the process that was asked for, up to what it runs."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    places: Sequence[int] = job["places"]
    spare = [os.dup2(d, _LEAST_SPARE + n) for n, d in enumerate(job["descriptors"])]
    os.closerange(3, _LEAST_SPARE)
    for descriptor, place in zip(spare, places, strict=True):
        os.dup2(descriptor, place)
        os.close(descriptor)
    installed = sys.path[1:]
    for path in _paths():
        if path == installed[0]:
            del installed[0]
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    begin = "" if job["command"][0] == "-c" else job["cwd"]
    sys.path[:] = [begin, *_paths(), *installed]
    sys.stdin = sys.__stdin__ = _stream(0, sys.stdin)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, sys.stdout)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, sys.stderr)  # type: ignore[misc]


def _paths() -> Sequence[str]:
    """Give what PYTHONPATH names, as the interpreter puts it on the path of modules."""
    named = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return list(dict.fromkeys(str(Path(path).absolute()) for path in named))


def _stream(number: int, like: Any) -> Any:
    """Give a stream of this process, which is opened as the interpreter opened another."""
    through: bool = like.write_through
    lines = not through and (number == 2 or os.isatty(number))
    raw = open(number, "wb" if number else "rb", 0 if through and number else -1)  # noqa: SIM115
    return io.TextIOWrapper(
        raw,
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=lines,
        write_through=through,
    )


def execute(how: str, what: str, *arguments: str) -> None:
    """Run a module or a program, as the interpreter does."""
    sys.argv[:] = [how, *arguments]
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), main.__dict__)


def main() -> None:
    """Serve; or be what was forked."""
    for name in PRELOADED:
        importlib.import_module(name)
        if name.endswith(".__main__"):
            # It will be run, and not be imported.
            del sys.modules[name]
            delattr(sys.modules[name.rpartition(".")[0]], "__main__")
    gc.collect()
    gc.freeze()
    job = serve(socket.socket(fileno=int(sys.argv[1])))
    if job is not None:
        become(job)
        execute(*job["command"])


if __name__ == "__main__":
    main()
