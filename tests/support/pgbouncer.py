"""A real PgBouncer before a server, for tests: it pools transactions if not told otherwise."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

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
"""
# Nobody reads what it says later: with a line for each connection, it would wait for that.
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
def pooler(server: Server, mode: str = "transaction", size: int = 3) -> Iterator[int]:
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
        assert process.stderr is not None
        try:
            said: list[str] = []
            for line in process.stderr:
                said.append(line)
                if READY in line:
                    break
            else:
                raise AssertionError(f"it did not start: {''.join(said)}")
            yield port
        finally:
            process.send_signal(signal.SIGINT)
            process.stderr.close()
            process.wait(SECONDS)
