"""DynamoDB for tests and benchmarks: an emulator (MiniStack), behind a gate that can be killed.

The emulator checks conditions, tokens and limits as the service does, and makes one call after the
other. It keeps everything in memory, so `kill` kills the gate alone: every connection breaks, and
nobody is reached. No durability is shown here: that is the service's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.stores.dynamodb.address import read_address
from engine.stores.dynamodb.calls import Calls
from engine.stores.dynamodb.store import DynamoStore
from tests.support.brokers import LOOK_SECONDS, SECONDS, Broker, program
from tests.support.postgres import free_port

ROOT = Path(__file__).parents[2]
REGION = "eu-west-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "a-word-of-his-own"}


class DynamoServer(Broker):
    """One emulator, with a table in it once a store has been opened."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.inner = free_port()
        self._emulator: subprocess.Popen[bytes] | None = None
        self.tables = 1
        """One for each log: the last one is meant."""
        os.environ.update(CREDENTIALS)  # as an engine finds them

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "tests.support.gate", str(self.port), str(self.inner)]

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "PYTHONPATH": str(ROOT)}

    def start(self) -> None:
        """Start it; the first time with the emulator behind it."""
        if self._emulator is None:
            self._start_emulator()
        super().start()

    def _start_emulator(self) -> None:
        given = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(self.inner), "SERVICES": "dynamodb"}
        path = self.folder / "emulator.log"
        with path.open("ab") as log:
            self._emulator = process = subprocess.Popen(
                [program("ministack", "pip install ministack")],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**super().environment(), **given, "LOG_LEVEL": "ERROR"},
            )
        until = time.monotonic() + SECONDS
        while not self._answers():
            alive = process.poll() is None and time.monotonic() < until
            assert alive, f"the emulator is not ready:\n{path.read_text()[-2_000:]}"
            time.sleep(LOOK_SECONDS)

    def _answers(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self.inner}/_ministack/health"
            with urllib.request.urlopen(url, timeout=SECONDS) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def close(self) -> None:
        super().close()
        if self._emulator is not None:
            self._emulator.kill()
            self._emulator.wait(SECONDS)

    def store_url(self, *options: str, port: int | None = None) -> str:
        """Give the URL of a log in it; a lease of a second, unless an option says another."""
        given = [f"endpoint=http://127.0.0.1:{port or self.port}", "create=table", *options]
        if not any("lease" in option for option in options):
            given.append("lease=1")
        return f"dynamodb://{REGION}/bank-{self.tables}?{'&'.join(given)}"

    def store(self, *options: str, port: int | None = None) -> DynamoStore:
        """Give the log in it, not yet open."""
        return DynamoStore(read_address(self.store_url(*options, port=port)))

    async def client(self) -> Calls:
        """Give a client of somebody else, who passes the gate by."""
        made = Calls(read_address(self.store_url(port=self.inner)))
        await made.open()
        return made

    async def change(self, key: Mapping[str, Any], name: str, value: Mapping[str, Any]) -> None:
        """Change an attribute of an item, as somebody else would."""
        client = await self.client()
        try:
            await client.once(
                "update_item",
                Key=key,
                UpdateExpression="SET #name = :value",
                ExpressionAttributeNames={"#name": name},
                ExpressionAttributeValues={":value": value},
            )
        finally:
            await client.close()
