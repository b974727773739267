"""A read model in a collection of MongoDB (the extra `mongodb`), one document a row.

Rules: those of `rows`; a row is a document, and its field `@position` has the position of its last
event. A write names an earlier one, so what comes late finds no document to change, and cannot
insert a second one. A removed row leaves its position for a day, in a document that has nothing
else but when that was. A raised version is made in a collection beside, which takes the name of the
old one in one step. Which version a collection has is in the name of an index, which goes with it.
Writes are confirmed when a majority has them on disk. The library is imported when the first event
comes.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit

import msgspec

from ..brokers.address import Address, Weakness, read_address
from ..brokers.client import check_installed, encryption_failed, load
from ..errors import BrokerFailed, DefinitionError, MessageRefused
from ..model.messages import Event
from ..model.sink import Sink
from ..relays.outlet import ANSWER_SECONDS
from ..runtime.secret import Secret
from .rows import Apply, Change, Found, Key, Row, State, States, row_model

__all__ = ["POSITION", "REMOVED", "Apply", "MongoDBReadModel", "Row"]

POSITION: Final = "@position"
"""The field of a document that has the position of its last event."""
REMOVED: Final = "@removed"
"""The field of a document that stands for a row that was removed; the server deletes it later."""
GONE_SECONDS: Final = 86_400
"""How long it is known that a row was removed: what is late does not bring it back."""
FIND_SECONDS: Final = 3.0
"""How long one attempt to find a server may take."""
BATCH: Final = 500
"""Events of one delivery, at most."""
STATES: Final = "foldline_read_models"
"""The collection that has how far models are."""
_MARK: Final = re.compile(r"foldline v(\d+)")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")
_OF_TLS: Final = re.compile(r"\[SSL[^]]*\] ([^(]*\w)")
_HAS_ONE: Final = 11000
_NO_COLLECTION: Final = 26
_NO_ROOM: Final = 14031
_CREDENTIALS: Final = (13, 18)
_REFUSED: Final = (_HAS_ONE, 2, 9, 52, 56, 57, 121, 10334, 17280, 17419)
"""Codes of what is wrong with one document: its fields' names, its size, the collection's rules."""


class _Place:
    """The collection of one version of a model."""

    def __init__(
        self, address: Address, url: Secret, name: str, version: int, indexes: Sequence[Any]
    ) -> None:
        self._address = address
        self._url = url
        self._name = name
        self._version = version
        self._indexes = indexes
        self._building = f"{name}.v{version}"
        self._client: Any = None
        self._states: Any = None
        self._rows: Any = None
        """The collection of this version, by whichever name it has."""
        self._former: int | None = None
        """The version that readers find."""

    def where(self) -> str:
        return str(self._address)

    async def load(self) -> None:
        await load(self._address)

    @contextmanager
    def failures(self) -> Generator[None]:
        errors: Any = importlib.import_module("pymongo.errors")
        bson: Any = importlib.import_module("bson.errors")
        try:
            yield
        except (errors.DocumentTooLarge, bson.BSONError) as error:
            failed: Exception = self._not_taken(type(error).__name__)
        except (errors.PyMongoError, OSError, TimeoutError) as error:
            failed = self._failure_of(error)
        else:
            return
        raise failed

    def _connected(self) -> Any:
        """Give a client, which connects when it is first asked for something."""
        pymongo: Any = importlib.import_module("pymongo")
        return pymongo.AsyncMongoClient(
            self._url.revealed,
            appname=f"foldline {self._name}",
            tz_aware=True,
            maxPoolSize=1,
            retryWrites=False,  # a server that stands alone has none, and the sink tries again
            retryReads=False,
            serverSelectionTimeoutMS=FIND_SECONDS * 1_000,
            connectTimeoutMS=FIND_SECONDS * 1_000,
            socketTimeoutMS=ANSWER_SECONDS * 1_000,
        )

    async def open(self) -> States:
        pymongo: Any = importlib.import_module("pymongo")
        concern: Any = importlib.import_module("pymongo.read_concern")
        if self._client is None:
            self._client = self._connected()
        database = self._client.get_default_database().with_options(
            write_concern=pymongo.WriteConcern("majority", j=True),
            read_preference=pymongo.ReadPreference.PRIMARY,
        )
        # A state that a majority has not yet is none: the rows before it may be lost with it.
        of_most = concern.ReadConcern("majority")
        self._states = database.get_collection(STATES, read_concern=of_most)
        shown = await self._version_of(database[self._name])
        is_shown = shown == self._version
        self._former = shown
        self._rows = database[self._name if is_shown else self._building]
        if not is_shown and await self._version_of(self._rows) is None:
            await self._make()
        own = await self._read_state(self._version)
        return States(own, own if shown is None else await self._read_state(shown), is_shown)

    async def fail(self) -> None:
        """Keep the client: it connects again by itself, and one that is made takes long."""

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                await client.close()

    def row(self, made: Mapping[str, Any]) -> Row | None:
        """Give a row as it will be read: what BSON makes of it."""
        bson: Any = importlib.import_module("bson")
        options: Any = importlib.import_module("bson.codec_options")
        for name in made:
            if name == "_id" or name.startswith("@"):
                raise ValueError(f"the field {name!r} is the model's own")
        row: Row = bson.decode(bson.encode(dict(made)), options.CodecOptions(tz_aware=True))
        return row

    async def read(self, keys: Sequence[str]) -> Sequence[Found]:
        # A write would make a collection that somebody has dropped, without its indexes.
        if await self._version_of(self._rows) != self._version:
            raise BrokerFailed(
                f"{self._address} has lost rows: the collection {self._rows.name!r} is gone. Raise "
                f"the version of the read model {self._name!r}, which makes them anew",
                passes=False,
            )
        documents: dict[str, dict[str, Any]] = {}
        async for document in self._rows.find({"_id": {"$in": list(keys)}}):
            documents[document.pop("_id")] = document
        return [_found(documents.get(key)) for key in keys]

    async def write(self, changes: Sequence[Change]) -> None:
        pymongo: Any = importlib.import_module("pymongo")
        errors: Any = importlib.import_module("pymongo.errors")
        writes: list[Any] = []
        for change in changes:
            than = "$lte" if change.is_again else "$lt"
            earlier = {"_id": change.key, POSITION: {than: change.position}}
            row = {REMOVED: datetime.now(UTC)} if change.row is None else change.row
            document = {**row, "_id": change.key, POSITION: change.position}
            writes.append(pymongo.ReplaceOne(earlier, document, upsert=True))
        try:
            await self._rows.bulk_write(writes, ordered=False)
        except errors.BulkWriteError as error:
            details: Any = error.details
        else:
            return
        await self._check(changes, details)

    async def _check(self, changes: Sequence[Change], details: Mapping[str, Any]) -> None:
        """Raise for what was not written; a document that has a later event is as it should."""
        failed: Sequence[Mapping[str, Any]] = details.get("writeErrors", ())
        late: list[Change] = [
            changes[int(each["index"])] for each in failed if each["code"] == _HAS_ONE
        ]
        found = await self.read([change.key for change in late])
        later = {
            change.key
            for change, each in zip(late, found, strict=True)
            if each.position >= change.position
        }
        for each in failed:
            key = changes[int(each["index"])].key
            if each["code"] not in _REFUSED:
                raise self._not_now(each["code"])
            if key not in later:
                # Its own words may quote what it reads.
                raise self._not_taken(f"code {each['code']}", key)
        if details.get("writeConcernErrors"):
            raise BrokerFailed(
                f"{self._address} has not written to a majority in time", passes=True
            )

    async def note(self, state: State) -> None:
        document = {**msgspec.to_builtins(state), "name": self._name, "version": self._version}
        await self._states.replace_one({"_id": self._building}, document, upsert=True)

    async def show(self) -> None:
        if self._rows.name != self._name:
            await self._rows.rename(self._name, dropTarget=self._former is not None)
            self._rows = self._rows.database[self._name]
            self._former = self._version
        others = {"name": self._name, "version": {"$ne": self._version}}
        async for other in self._states.find(others):
            abandoned = self._rows.database[other["_id"]]
            if await self._version_of(abandoned) is not None:
                await abandoned.drop()
        await self._states.delete_many(others)

    async def remove_old(self) -> bool:
        """Do nothing: a collection goes as a whole, and the server deletes what is a day old."""
        return False

    async def _make(self) -> None:
        """Make the collection, empty; what is left of the state of one that is gone goes first."""
        pymongo: Any = importlib.import_module("pymongo")
        if await self._rows.find_one({}, {"_id": 1}) is not None:
            raise self._not_the_models(self._rows.name)
        await self._states.delete_one({"_id": self._building})
        options = {"name": f"foldline v{self._version}", "expireAfterSeconds": GONE_SECONDS}
        # The mark last: a collection without it is made again.
        await self._rows.create_indexes([*self._indexes, pymongo.IndexModel(REMOVED, **options)])

    async def _version_of(self, collection: Any) -> int | None:
        """Give the version that a collection has; None where there is none.

        Raises BrokerFailed where it is not the model's.
        """
        errors: Any = importlib.import_module("pymongo.errors")
        try:
            indexes: Mapping[str, Any] = await collection.index_information()
        except errors.OperationFailure as error:
            if error.code != _NO_COLLECTION:
                raise
            return None
        for name in indexes:
            found = _MARK.fullmatch(name)
            if found is not None:
                return int(found[1])
        if indexes and collection.name == self._name:
            raise self._not_the_models(collection.name)
        return None

    async def _read_state(self, version: int) -> State | None:
        found = await self._states.find_one({"_id": f"{self._name}.v{version}"})
        if found is None:
            return None
        try:
            return msgspec.convert(found, State)
        except msgspec.ValidationError:
            raise self._not_the_models(STATES) from None

    # -- what fails ---------------------------------------------------------------------------

    def _failure_of(self, error: Any) -> BrokerFailed:
        errors: Any = importlib.import_module("pymongo.errors")
        code = getattr(error, "code", None)
        if code in _CREDENTIALS:
            return BrokerFailed(
                f"{self._address} refuses the credentials of the URL, or this user has no right to "
                f"the database: mend user, password or rights",
                passes=False,
            )
        client = self._client
        described: Any = {}
        if client is not None:
            described = client.topology_description.server_descriptions()
        for server in described.values():
            found = _OF_TLS.search(str(server.error))  # the error itself is not passed on
            if found is not None:
                return encryption_failed(self._address, found[1])
        if isinstance(error, errors.ConfigurationError):
            return BrokerFailed(
                f"{self._address} cannot be used with this URL, or is too old for the library "
                f"({type(error).__name__}): see the URL's options and the server's version",
                passes=False,
            )
        if isinstance(error, errors.OperationFailure) and not self._passes(error):
            return self._not_now(code)
        return BrokerFailed(
            f"{self._address} cannot be reached ({type(error).__name__})", passes=True
        )

    def _passes(self, error: Any) -> bool:
        errors: Any = importlib.import_module("pymongo.errors")
        passing = (errors.WTimeoutError, errors.ExecutionTimeout, errors.WriteConcernError)
        labels = ("RetryableWriteError", "TransientTransactionError")
        is_labelled = any(map(error.has_error_label, labels))
        return isinstance(error, passing) or is_labelled or error.code == _NO_ROOM

    def _not_taken(self, kind: str, key: str | None = None) -> MessageRefused:
        which = "a document" if key is None else f"the document {key!r}"
        return MessageRefused(
            f"{self._address} does not take {which} of the read model {self._name!r} ({kind}): it "
            f"is too large, or the collection's rules refuse it"
        )

    def _not_now(self, code: Any) -> BrokerFailed:
        return BrokerFailed(
            f"{self._address} cannot do what it was asked (code {code}): see its log and this "
            f"user's rights",
            passes=False,
        )

    def _not_the_models(self, collection: str) -> BrokerFailed:
        return BrokerFailed(
            f"{self._address} has a collection {collection!r} that is not the model's: give the "
            f"read model {self._name!r} another name. Nothing was changed",
            passes=False,
        )


def _found(document: dict[str, Any] | None) -> Found:
    if document is None:
        return Found(0, None)
    position = document.pop(POSITION)
    return Found(position, None if REMOVED in document else document)


def MongoDBReadModel(  # noqa: N802 - what it gives is a class, to be declared like one
    name: str,
    *,
    to: str,
    events: Sequence[type[Event]],
    apply: Apply,
    key: Key | None = None,
    version: int = 1,
    indexes: Sequence[Any] = (),
    on_poison: Literal["stop", "park"] = "park",
    allow: Sequence[Literal["plaintext"]] = (),
) -> type[Sink]:
    """Give a sink that keeps documents: `Engine(projections=[MongoDBReadModel(...)])`.

    - `name`: of the projection, and of the collection that readers use. It has letters, digits,
      "-" and "_". A raised version is made in `name.v2` first, and `foldline_read_models` has how
      far each is.
    - `to`: the server and the database, as "mongodb://user:word@host/shop?tls=true" or
      "mongodb+srv://host/shop". Off this machine the connection must be encrypted, unless
      `allow=["plaintext"]` trusts the network.
    - `events`: classes of events; `[Event]` for all.
    - `apply`: gives the document after an event: a mapping that BSON can hold, or None for no
      document. It takes the document before it, or None, then the event and its `Meta`. It only
      looks at these.
    - `key`: gives the `_id` of the document that an event changes; the id of its aggregate unless
      given.
    - `version`: raise it to make all documents again, in another collection. That takes the place
      of the old one when it is as far.
    - `indexes`: `pymongo.IndexModel`s of the collection, for when it is made.
    - `on_poison`: what becomes of an event on which `apply` raises, or whose document the server
      does not take. "park" sets it aside with all later ones of its document; "stop" stops the
      model.

    Each event changes its document once, whatever dies and when. A query waits for the model if it
    is among the projections of its `@answers`, and `at=` is given. A server that is down is waited
    for. Raises DefinitionError.
    """
    address = _address_of(name, to, allow)
    check_installed(address)
    if not _NAME.fullmatch(name) or name == STATES:
        raise DefinitionError(
            f"read model {name[:100]!r}: the name is that of a collection, with letters, digits, "
            f"'-' and '_' only"
        )
    url = Secret(to)
    return row_model(
        name,
        place=lambda name: _Place(address, url, name, version, indexes),
        where=str(address),
        events=events,
        apply=apply,
        key=key,
        version=version,
        on_poison=on_poison,
        events_max=BATCH,
    )


def _address_of(name: str, url: object, allow: Sequence[Weakness]) -> Address:
    """Give where a URL leads; its options are the library's, but for whether it encrypts."""
    text = url if isinstance(url, str) else ""
    parts = urlsplit(text)
    options = {each.lower(): value for each, value in parse_qsl(parts.query)}
    is_encrypted = options.get("tls", options.get("ssl", "false")) == "true"
    scheme = "mongodb+srv" if parts.scheme == "mongodb" and is_encrypted else parts.scheme
    try:
        address = read_address(f"{scheme}://{parts.netloc}", allow, database="mongodb")
    except DefinitionError as error:
        if "would not be encrypted" not in str(error):
            raise
        raise DefinitionError(
            f"read model {name!r}: the server is not on this machine, and the connection would not "
            f'be encrypted: write ?tls=true behind the URL, or allow=["plaintext"] for a network '
            f"that you trust"
        ) from None
    if not parts.path.removeprefix("/"):
        raise DefinitionError(
            f"read model {name!r}: the URL names the database, as {address}/shop does"
        )
    return msgspec.structs.replace(address, scheme=parts.scheme)
