"""A pooler in transaction mode before the modelled server: each transaction gets any session.

Rules: a client has a session of the server's from the first statement of a transaction to its
commit, and whatever is free for the next one. What a session keeps (its locks, what was prepared)
stays with it, whoever has it next. A client that goes in the middle of a transaction, or of a
statement, takes its session along; one that waits for a session gets none and leaves no trace. As
a real pooler, it says nothing of what the server says besides an answer to a client that is gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from .server import Answer, Backend, Server, server_error

__all__ = ["PooledClient", "Pooler"]

_SESSIONS_MAX: Final = 6


class PooledClient:
    """One connection of a client's."""

    def __init__(self, hang_up: Callable[[BaseException | None], None], owner: int) -> None:
        self.hang_up = hang_up
        self.owner = owner
        self.inbox: deque[tuple[str, Sequence[Any], Answer, bool]] = deque()
        self.backend: Backend | None = None
        """Which it has now."""
        self.busy = False
        """Whether a statement of its is under way."""
        self.ended = False
        self.warned: Callable[[], None] = lambda: None


class Pooler:
    """Has the sessions of one server."""

    def __init__(self, server: Server, random: Random) -> None:
        self._server = server
        self._random = random
        self._free: list[Backend] = []
        self._all: dict[Backend, PooledClient | None] = {}
        self._waiting: deque[PooledClient] = deque()
        self.handed_over = 0
        """Transactions that went over another session than the client's last one."""
        self._last: dict[PooledClient, Backend] = {}

    def connect(self, hang_up: Callable[[BaseException | None], None], owner: int) -> PooledClient:
        """Take a client, who needs no session yet."""
        return PooledClient(hang_up, owner)

    def receive(
        self,
        client: PooledClient,
        query: str,
        values: Sequence[Any],
        answer: Answer,
        *,
        prepared: bool = False,
    ) -> None:
        """Take a statement."""
        if not client.ended:
            client.inbox.append((query, values, answer, prepared))
            self._next(client)

    def cancel(self, client: PooledClient) -> None:
        """Cancel what a client has under way."""
        if client.backend is not None and client.busy:
            self._server.cancel(client.backend)

    def end_of_file(self, client: PooledClient) -> None:
        """The client is gone."""
        client.ended = True
        client.inbox.clear()
        self._last.pop(client, None)
        if client in self._waiting:
            self._waiting.remove(client)
        backend, client.backend = client.backend, None
        if backend is not None:
            del self._all[backend]
            self._server.end_of_file(backend)
            self._serve()

    def _next(self, client: PooledClient) -> None:
        if client.busy or client.ended or not client.inbox:
            return
        if client.backend is None and not self._take(client):
            return
        backend = client.backend
        assert backend is not None
        client.busy = True
        query, values, answer, prepared = client.inbox.popleft()

        def answered(rows: Any, error: BaseException | None) -> None:
            client.busy = False
            answer(rows, error)
            if client.backend is backend and not backend.in_block:
                self._give_back(client, backend)
            self._server.later(0.0, self._next, client)

        self._server.receive(backend, query, values, answered, prepared=prepared)

    def _take(self, client: PooledClient) -> bool:
        """Give a client any session; tell whether there is one."""
        if not self._server.up:
            client.ended = True
            client.hang_up(server_error("08P01", "server closed the connection unexpectedly"))
            return False
        grows = len(self._all) < _SESSIONS_MAX and self._random.random() < 0.2
        if self._free and not grows:
            backend = self._free.pop(self._random.randrange(len(self._free)))
        elif len(self._all) < _SESSIONS_MAX:
            backend = self._connected()
        else:
            if client not in self._waiting:
                self._waiting.append(client)
            return False
        self.handed_over += self._last.get(client, backend) is not backend
        self._last[client] = backend
        self._all[backend] = client
        client.backend, backend.owner, backend.warn = backend, client.owner, client.warned
        return True

    def _connected(self) -> Backend:
        def hung_up(error: BaseException | None) -> None:
            client = self._all.pop(backend, None)
            if backend in self._free:
                self._free.remove(backend)
            if client is not None:
                client.backend, client.ended = None, True
                client.inbox.clear()
                client.hang_up(error)

        backend = self._server.connect(hung_up)
        return backend

    def _give_back(self, client: PooledClient, backend: Backend) -> None:
        client.backend = None
        if not backend.ended:
            self._all[backend] = None
            self._free.append(backend)
        self._serve()

    def _serve(self) -> None:
        if self._waiting:
            self._server.later(0.0, self._next, self._waiting.popleft())
