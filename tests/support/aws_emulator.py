"""The emulator of SQS and SNS: moto, as a process of its own.

It asks each caller for its signature, and knows one user. Calls that change a queue come one after
the other: moto loses messages if two come at once. It keeps everything in memory.
`python -m tests.support.aws_emulator PORT USER PASSWORD` runs it until it is killed.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, cast

ACCOUNT = "123456789012"
LOOK_SECONDS = 0.02
DEDUPLICATION_SECONDS = 300.0


def know(user: str, password: str) -> None:
    """Have it know a user who may do everything."""
    from moto import settings
    from moto.iam.models import iam_backends

    backend: Any = iam_backends[ACCOUNT]["aws"]
    backend.create_user("us-east-1", "relay")
    key = backend.create_access_key("relay")
    key.access_key_id, key.secret_access_key = user, password
    backend.access_keys[user] = key
    allowed = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    backend.put_user_policy("relay", "all", policy)
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0.0


def one_after_the_other() -> None:
    """Lock what changes queues."""
    from moto.sqs.models import SQSBackend

    lock = threading.RLock()

    def locked(name: str) -> None:
        plain: Any = getattr(SQSBackend, name)

        def method(self: Any, *args: Any, **options: Any) -> Any:
            with lock:
                return plain(self, *args, **options)

        setattr(SQSBackend, name, method)

    for name in (
        "send_message",
        "send_message_batch",
        "delete_message",
        "delete_message_batch",
        "change_message_visibility",
        "change_message_visibility_batch",
    ):
        locked(name)
    receive: Any = SQSBackend.receive_message

    def receive_message(
        self: Any, name: str, count: int, wait: int, hidden: int, attributes: Any = None
    ) -> Any:
        until = time.monotonic() + int(wait or 0)
        while True:
            with lock:
                queue = self.get_queue(name)
                queue.seen_now = [*queue.messages]  # of one moment, for all that it looks at
                found = receive(self, name, count, 0, hidden, attributes)
                queue.seen_now = None
            if found or time.monotonic() >= until:
                return found
            time.sleep(LOOK_SECONDS)

    setattr(SQSBackend, "receive_message", receive_message)  # noqa: B010 - of other types


def look_less_and_forget_less() -> None:
    """Have it not look at all messages for each one; and know ids of what was deleted, as AWS."""
    from moto.sqs.models import Queue

    seen: dict[tuple[str, str], float] = {}

    def add_message(self: Any, message: Any) -> None:
        key, now = (self.name, message.deduplication_id), time.monotonic()
        if self.fifo_queue and now - seen.get(key, -DEDUPLICATION_SECONDS) < DEDUPLICATION_SECONDS:
            return
        seen[key] = now
        self._messages.append(message)

    def messages(self: Any) -> Sequence[Any]:
        if self.seen_now is not None:
            return cast("Sequence[Any]", self.seen_now)
        return [each for each in list(self._messages) if each.visible and not each.delayed]

    def pending_message_groups(self: Any) -> set[str]:
        """Leave out those seen again: of such a group it would give another than the first."""
        pending = self.pending_messages.difference(self.seen_now or ())
        return {each.group_id for each in pending if each.group_id is not None}

    setattr(Queue, "add_message", add_message)  # noqa: B010 - of other types
    setattr(Queue, "seen_now", None)  # noqa: B010
    setattr(Queue, "messages", property(messages))  # noqa: B010
    setattr(Queue, "pending_message_groups", property(pending_message_groups))  # noqa: B010
    for name in ("", "_delayed", "_not_visible"):
        setattr(Queue, f"approximate_number_of_messages{name}", 0)


def count_subscriptions() -> None:
    """Have it say how many subscribe to a topic: it says none."""
    from moto.sns.models import Topic

    def confirmed(self: Any) -> int:
        return len(self.sns_backend.list_subscriptions_by_topic(topic_arn=self.arn)[0])

    def keep(self: Any, number: int) -> None:
        """Forget what it sets."""

    setattr(Topic, "subscriptions_confimed", property(confirmed, keep))  # noqa: B010


def main() -> None:
    served: Any = importlib.import_module("moto.moto_server.werkzeug_app")
    from werkzeug.serving import WSGIRequestHandler, run_simple

    _, port, user, password = sys.argv
    know(user, password)
    one_after_the_other()
    look_less_and_forget_less()
    count_subscriptions()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # so that connections are used again
    WSGIRequestHandler.disable_nagle_algorithm = True  # or each answer takes 40 ms
    app: Any = served.DomainDispatcherApplication(served.create_backend_app)
    run_simple("127.0.0.1", int(port), app, threaded=True)


if __name__ == "__main__":
    main()
