"""Reaches SQS and SNS of AWS, looks at queues, and gives their errors a meaning.

Rules: an event is one message whose body is the JSON form of CloudEvents: a message has ten
attributes at most, and an event has more. No error has a secret in it. The library retries nothing,
and follows no redirection: what is repeated is the relay's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import re
import ssl
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import msgspec

from ..brokers.address import Address
from ..brokers.client import CONNECT_SECONDS, tls_problem
from ..errors import BrokerFailed
from .message import CONTENT_TYPE, Outgoing
from .outlet import ANSWER_SECONDS

__all__ = [
    "ATTRIBUTES_MAX",
    "BATCH_BYTES",
    "BATCH_MAX",
    "CALLS",
    "DEFAULT_MAX",
    "Entry",
    "batches",
    "closed",
    "connect",
    "entry_of",
    "failure_of",
    "group_of",
    "look",
    "size_of",
]

BATCH_MAX: Final = 10
"""Messages of one call."""
BATCH_BYTES: Final = 262_144
"""Bytes of one call: what the service takes in all regions."""
DEFAULT_MAX: Final = 262_144
"""Bytes of one message, where a queue says nothing."""
CALLS: Final = 8
"""Calls that are under way at once."""
FORM: Final = "application/cloudevents+json"
GROUP_MAX: Final = 128
ATTRIBUTES_MAX: Final = 10
"""Of one message."""
HTTPS: Final = 443

_PRINTED: Final = "!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_NO_TEXT: Final = re.compile("[\ufffe\uffff]")
_CREDENTIALS: Final = (
    "Signature",
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "InvalidSecurity",
    "UnrecognizedClient",
    "MissingAuthenticationToken",
    "ExpiredToken",
)
"""What the codes of errors have in them that are about who calls."""
_UNSAID: Final = ("", "401", "403")
_PASSES: Final = ("Throttl", "OverLimit", "RequestTimeout", "TooManyRequests", "InternalFailure")
"""What the codes of errors have in them that pass by themselves."""
_MISSING: Final = ("NonExistentQueue", "QueueDoesNotExist", "NotFound")

Entry: TypeAlias = dict[str, Any]
"""A message as a call takes it."""


def entry_of(message: Outgoing) -> Entry:
    """Give a message in the JSON form of CloudEvents, with its group and its id."""
    form: dict[str, Any] = dict(message.attributes)
    kind = message.attributes[CONTENT_TYPE].partition(";")[0].strip()
    if kind.endswith(("/json", "+json")) and _is_json(message.body):
        form["data"] = msgspec.Raw(message.body)
    else:
        form["data_base64"] = b64encode(message.body).decode()
    text = msgspec.json.encode(form).decode()
    return {
        "Body": _NO_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text),
        "MessageAttributes": {
            "content-type": {"DataType": "String", "StringValue": FORM},
            "ce_type": {"DataType": "String", "StringValue": message.attributes["type"]},
        },
        "MessageGroupId": group_of(message.key),
        "MessageDeduplicationId": message.id,
    }


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
        body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def group_of(key: str) -> str:
    """Give the message group of a stream: its name, as far as the service takes that."""
    name = quote(key, safe=_PRINTED)
    return name if len(name) <= GROUP_MAX else sha256(key.encode()).hexdigest()


def size_of(entry: Mapping[str, Any]) -> int:
    """Give the bytes of a message as the service counts them: its body and its attributes."""
    attributes: Mapping[str, Mapping[str, Any]] = entry["MessageAttributes"]
    return len(entry["Body"].encode()) + sum(
        len(name.encode()) + sum(len(value) for value in attribute.values())
        for name, attribute in attributes.items()
    )


def batches(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Give entries in what one call takes, or alone."""
    part: list[Entry] = []
    size = 0
    for entry in entries:
        size += size_of(entry)
        if part and (size > BATCH_BYTES or len(part) == BATCH_MAX):
            yield part
            part, size = [], size_of(entry)
        part.append(entry)
    if part:
        yield part


async def connect(address: Address, service: str, tls: ssl.SSLContext | None) -> Any:
    """Give a client of a service; nothing is asked yet. Raises BrokerFailed for no credentials."""
    # Its import takes long: in a thread, so that the loop is not blocked the first time.
    loop = asyncio.get_running_loop()
    made: Any = await loop.run_in_executor(None, importlib.import_module, "aiobotocore.session")
    config: Any = importlib.import_module("aiobotocore.config")
    errors: Any = importlib.import_module("botocore.exceptions")
    context = await loop.run_in_executor(None, address.tls, tls)
    region = address.path or address.hosts[0][0]
    secret = None if address.password is None else address.password.revealed
    options = config.AioConfig(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        retries={"total_max_attempts": 1},
        max_pool_connections=CALLS,
        warm_up_loader_caches=True,
        http_session_cls=_session_class(context),
    )
    try:
        client: Any = (
            await made.get_session()
            .create_client(
                service,
                region_name=region,
                endpoint_url=_endpoint(address) if address.path else None,
                aws_access_key_id=address.user,
                aws_secret_access_key=secret,
                config=options,
            )
            .__aenter__()
        )
    except (errors.BotoCoreError, OSError) as error:
        failed = failure_of(address, error)
    else:
        return client
    raise failed


def _endpoint(address: Address) -> str:
    host, port = address.hosts[0]
    shown = f"[{host}]" if ":" in host else host
    if address.is_encrypted:
        return f"https://{shown}" if port == HTTPS else f"https://{shown}:{port}"
    return f"http://{shown}:{port}"


def _session_class(context: ssl.SSLContext | None) -> Any:
    """Give a class of HTTP sessions: encrypted by a context of ours, without redirections."""
    base: Any = importlib.import_module("aiobotocore.httpsession").AIOHTTPSession

    async def session(self: Any, proxy: Any) -> Any:
        return _NoRedirects(await base._get_session(self, proxy))

    def verified(_: Any) -> ssl.SSLContext | None:
        return context

    members: dict[str, Any] = {"_get_session": session}
    if context is not None:
        members["_build_verify_context"] = verified
    return type("Session", (base,), members)


class _NoRedirects:
    """A session of aiohttp that stays where it was sent: a signature is for one host."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, *args: Any, **options: Any) -> Any:
        return await self._session.request(*args, **options, allow_redirects=False)


async def closed(client: Any) -> None:
    """Close a client, whatever state it is in."""
    with contextlib.suppress(Exception):
        await client.__aexit__(None, None, None)


async def look(client: Any, address: Address, name: str) -> tuple[str, Mapping[str, str]]:
    """Give the URL of a queue and what it says of itself; raise BrokerFailed if it is missing."""
    errors: Any = importlib.import_module("botocore.exceptions")
    parts = name.split(":")
    owner: dict[str, str] = {}
    if name.startswith("arn:") and len(parts) == 6:
        name, owner = parts[5], {"QueueOwnerAWSAccountId": parts[4]}
    try:
        url = (await client.get_queue_url(QueueName=name, **owner))["QueueUrl"]
        found = await client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    except errors.ClientError as error:
        if any(word in code_of(error) for word in _MISSING):
            raise BrokerFailed(
                f"{address} has no queue {name!r}, so nothing would keep the message: make it, "
                f"then go on",
                passes=False,
            ) from None
        raise
    return url, found["Attributes"]


def code_of(error: Any) -> str:
    """Give the code of an error of the service."""
    return str(error.response.get("Error", {}).get("Code", ""))


def failure_of(address: Address, error: BaseException) -> BrokerFailed:
    """Give what an error of the client means, in words that have no secret in them."""
    errors: Any = importlib.import_module("botocore.exceptions")
    problem = tls_problem(address, error)
    if problem is not None:
        return problem
    name = type(error).__name__
    if isinstance(error, errors.NoCredentialsError | errors.PartialCredentialsError):
        return BrokerFailed(
            f"{address} needs credentials, and neither the URL nor the environment has them",
            passes=False,
        )
    if not isinstance(error, errors.ClientError):
        return BrokerFailed(f"{address} cannot be reached ({name})", passes=True)
    told: Any = error
    code = code_of(told)
    status = int(told.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    is_unsaid = status in (401, 403) and code in _UNSAID
    if is_unsaid or any(word in code for word in _CREDENTIALS):
        return BrokerFailed(
            f"{address} refuses the credentials of the URL ({code}): mend user or password",
            passes=False,
        )
    if "AccessDenied" in code or code == "AuthorizationError":
        return BrokerFailed(
            f"{address} does not allow it ({code}): see the rights of this user, and the policy of "
            f"the queue or topic",
            passes=False,
        )
    if any(word in code for word in _MISSING):
        return BrokerFailed(f"{address} has the queue or topic no more", passes=False)
    if 300 <= status < 400:
        return BrokerFailed(
            f"{address} sends its callers elsewhere ({status}), which is not followed: give the "
            f"URL of where it is",
            passes=False,
        )
    if status >= 500 or status == 429 or any(word in code for word in _PASSES):
        return BrokerFailed(f"{address} takes no calls now ({code or status})", passes=True)
    return BrokerFailed(f"{address} refuses the call ({code or status})", passes=False)
