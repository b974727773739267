"""A read model in an index of OpenSearch or Elasticsearch (the extra `opensearch`).

Rules: those of `rows`; a row is a document, and the position of its last event is its external
version, so the server itself refuses what comes late. Each version of a model has an index of its
own, and the alias that readers ask is moved from one to the next in one step. No index is made by a
write, and none that is not the model's is touched. No redirect is followed. The HTTP client is
imported when the first event comes.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import ssl
from base64 import b64encode
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeAlias, cast
from urllib.parse import quote

import msgspec

from ..brokers.address import Address, read_address
from ..brokers.client import CONNECT_SECONDS, check_installed, load, tls_problem
from ..errors import BrokerFailed, DefinitionError, MessageRefused
from ..model.messages import Event
from ..model.sink import Sink
from .rows import Apply, Change, Found, Key, Row, State, States, row_model

__all__ = ["Apply", "OpenSearchReadModel", "Refresh", "Row"]

Refresh: TypeAlias = Literal["wait_for", "true", "false"]
"""When what was written is found by a search: waited for, at once, or whenever the server does."""

ANSWER_SECONDS: Final = 30.0
"""How long the server may take for one request."""
PART_BYTES: Final = 5_000_000
"""Of one request with documents, unless one document is larger."""
BATCH: Final = 500
"""Events of one delivery, at most."""
GONE: Final = "1d"
"""How long the server knows that a document was removed: what is late does not bring it back."""
ID_BYTES: Final = 512
"""Of the id of a document, at most: the server takes no longer one."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
_OLDEST: Final = {"opensearch": 1, "elasticsearch": 7}
_REFUSED: Final = (400, 413)
_HAS_NO_ROOM: Final = (429, 502, 503, 504)
_WRITE: Final = ".write"
"""Behind the name of an index: the alias by which rows are written, which no write can make."""
_STATE: Final = ".state"
_encode: Final = msgspec.json.Encoder().encode


class _Place:
    """The index of one version of a model."""

    def __init__(
        self,
        address: Address,
        tls: ssl.SSLContext | None,
        name: str,
        version: int,
        body: Mapping[str, Any],
        refresh: Refresh,
    ) -> None:
        self._address = address
        self._tls = tls
        self._name = name
        self._own = f"{name}.v{version}"
        self._body = body
        self._refresh = refresh
        self._shown: str | None = None
        """The index that readers find."""
        self._session: Any = None

    def where(self) -> str:
        return str(self._address)

    async def load(self) -> None:
        await load(self._address)

    @contextmanager
    def failures(self) -> Generator[None]:
        aiohttp: Any = importlib.import_module("aiohttp")
        try:
            yield
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            failed = tls_problem(self._address, error) or BrokerFailed(
                f"{self._address} cannot be reached ({type(error).__name__})", passes=True
            )
        else:
            return
        raise failed

    async def open(self) -> States:
        aiohttp: Any = importlib.import_module("aiohttp")
        connector = aiohttp.TCPConnector(ssl=self._address.tls(self._tls) or False, limit=1)
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=self._headers()
        )
        self._check_version(await self._ask("GET", ""))
        self._shown = self._index_of(await self._ask("GET", f"{self._name}/_alias"))
        there = await self._ask("GET", f"{self._own}/_alias")
        if there is None:
            await self._make()
        elif self._own + _WRITE not in there[self._own]["aliases"]:
            raise self._not_the_models(self._own)
        own = await self._read_state(self._own)
        former = None if self._shown is None else await self._read_state(self._shown)
        return States(own, former, self._shown == self._own)

    async def fail(self) -> None:
        await self.close()

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(Exception):
                await session.close()

    def row(self, made: Mapping[str, Any]) -> Row | None:
        """Give a row as it comes back: what JSON makes of it."""
        row: Row = msgspec.json.decode(_encode(dict(made)), type=dict[str, Any])
        return row

    async def read(self, keys: Sequence[str]) -> Sequence[Found]:
        for key in keys:
            if not 0 < len(key.encode()) <= ID_BYTES:
                raise MessageRefused(
                    f"the id of a document has 1 to {ID_BYTES} bytes, and key= of the read model "
                    f"{self._name!r} gave {len(key.encode())}"
                )
        asked = {"docs": [{"_index": self._own + _WRITE, "_id": key} for key in keys]}
        found = await self._ask("POST", "_mget", _encode(asked))
        documents: Sequence[Mapping[str, Any]] = _object(found).get("docs", ())
        if len(documents) != len(keys) or any("error" in each for each in documents):
            raise self._lost()
        return [
            Found(each["_version"], each["_source"]) if each.get("found") else Found(0, None)
            for each in documents
        ]

    async def write(self, changes: Sequence[Change]) -> None:
        # Nobody searches in what is not shown.
        refresh = self._refresh if self._shown == self._own else "false"
        for part, body in self._parts(changes):
            answer = await self._ask("POST", f"_bulk?require_alias=true&refresh={refresh}", body)
            items: Sequence[Mapping[str, Any]] = _object(answer).get("items", ())
            if len(items) != len(part):
                raise self._strange()
            if answer["errors"]:
                self._check(part, [next(iter(item.values())) for item in items])

    def _parts(self, changes: Sequence[Change]) -> Iterator[tuple[Sequence[Change], bytes]]:
        """Give requests of bounded bytes, or of one change."""
        part: list[Change] = []
        lines: list[bytes] = []
        size = 0
        for change in changes:
            where: dict[str, Any] = {"_index": self._own + _WRITE, "_id": change.key}
            kind_of_version = "external_gte" if change.is_again else "external"
            where |= {"version": change.position, "version_type": kind_of_version}
            kind = "delete" if change.row is None else "index"
            more = _encode({kind: where}) + b"\n"
            if change.row is not None:
                more += _encode(change.row) + b"\n"
            if part and size + len(more) > PART_BYTES:
                yield part, b"".join(lines)
                part, lines, size = [], [], 0
            part.append(change)
            lines.append(more)
            size += len(more)
        if part:
            yield part, b"".join(lines)

    def _check(self, changes: Sequence[Change], items: Sequence[Mapping[str, Any]]) -> None:
        """Raise for what was not written; a document that has a later version is as it should."""
        refused: list[str] = []
        for change, item in zip(changes, items, strict=True):
            status, error = item["status"], item.get("error")
            if error is None or status == 409:
                continue
            kind = str(_object(error).get("type", ""))
            if kind == "index_not_found_exception":
                raise self._lost()
            if status in _HAS_NO_ROOM or kind == "cluster_block_exception":
                raise self._has_no_room(status, kind)
            if status not in _REFUSED:
                raise self._not_now(status, kind)
            refused.append(f"{change.key!r} ({kind})")
        if refused:
            # Its own words may quote what it reads.
            raise MessageRefused(
                f"{self._address} does not take documents of the read model {self._name!r}: "
                f"{', '.join(refused[:3])}. Do they fit its mappings?"
            )

    async def note(self, state: State) -> None:
        query = f"version={state.position}&version_type=external_gte"
        path = f"{self._own}{_STATE}/_doc/state?{query}"
        if await self._ask("PUT", path, _encode(state)) is None:
            raise BrokerFailed(
                f"{self._address} has a later state of the read model {self._name!r} than this "
                f"engine: another engine keeps it too. Stop one of them",
                passes=False,
            )

    async def show(self) -> None:
        await self._ask("POST", f"{self._own}/_refresh", b"")
        actions: list[Any] = [{"add": {"index": self._own, "alias": self._name}}]
        old = [each for each in await self._versions() if each != self._own]
        actions += [{"remove_index": {"index": each}} for each in old]
        await self._ask("POST", "_aliases", _encode({"actions": actions}))
        self._shown = self._own
        for each in old:
            await self._ask("DELETE", each + _STATE)

    async def remove_old(self) -> bool:
        """Do nothing: an index goes as a whole."""
        return False

    # -- what is there --------------------------------------------------------------------------

    async def _make(self) -> None:
        """Make the index, empty; what is left of the state of one that is gone goes first."""
        await self._ask("DELETE", self._own + _STATE)
        state = {"settings": {"number_of_shards": 1}, "mappings": {"enabled": False}}
        await self._made(self._own + _STATE, state)
        await self._made(self._own, {**self._body, "aliases": {self._own + _WRITE: {}}})

    async def _made(self, index: str, body: Mapping[str, Any]) -> None:
        if await self._ask("PUT", index, _encode(body), refused="settings= or mappings=") is None:
            raise self._strange()

    async def _read_state(self, index: str) -> State | None:
        found = await self._ask("GET", f"{index}{_STATE}/_doc/state")
        if found is None:
            return None
        try:
            return msgspec.convert(found["_source"], State)
        except (KeyError, msgspec.ValidationError):
            raise self._not_the_models(index + _STATE) from None

    async def _versions(self) -> Sequence[str]:
        """Give the indices of the model's versions."""
        found = _object(await self._ask("GET", f"{self._name}.v*/_alias"))
        mine = re.compile(rf"{re.escape(self._name)}\.v\d+")
        return sorted(
            index
            for index, kept in found.items()
            if mine.fullmatch(index) and index + _WRITE in kept["aliases"]
        )

    def _index_of(self, found: Any) -> str | None:
        """Give the index that readers find; raise BrokerFailed where that is not the model's."""
        if not found:
            return None
        index = next(iter(found))
        if len(found) > 1 or not re.fullmatch(rf"{re.escape(self._name)}\.v\d+", index):
            raise self._not_the_models(index)
        return str(index)

    def _check_version(self, told: Any) -> None:
        version = _object(_object(told).get("version"))
        number = str(version.get("number", ""))
        product = version.get("distribution", "elasticsearch") if number else ""
        major = number.partition(".")[0]
        if product not in _OLDEST or not major.isdigit():
            raise self._strange()
        if int(major) < _OLDEST[product]:
            raise BrokerFailed(
                f"{self._address} is {product} {number}, which is too old: version "
                f"{_OLDEST[product]} is the first that takes what is written here",
                passes=False,
            )

    # -- requests ---------------------------------------------------------------------------------

    def _headers(self) -> Mapping[str, str]:
        """Say who asks: a user with a password, or a key of the API."""
        address = self._address
        if address.password is None:
            return {}
        secret = address.password.revealed
        if address.user is None:
            return {"Authorization": f"ApiKey {secret}"}
        word = b64encode(f"{address.user}:{secret}".encode()).decode()
        return {"Authorization": f"Basic {word}"}

    async def _ask(
        self, method: str, path: str, body: bytes | None = None, *, refused: str = ""
    ) -> Any:
        """Give an answer; None where what is asked for is not there, or is later already."""
        host, port = self._address.hosts[0]
        host = f"[{host}]" if ":" in host else host
        scheme = "https" if self._address.is_encrypted else "http"
        url = f"{scheme}://{host}:{port}/{quote(path, safe='/?&=._*')}"
        kind = "application/x-ndjson" if path.startswith("_bulk") else "application/json"
        headers = {} if body is None else {"Content-Type": kind}
        async with self._session.request(
            method, url, data=body, headers=headers, allow_redirects=False
        ) as response:
            status, text = response.status, await response.read()
        if status in (404, 409):
            return None
        answer = _parsed(text)
        if status >= 300:
            raise self._failed(status, _object(answer), refused)
        if not isinstance(answer, dict):
            raise self._strange()
        return cast("Any", answer)

    def _failed(
        self, status: int, answer: Mapping[str, Any], refused: str
    ) -> BrokerFailed | MessageRefused:
        kind = str(_object(answer.get("error")).get("type", ""))
        if status in _HAS_NO_ROOM or kind == "cluster_block_exception":
            return self._has_no_room(status, kind)
        if status < 400:
            return BrokerFailed(
                f"{self._address} answers with a redirect, which is not followed, since it would "
                f"take the credentials elsewhere: give the URL of the server itself",
                passes=False,
            )
        if status in (401, 403):
            return BrokerFailed(
                f"{self._address} refuses the credentials of the URL, or this user has no right "
                f"to {self._name}* ({status}): mend user, password or rights",
                passes=False,
            )
        if status == 413:
            return MessageRefused(
                f"{self._address} takes no request that large, of the read model {self._name!r}"
            )
        if refused:
            return BrokerFailed(
                f"{self._address} does not make the index {self._own} ({kind or status}): mend "
                f"{refused} of the read model {self._name!r}",
                passes=False,
            )
        return self._not_now(status, kind)

    def _has_no_room(self, status: int, kind: str) -> BrokerFailed:
        what = f"{status} {kind}".rstrip()
        return BrokerFailed(f"{self._address} takes no documents now ({what})", passes=True)

    def _not_now(self, status: int, kind: str) -> BrokerFailed:
        what = f"{status} {kind}".rstrip()
        return BrokerFailed(
            f"{self._address} cannot do what it was asked ({what}): see its log",
            passes=status >= 500,
        )

    def _lost(self) -> BrokerFailed:
        return BrokerFailed(
            f"{self._address} has lost rows: the index {self._own} is gone. Raise the version of "
            f"the read model {self._name!r}, which makes them anew",
            passes=False,
        )

    def _not_the_models(self, index: str) -> BrokerFailed:
        return BrokerFailed(
            f"{self._address} has an index {index!r} that is not the model's: give the read model "
            f"{self._name!r} another name. Nothing was changed",
            passes=False,
        )

    def _strange(self) -> BrokerFailed:
        return BrokerFailed(
            f"{self._address} does not answer as OpenSearch or Elasticsearch do: see whether the "
            f"URL is right",
            passes=False,
        )


def _parsed(text: bytes) -> object:
    try:
        return msgspec.json.decode(text) if text else {}
    except msgspec.DecodeError:
        return None


def _object(value: object) -> Mapping[str, Any]:
    """Give what is an object of JSON, and an empty one for anything else."""
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def OpenSearchReadModel(  # noqa: N802 - what it gives is a class, to be declared like one
    name: str,
    *,
    to: str,
    events: Sequence[type[Event]],
    apply: Apply,
    key: Key | None = None,
    version: int = 1,
    mappings: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    refresh: Refresh = "wait_for",
    on_poison: Literal["stop", "park"] = "park",
    allow: Sequence[Literal["plaintext"]] = (),
    tls: ssl.SSLContext | None = None,
) -> type[Sink]:
    """Give a sink that keeps documents: `Engine(projections=[OpenSearchReadModel(...)])`.

    - `name`: of the projection, and of the alias that readers search. It has small letters, digits,
      "-" and "_". The indices behind it are `name.v1` for version 1, and `name.v1.state`.
    - `to`: the server, as "https://user:word@host:9200", or "https://key@host:9200" with a key of
      the API. "http://" is for this machine, or a network that `allow=["plaintext"]` trusts. `tls`
      says with which certificates to encrypt; the system's unless given.
    - `events`: classes of events; `[Event]` for all.
    - `apply`: gives the document after an event: a mapping that JSON can hold, or None for no
      document. It takes the document before it, or None, then the event and its `Meta`. It only
      looks at these.
    - `key`: gives the id of the document that an event changes; the id of its aggregate unless
      given.
    - `version`: raise it to make all documents again, in another index. The alias moves when that
      index is as far, and the old one is removed.
    - `mappings`, `settings`: of the index, when it is made.
    - `refresh`: "wait_for" lets `at=` see by search what was written, after up to a second. "true"
      asks the server to show it at once, which costs it more. With "false" `at=` sees it by id.
    - `on_poison`: what becomes of an event on which `apply` raises, or whose document the server
      does not take since it does not fit the mappings. "park" sets it aside with all later ones of
      its document; "stop" stops the model.

    Each event changes its document once, whatever dies and when. A query waits for the model if it
    is among the projections of its `@answers`, and `at=` is given. A server that is down or has no
    room is waited for. Raises DefinitionError.
    """
    address = read_address(to, allow, database="opensearch")
    check_installed(address)
    if not _NAME.fullmatch(name):
        raise DefinitionError(
            f"read model {name[:100]!r}: the name is that of an alias, with small letters, digits, "
            f"'-' and '_' only"
        )
    if refresh not in ("wait_for", "true", "false"):
        raise DefinitionError(f"read model {name!r}: refresh= is 'wait_for', 'true' or 'false'")
    if (mappings or {}).get("_source", {}).get("enabled") is False:
        raise DefinitionError(
            f"read model {name!r}: mappings= disables _source, of which the next row is made"
        )
    given = {**(settings or {})}
    given |= {"index.gc_deletes": GONE, "index.translog.durability": "request"}
    body = {"settings": given, "mappings": mappings or {}}
    return row_model(
        name,
        place=lambda name: _Place(address, tls, name, version, body, refresh),
        where=str(address),
        events=events,
        apply=apply,
        key=key,
        version=version,
        on_poison=on_poison,
        events_max=BATCH,
    )
