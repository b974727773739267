"""A server that speaks MongoDB's protocol, for tests: SecantusDB, on MongoDB's storage engine.

It is not MongoDB: its commands are written anew in Python. It keeps what it has through a kill,
asks for credentials and speaks TLS.
"""

from __future__ import annotations

from collections.abc import Sequence

import pymongo

from tests.support.brokers import PASSWORD, USER, Broker, program


class MongoServer(Broker):
    """One server, in a private folder; the first start makes its user."""

    scheme = "mongodb"
    safe_scheme = "mongodb"
    _has_user = False

    def url_of(
        self, user: str, password: str, *, port: int | None = None, safe: bool = False
    ) -> str:
        # By its own word it is a set of one, which would lead clients past another port.
        options = "authSource=admin&directConnection=true" + ("&tls=true" if safe else "")
        return f"{super().url_of(user, password, port=port)}/shop?{options}"

    def command(self) -> Sequence[str]:
        started = [program("secantusd-py", "pip install secantusdb"), "--host", "127.0.0.1"]
        started += ["--port", str(self.port), "--storage-path", str(self.folder / "data")]
        started += ["--sync-on-commit", "--cache-size", "64M", "--log-level", "WARNING"]
        if self._has_user:
            started.append("--auth")
        if self.tls is not None:
            started += ["--tls-cert-file", str(self.tls[0]), "--tls-key-file", str(self.tls[1])]
        return started

    def start(self) -> None:
        """Start it, with a user from the beginning; one that encrypts lets everybody in."""
        if self.tls is None and not self._has_user:
            super().start()
            with pymongo.MongoClient[dict[str, object]]("127.0.0.1", self.port) as client:
                client.admin.command("createUser", USER, pwd=PASSWORD, roles=["root"])
            self.stop()
            self._has_user = True
        super().start()

    def client(self) -> pymongo.AsyncMongoClient[dict[str, object]]:
        """Give a reader's client."""
        return pymongo.AsyncMongoClient(self.url)
