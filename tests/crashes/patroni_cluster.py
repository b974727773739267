"""A cluster of three PostgreSQL servers under Patroni, with etcd, of which one leads at a time.

etcd is Debian's. Patroni and psycopg are in a folder of their own, since a server refuses root and
runs as a user who may not see a home folder: `pip install --target FOLDER 'patroni[etcd3]'
'psycopg[binary]'`. All listen on loopback, and are ended by their own process ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.postgres import DEBIAN, children_of, free_port, unprivileged
from tests.support.wires import WAYS, Wire, wire

__all__ = ["NODES", "SCHEMA", "SECONDS", "Cluster", "Node", "lose_leaders", "why_not"]

NODES: Final = 3
SCHEMA: Final = "foldline"
SECONDS: Final = 180.0
"""How long a cluster may take to have a leader again."""
_LOOK_SECONDS: Final = 0.2
_TTL: Final = 20
"""Seconds until a leader that renews nothing is replaced; Patroni takes no fewer."""
LOSSES: Final = ("switched over", "killed", "cut off")


def why_not(packages: str) -> str:
    """Give what is missing here; nothing where a cluster can run."""
    if shutil.which("etcd") is None:
        return "there is no etcd: apt-get install -y --no-install-recommends etcd-server"
    if not (DEBIAN / "postgres").exists():
        return "there is no PostgreSQL 15 of Debian's: apt-get install postgresql-15"
    if not (Path(packages) / "patroni").is_dir():
        return (
            "there is no Patroni in the folder of --packages: "
            "pip install --target FOLDER 'patroni[etcd3]' 'psycopg[binary]'"
        )
    return ""


class Node:
    """One server with its Patroni, and the wires by which others and etcd are reached."""

    def __init__(self, number: int, folder: Path) -> None:
        self.name = f"node{number}"
        self.folder = folder / self.name
        self.port = free_port()
        self.api_port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.others: Wire | None = None
        """Before this server, for the other ones."""
        self.etcd: Wire | None = None

    def cut_off(self) -> None:
        """Let neither etcd nor the other servers hear of it, nor it of them."""
        for found in (self.others, self.etcd):
            assert found is not None
            found.hold(*WAYS)

    def join(self) -> None:
        """Let it be heard again."""
        for found in (self.others, self.etcd):
            assert found is not None
            found.release()

    def kill(self) -> None:
        """Kill Patroni and its server, as the loss of a machine does."""
        process, self.process = self.process, None
        if process is None:
            return
        found = [process.pid]
        for pid in found:
            found += children_of(pid)
        server = self.folder / "data" / "postmaster.pid"
        if server.exists():
            postmaster = int(server.read_text().split()[0])
            found += [postmaster, *children_of(postmaster)]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(60)

    def ask(self, path: str, body: Mapping[str, str] | None = None) -> Any:
        """Ask its Patroni; give the answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.api_port}{path}", data=data)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()


class Cluster:
    """Three nodes and an etcd, in one folder."""

    def __init__(self, folder: Path, packages: Path, *, synchronous: bool) -> None:
        self.nodes = [Node(number, folder) for number in range(NODES)]
        self.synchronous = synchronous
        self._folder = folder
        self._packages = packages
        self._etcd_port = free_port()
        self._etcd: subprocess.Popen[bytes] | None = None

    def url(self, schema: str = SCHEMA) -> str:
        """Give the URL of a log in whichever server leads."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://postgres@{hosts}/postgres?schema={schema}&lease=2&patience=120"

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Cluster]:
        """Start it; give it when one leads and two follow."""
        async with AsyncExitStack() as stack:
            stack.callback(self._end)
            self._start_etcd()
            for node in self.nodes:
                node.others = await stack.enter_async_context(wire(node.port))
                node.etcd = await stack.enter_async_context(wire(self._etcd_port))
                self.start(node)
            await self.be_whole()
            yield self

    async def be_whole(self) -> None:
        """Let all nodes be heard again, and wait until one leads and the others follow."""
        for node in self.nodes:
            node.join()
            if node.process is None:
                self.start(node)
        await self.until(lambda: len(self.followers()) == NODES - 1)

    def _start_etcd(self) -> None:
        here = f"http://127.0.0.1:{self._etcd_port}"
        peers = f"http://127.0.0.1:{free_port()}"
        words = ("--listen-client-urls", here, "--advertise-client-urls", here)
        peer = ("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers)
        first = ("--initial-cluster", f"default={peers}", "--data-dir", self._folder / "etcd")
        with (self._folder / "etcd.log").open("ab") as log:
            self._etcd = subprocess.Popen(["etcd", *words, *peer, *first], stdout=log, stderr=log)

    def start(self, node: Node) -> None:
        """Start the Patroni of a node, which starts its server."""
        user = unprivileged()
        node.folder.mkdir(exist_ok=True)
        (node.folder / "patroni.json").write_text(json.dumps(self._settings(node)))
        as_user = ["setpriv", "--pdeathsig", "KILL"]
        if user is not None:
            os.chown(node.folder, user.pw_uid, user.pw_gid)
            ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
            as_user += [*ids, "--clear-groups", "--inh-caps=-all"]
        python = self._python(as_user)
        with (node.folder / "patroni.log").open("ab") as log:
            node.process = subprocess.Popen(
                [*as_user, str(python), "-m", "patroni", str(node.folder / "patroni.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=node.folder,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(node.folder),
                    "LC_ALL": "C.UTF-8",
                },
            )

    def _python(self, as_user: list[str]) -> Path:
        """Give a Python that the servers' user may run, and that finds Patroni by itself.

        Patroni starts itself again, with little of its environment.
        """
        made = self._folder / "python"
        if not made.exists():
            found = (sys.executable, "/usr/bin/python3")
            may = [python for python in found if _runs(*as_user, "test", "-x", python)]
            assert may, "no Python is there that another user may run"
            assert _runs(may[0], "-m", "venv", "--without-pip", made)
            [packages] = made.glob("lib/python*/site-packages")
            (packages / "patroni.pth").write_text(f"{self._packages.absolute()}\n")
        return made / "bin" / "python"

    def _settings(self, node: Node) -> Mapping[str, Any]:
        assert node.others is not None
        assert node.etcd is not None
        trust = [f"host {what} all 127.0.0.1/32 trust" for what in ("all", "replication")]
        return {
            "scope": "log",
            "name": node.name,
            "restapi": {
                "listen": f"127.0.0.1:{node.api_port}",
                "connect_address": f"127.0.0.1:{node.api_port}",
            },
            # It would go to where etcd itself says that it is, past the wire.
            "etcd3": {"hosts": [f"127.0.0.1:{node.etcd.port}"], "use_proxies": True},
            "bootstrap": {
                "dcs": {
                    "ttl": _TTL,
                    "loop_wait": 1,
                    "retry_timeout": 3,
                    "synchronous_mode": self.synchronous,
                    "synchronous_mode_strict": self.synchronous,
                    "postgresql": {"use_pg_rewind": True, "parameters": {"wal_log_hints": "on"}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{node.port}",
                "connect_address": f"127.0.0.1:{node.others.port}",
                "data_dir": str(node.folder / "data"),
                "bin_dir": str(DEBIAN),
                "pgpass": str(node.folder / "pgpass"),
                "use_unix_socket": True,
                "authentication": {
                    "superuser": {"username": "postgres"},
                    "replication": {"username": "replicator"},
                },
                "parameters": {"unix_socket_directories": str(node.folder)},
                "pg_hba": [*trust, "local all all trust"],
            },
        }

    def _end(self) -> None:
        for node in self.nodes:
            node.kill()
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait(60)

    # -- who leads ----------------------------------------------------------------------------

    def leader(self) -> Node | None:
        """Give the one node that says that it leads; None where none or two do."""
        found = [node for node in self.nodes if self.is_so(node, "/primary")]
        return found[0] if len(found) == 1 else None

    def followers(self) -> list[Node]:
        """Give those that follow the leader, in step with it where they must be."""
        found = [node for node in self.nodes if self.is_so(node, "/replica?lag=0")]
        if self.synchronous and not any(self.is_so(node, "/synchronous") for node in found):
            return []
        return found if self.leader() is not None else []

    def is_so(self, node: Node, path: str) -> bool:
        """Tell what a node's Patroni says to one of its questions."""
        try:
            node.ask(path)
        except OSError:
            return False
        return True

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, as the nodes say."""
        end = time.monotonic() + SECONDS
        while not await asyncio.to_thread(condition):
            if time.monotonic() > end:
                raise AssertionError(f"the cluster did not come to this; see {self._folder}")
            await asyncio.sleep(_LOOK_SECONDS)

    def rows(self) -> list[tuple[str, int, int]]:
        """Read the log of the leader with psql: streams, versions and positions."""
        lines = self.sql(f"SELECT stream, version, position FROM {SCHEMA}.log ORDER BY position")
        return [(stream, int(version), int(position)) for stream, version, position in lines]

    def sql(self, asked: str) -> list[list[str]]:
        """Ask the leader with psql; give the rows as texts."""
        leader = self.leader()
        assert leader is not None, "it is waited for"
        where = ("-h", "127.0.0.1", "-p", str(leader.port), "-U", "postgres", "-d", "postgres")
        words = [str(DEBIAN / "psql"), *where, "-XAtqc", asked]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return [line.split("|") for line in done.stdout.splitlines()]


def _runs(*command: str | Path) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


async def lose_leaders(
    cluster: Cluster, go_on: Callable[[], Awaitable[None]], ways: Sequence[str] = LOSSES
) -> None:
    """Let the leader go in each of these ways; `go_on` waits until more was acknowledged."""
    for what in ways:
        began, leader = time.monotonic(), cluster.leader()
        assert leader is not None
        await _lose(cluster, leader, what)
        await cluster.until(lambda former=leader: cluster.leader() not in (None, former))  # type: ignore[misc]
        next_one = time.monotonic() - began
        await go_on()
        seconds = time.monotonic() - began
        print(
            f"the leader was {what}: the next one {next_one:.1f} s later, more acknowledged "
            f"{seconds:.1f} s later",
            flush=True,
        )
        await cluster.be_whole()


async def _lose(cluster: Cluster, leader: Node, what: str) -> None:
    if what == "killed":
        leader.kill()
    elif what == "cut off":
        leader.cut_off()
    else:
        follower = next(n for n in cluster.nodes if n is not leader and cluster.is_so(n, "/sync"))
        words = {"leader": leader.name, "candidate": follower.name}
        await asyncio.to_thread(leader.ask, "/switchover", words)
