"""UmaDB servers for tests and benchmarks: each with a database of its own, on loopback.

What a server has confirmed is in its file, and there after `kill` and `start`. The client that a
test damages what is read by is around the real one: the server finds a change of its file itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engine.stores.umadb.address import read_address
from engine.stores.umadb.calls import umadb
from engine.stores.umadb.store import UmadbStore
from tests.support.brokers import Broker, program


class UmadbServer(Broker):
    """One server."""

    scheme = "umadb"
    key = ""

    def command(self) -> Sequence[str]:
        tls: Sequence[str] = ()
        if self.tls is not None:
            certificate, key = self.tls
            tls = ("--tls-cert", str(certificate), "--tls-key", str(key))
        return [
            program("umadb", "pip install umadb"),
            *("--listen", f"127.0.0.1:{self.port}", "--db-path", str(self.folder / "db")),
            *tls,
            *(("--api-key", self.key) if self.key else ()),
        ]

    def store_url(self, *options: str) -> str:
        """Give the URL of a log in it; a lease of a second, unless an option says another."""
        credentials = f"{self.key}@" if self.key else ""
        query = "&".join(options if any("lease" in o for o in options) else (*options, "lease=1"))
        return f"umadb://{credentials}127.0.0.1:{self.port}?{query}"

    def store(self, *options: str) -> UmadbStore:
        """Give the log in it, not yet open."""
        return UmadbStore(read_address(self.store_url(*options)))

    def client(self) -> Any:
        """Give a client of somebody else."""
        return umadb().Client(f"http://127.0.0.1:{self.port}")


class Spoiling:
    """A client whose reads give one event otherwise than it was written."""

    def __init__(self, client: Any, position: int, field: str) -> None:
        self._client = client
        self._position = position
        self._field = field

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def read(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        for found in self._client.read(*arguments, **options):
            yield self._spoiled(found) if found.position == self._position else found

    def _spoiled(self, found: Any) -> Any:
        event = found.event
        data, metadata = bytes(event.data), dict(event.metadata)
        names = ["version", "event_version", "recorded", "encoding", "checksum"]
        if self._field in names:
            numbers = [int(number) for number in metadata["foldline"].split(" ")]
            numbers[names.index(self._field)] += 5
            metadata["foldline"] = " ".join(map(str, numbers))
        elif self._field == "metadata":
            metadata["metadata"] += " "
        else:
            data += b"x"
        changed = {"event_type": event.event_type, "tags": event.tags, "uuid": event.uuid}
        return SimpleNamespace(
            position=found.position,
            event=SimpleNamespace(data=data, metadata=metadata, **changed),
        )


def servers(folder: Path) -> Iterator[UmadbServer]:
    """Give new servers, each of its own folder."""
    number = 0
    while True:
        number += 1
        yield UmadbServer(folder / f"umadb-{number}")
