"""`python -m tests.relays --broker nats --kills 50`: a real broker dies under load, and comes back.

The exit status is 1 where an event was lost, came twice with two ids, or overtook another.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.relays.conftest import BROKERS
from tests.relays.kills import run
from tests.support.aws_server import SnsServer
from tests.support.brokers import Broker, RabbitServer


class QuorumServer(RabbitServer):
    """RabbitMQ with quorum queues."""

    queues = "quorum"


KINDS: Mapping[str, type[Broker]] = {
    **BROKERS,
    "rabbitmq-quorum": QuorumServer,
    "sns": SnsServer,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.relays", description=__doc__)
    parser.add_argument("--broker", choices=sorted(KINDS), action="append")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for name in options.broker or sorted(KINDS):
        with tempfile.TemporaryDirectory() as folder:
            broker = KINDS[name](Path(folder) / name)
            broker.start()
            try:
                outcome = asyncio.run(run(broker, "counted", options.kills, options.seed))
            finally:
                broker.close()
            print(f"{name}, killed {options.kills} times: {outcome}")


if __name__ == "__main__":
    main()
