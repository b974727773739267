"""A server, or a pooler before it, that has no more connections than a test lets it have."""

from __future__ import annotations

from engine.stores.postgres.address import Address
from engine.stores.postgres.driver import Asyncpg, Connection
from engine.stores.postgres.failures import cannot_connect


class TooManyError(Exception):
    """What the server says."""

    sqlstate = "53300"
    message = "sorry, too many clients already"


class Scarce:
    """A driver that has no more connections than it is told."""

    def __init__(self) -> None:
        self.most = 1_000
        self._given: list[Connection] = []

    async def connect(self, address: Address) -> tuple[Connection, bool]:
        if len(self.open()) >= self.most:
            raise cannot_connect(address, TooManyError()) from TooManyError()
        found = await Asyncpg().connect(address)
        self._given.append(found[0])
        return found

    def open(self) -> list[Connection]:
        self._given = [one for one in self._given if not one.is_closed()]
        return self._given
