"""A real MariaDB server for tests: on loopback, a free port, and a private folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from tests.support.postgres import free_port

SECONDS: Final = 60
INSTALL: Final = "there is no mariadbd: apt-get install -y --no-install-recommends mariadb-server"


class MariaServer:
    """One server; `start` it. Its root has no password, and is known on loopback only."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.program = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
        if self.program is None:
            assert os.environ.get("CI") != "true", INSTALL
            pytest.skip(INSTALL)
        self.folder = folder
        self.options = options
        """What it is started with beside the usual."""
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        made = ["mariadb-install-db", "--no-defaults", f"--datadir={folder}/data"]
        made += [f"--user={self._user}", "--auth-root-authentication-method=normal"]
        subprocess.run([*made, "--skip-test-db"], check=True, capture_output=True)

    @property
    def _user(self) -> str:
        return "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")

    @property
    def url(self) -> str:
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start it; return when it speaks."""
        options = [f"--datadir={self.folder}/data", f"--socket={self.folder}/socket"]
        options += [f"--port={self.port}", "--bind-address=127.0.0.1", f"--user={self._user}"]
        assert self.program is not None
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.program, "--no-defaults", *options, *self.options], stdout=log, stderr=log
            )
        until = time.monotonic() + SECONDS
        while not self._speaks():
            alive = self._process.poll() is None and time.monotonic() < until
            assert alive, (self.folder / "server.log").read_text()
            time.sleep(0.02)

    def _speaks(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as asking:
                return bool(asking.recv(1))
        except OSError:
            return False

    def kill(self) -> None:
        """Kill it, as a loss of its process would."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(SECONDS)
