"""A real PgBouncer before a server, for tests: it pools transactions if not told otherwise.

What it says is read for as long as it runs, into a file in the server's folder: behind a server
that restarts it says much, and would wait for who reads it. It asks such a server again at once.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.postgres import SECONDS, Server, free_port

_SETTINGS = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {mode}
default_pool_size = {size}
log_connections = 0
log_disconnections = 0
log_stats = 0
server_login_retry = 0.1
"""
READY = "process up"


def program() -> str:
    """Give where PgBouncer is; skip the test where it is not installed, and fail where CI=true."""
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("install Debian's pgbouncer, as .ci/run does")
        pytest.skip("pgbouncer is not installed")
    return found


@contextmanager
def pooler(server: Server, mode: str = "transaction", size: int = 3) -> Generator[int]:
    """Start one with so many connections to the server; give its port; end it."""
    port = free_port()
    settings, users = server.folder / f"pooler-{port}.ini", server.folder / f"users-{port}.txt"
    users.write_text('"postgres" ""\n')
    where = {"server": server.port, "port": port, "users": users}
    settings.write_text(_SETTINGS.format(**where, mode=mode, size=size))
    for made in (settings, users):
        made.chmod(0o644)
    with subprocess.Popen(
        [*server.as_user("TERM"), program(), str(settings)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=server.folder,
        text=True,
    ) as process:
        log, ready = server.folder / f"pooler-{port}.log", threading.Event()
        reading = threading.Thread(target=_read, args=(process, log, ready))
        reading.start()
        try:
            assert ready.wait(SECONDS), "it says nothing"
            assert process.poll() is None, f"it did not start: {log.read_text()}"
            yield port
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(SECONDS)
            reading.join(SECONDS)


def _read(process: subprocess.Popen[str], log: Path, ready: threading.Event) -> None:
    assert process.stderr is not None
    with log.open("w") as kept:
        for line in process.stderr:
            kept.write(line)
            kept.flush()
            if READY in line:
                ready.set()
    ready.set()
