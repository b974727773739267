"""Publishes to SNS topics, which must be FIFO.

Rules: as for SQS. A topic that nobody subscribes to drops what it confirms, so it is refused. A
subscription that filters takes what its owner asked for, and no more.
"""

from __future__ import annotations

import importlib
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

from ..brokers.address import Address
from ..errors import BrokerFailed
from .aws import DEFAULT_MAX, Entry, code_of
from .sqs import AwsOutlet, Kept

__all__ = ["SnsOutlet", "make_outlet"]


class SnsOutlet(AwsOutlet):
    """Sends to topics, by their ARN."""

    service = "sns"

    async def _look(self, topic: str) -> Kept:
        errors: Any = importlib.import_module("botocore.exceptions")
        try:
            told = (await self._client.get_topic_attributes(TopicArn=topic))["Attributes"]
        except errors.ClientError as error:
            if code_of(error) not in ("NotFound", "InvalidParameter"):
                raise
            raise BrokerFailed(
                f"{self._address} has no topic {topic!r}: make it, or give its ARN, then go on",
                passes=False,
            ) from None
        if told.get("FifoTopic") != "true":
            raise BrokerFailed(
                f"the topic {topic!r} of {self._address} keeps no order, as it is not FIFO: make "
                f"one whose name ends with .fifo, and give the relay that",
                passes=False,
            )
        if not int(told.get("SubscriptionsConfirmed", 1)):
            raise BrokerFailed(
                f"nobody subscribes to the topic {topic!r} of {self._address}, so the message "
                f"would be dropped: subscribe a FIFO queue, then resume the relay",
                passes=False,
            )
        return Kept(topic, DEFAULT_MAX)

    async def _send(self, target: str, entries: Sequence[Entry]) -> Mapping[str, Any]:
        made = [{**entry, "Message": entry["Body"]} for entry in entries]
        for entry in made:
            del entry["Body"]
        answer: Mapping[str, Any] = await self._client.publish_batch(
            TopicArn=target, PublishBatchRequestEntries=made
        )
        return answer


def make_outlet(address: Address, name: str, tls: ssl.SSLContext | None) -> SnsOutlet:
    """Give what publishes to SNS."""
    return SnsOutlet(address, name, tls)
