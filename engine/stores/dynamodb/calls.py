"""Calls of DynamoDB's interface, and what their failures mean.

Rules: each call runs in a task of its own, so that a time that runs out in the client cancels
nobody else. A call that changes nothing, or the same each time, is made again until the patience is
over, with longer and longer pauses: a service that says "too many" is asked less often. If no
answer comes, the connections are made anew: a firewall may have forgotten them. All reads are
strongly consistent. The client finds credentials by itself, and none is in a message.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any, Final, TypeAlias, TypeVar

from ...errors import DefinitionError, EngineError, StoreFailed, StoreRefused
from ..leased.holder import Away
from .address import Address

__all__ = ["Busy", "Calls", "Cancelled", "Item", "Missing", "NotTaken", "Pauses", "check_installed"]

T = TypeVar("T")

Item: TypeAlias = Mapping[str, Any]
"""An item as the interface has it: names of attributes, each with its type and value."""

CONNECTIONS: Final = 32
KEYS_MAX: Final = 100
"""In one call that gets many items."""
_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 5.0
"""How long a call may take: the service answers within milliseconds, unless its line is dead."""
_PAUSE_FIRST: Final = 0.02
_PAUSE_LONGEST: Final = 1.0
_PIECES_BYTES: Final = 1 << 19
_CLOSE_SECONDS: Final = 2.0
_BUSY: Final = (
    "Throttl",
    "ThroughputExceeded",
    "RequestLimitExceeded",
    "TransactionConflict",
    "TransactionInProgress",
    "LimitExceeded",
)
_UNKNOWN_USER: Final = (
    "UnrecognizedClient",
    "InvalidSignature",
    "IncompleteSignature",
    "MissingAuthentication",
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
)


class Busy(Away):
    """The service takes no such call now: nothing was done."""


class NotTaken(Exception):
    """A condition of a call does not hold: nothing was done."""


class Missing(Exception):
    """There is no such table."""


class Cancelled(Exception):
    """A transaction was not made: nothing of it was done."""

    def __init__(self, codes: Sequence[str]) -> None:
        super().__init__(", ".join(sorted(set(codes) - {"None"})))
        self.codes = codes
        """One for each of its parts; `None` for one that was not in the way."""


class Pauses:
    """Waits longer and longer, until the patience is over."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + seconds
        self._pause = _PAUSE_FIRST

    async def took(self) -> bool:
        """Wait, unless the patience would be over; tell whether it waited."""
        if self._loop.time() + self._pause > self._end:
            return False
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, _PAUSE_LONGEST)
        return True


def check_installed() -> None:
    """Raise DefinitionError where the client is not installed; nothing is imported."""
    if importlib.util.find_spec("aiobotocore") is None:
        raise DefinitionError(
            "a DynamoDB store needs aiobotocore, which is not installed: install Foldline from its "
            "clone with the extra `dynamodb`, as in pip install '../foldline[dynamodb]'"
        )


def _session_class() -> Any:
    """Give a class of HTTP sessions that stay where they were sent, and take large bodies."""
    base: Any = importlib.import_module("aiobotocore.httpsession").AIOHTTPSession

    async def session(self: Any, proxy: Any) -> Any:
        return _Session(await base._get_session(self, proxy))

    return type("Session", (base,), {"_get_session": session})


class _Session:
    """A session of aiohttp: a signature is for one host, and a large body is sent in pieces."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, *args: Any, data: Any = None, **options: Any) -> Any:
        if isinstance(data, bytes) and len(data) > _PIECES_BYTES:
            data = BytesIO(data)  # as one, aiohttp warns of it
        return await self._session.request(*args, data=data, **options, allow_redirects=False)


async def _closed(client: Any) -> None:
    closing = asyncio.ensure_future(client.__aexit__(None, None, None))
    await asyncio.wait((closing,), timeout=_CLOSE_SECONDS)
    if not closing.cancel() and not closing.cancelled():
        closing.exception()


class Calls:
    """A client of the service, for one table."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._session: Any = None
        """Has the credentials that were found; None where they are to be looked for."""
        self._client: Any = None
        self._errors: Any = None
        self.failures = 0
        """Calls that got no answer."""

    async def open(self) -> None:
        """Make the client; nothing is asked yet."""
        check_installed()
        self._client = await self._made()

    async def _made(self) -> Any:
        # Its import takes long: in a thread, so that the loop is not blocked the first time.
        loop = asyncio.get_running_loop()
        made: Any = await loop.run_in_executor(None, importlib.import_module, "aiobotocore.session")
        config: Any = importlib.import_module("aiobotocore.config")
        self._errors = importlib.import_module("botocore.exceptions")
        options = config.AioConfig(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=self.address.patience_seconds,
            retries={"total_max_attempts": 1},
            max_pool_connections=CONNECTIONS,
            warm_up_loader_caches=True,
            ignore_configured_endpoint_urls=True,
            http_session_cls=_session_class(),
        )
        if self._session is None:
            self._session = made.get_session()
        try:
            return await self._session.create_client(
                "dynamodb",
                region_name=self.address.region,
                endpoint_url=self.address.endpoint,
                config=options,
            ).__aenter__()
        except (self._errors.BotoCoreError, OSError) as error:
            raise self._meant(error) from None

    async def close(self) -> None:
        """Close the client, whatever state it is in."""
        client, self._client = self._client, None
        if client is not None:
            await _closed(client)

    async def once(self, operation: str, **given: Any) -> Any:
        """Call once, with the name of the table; raise Away where no answer comes in time.

        A cancel is not heard before there is an answer.
        """
        if self._client is None:
            raise StoreFailed(f"{self.address.name} is closed", written=False)
        if operation not in ("transact_write_items", "transact_get_items", "batch_get_item"):
            given["TableName"] = self.address.table
        client = self._client
        running = asyncio.ensure_future(getattr(client, operation)(**given))
        seconds = min(_ANSWER_SECONDS, self.address.patience_seconds)
        await asyncio.wait((running,), timeout=seconds)
        if not running.done():
            running.cancel()
            self.failures += 1
            await self._replace(client)
            raise Away("no answer in time")
        try:
            return running.result()
        except Exception as error:
            failure = self._meant(error)
        if self._session is None:
            await self._replace(client)
        raise failure from None  # others' words may quote what they were given

    async def _replace(self, client: Any) -> None:
        """Have another client: of dead connections, others are so too, and credentials change."""
        if self._client is not client:
            return
        left = await self._made()
        if self._client is client:
            self._client, left = left, client
        await _closed(left)

    async def asked(self, operation: str, *, may_miss: bool = False, **given: Any) -> Any:
        """Call what changes nothing, or the same each time, until there is an answer.

        Raises StoreFailed where none comes. None where there is no table, if there `may_miss` one.
        """
        pauses = Pauses(self.address.patience_seconds)
        while True:
            try:
                return await self.once(operation, **given)
            except Away as away:
                failed = away
            except Missing:
                if may_miss:
                    return None
                raise self.no_table() from None
            if not await pauses.took():
                raise self.out_of_reach(failed) from None

    # -- reads of items -----------------------------------------------------------------------

    async def get(self, key: Item) -> Item | None:
        """Give an item."""
        answer = await self.asked("get_item", Key=key, ConsistentRead=True)
        found: Item | None = answer.get("Item")
        return found

    async def get_many(self, keys: Sequence[Item]) -> list[Item]:
        """Give the items of these keys that there are, in any order."""
        parts = [keys[place : place + KEYS_MAX] for place in range(0, len(keys), KEYS_MAX)]
        return [item for part in await self.each(self._part, parts) for item in part]

    async def _part(self, keys: Sequence[Item]) -> list[Item]:
        table, found = self.address.table, list[Item]()
        left: Any = {"Keys": list(keys), "ConsistentRead": True}
        pauses = Pauses(self.address.patience_seconds)
        while left:
            answer = await self.asked("batch_get_item", RequestItems={table: left})
            got = answer["Responses"].get(table, [])
            found += got
            left = answer.get("UnprocessedKeys", {}).get(table)
            if left and not got and not await pauses.took():
                raise self.out_of_reach(Busy("it leaves keys out"))
        return found

    async def query(
        self, pk: str, *, after: str | None = None, most: int | None = None, last: bool = False
    ) -> list[Item]:
        """Give the items of a partition behind `after`, at most so many; `last` ones first."""
        condition, values = "pk = :pk", {":pk": {"S": pk}}
        if after is not None:
            condition += " AND sk > :sk"
            values[":sk"] = {"S": after}
        found: list[Item] = []
        place: dict[str, Any] = {}
        while True:
            if most is not None:
                place["Limit"] = most - len(found)
            answer = await self.asked(
                "query",
                KeyConditionExpression=condition,
                ExpressionAttributeValues=values,
                ConsistentRead=True,
                ScanIndexForward=not last,
                **place,
            )
            found += answer["Items"]
            key = answer.get("LastEvaluatedKey")
            if not key or (most is not None and len(found) >= most):
                return found
            place = {"ExclusiveStartKey": key}

    async def each(self, call: Callable[[Any], Awaitable[T]], given: Iterable[Any]) -> list[T]:
        """Call for each of many, several at a time; give what they give, in order."""
        todo = list(given)
        found: list[T] = []
        for place in range(0, len(todo), CONNECTIONS):
            part = todo[place : place + CONNECTIONS]
            found += await asyncio.gather(*(call(each) for each in part))
        return found

    # -- what failures mean -------------------------------------------------------------------

    def _meant(self, error: BaseException) -> Exception:
        name, errors = self.address.name, self._errors
        if isinstance(error, EngineError):
            return error
        if isinstance(error, errors.NoCredentialsError | errors.PartialCredentialsError):
            self._session = None
            return StoreRefused(
                f"{name} needs credentials, and none were found: give them as AWS's own tools take "
                f"them, by the environment, a file or a role"
            )
        if not isinstance(error, errors.ClientError):
            self.failures += 1
            return Away(f"it is out of reach, {type(error).__name__}")
        told: Any = error
        code = str(told.response.get("Error", {}).get("Code", ""))
        status = int(told.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code == "TransactionCanceledException":
            reasons = told.response.get("CancellationReasons", [])
            return Cancelled([str(reason.get("Code", "None")) for reason in reasons])
        if code in ("ConditionalCheckFailedException", "ResourceInUseException"):
            return NotTaken()
        if any(word in code for word in _BUSY) or status == 429:
            return Busy(f"it takes no more now, {code or status}")
        if status >= 500:
            self.failures += 1
            return Away(f"it failed, {code or status}")
        if code == "ResourceNotFoundException":
            return Missing()
        if any(word in code for word in _UNKNOWN_USER):
            self._session = None  # a file may have others by now
            return StoreRefused(f"{name} refuses the credentials that were found ({code})")
        if "AccessDenied" in code:
            return StoreRefused(
                f"{name} does not allow a call ({code}): give this user the rights that the page "
                f"on DynamoDB lists"
            )
        return StoreFailed(
            f"{name} does not take what it was given ({code}). Nothing was written", written=False
        )

    def out_of_reach(self, away: Away) -> StoreFailed:
        """Say that the service is not there."""
        return StoreFailed(
            f"{self.address.name} cannot be reached: {away}. Try again",
            written=False,
            passes=True,
        )

    def no_table(self) -> StoreRefused:
        """Say that there is no table."""
        return StoreRefused(
            f"{self.address.name}: there is no table {self.address.table} in this region for these "
            f"credentials. Mend the name, or add create=table to the URL to make it"
        )
