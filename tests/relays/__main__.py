"""`python -m tests.relays --broker nats --kills 50`: a real broker dies under load, and comes back.

The exit status is 1 where an event was lost, came twice with two ids, or overtook another.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from tests.relays.conftest import BROKERS
from tests.relays.kills import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.relays", description=__doc__)
    parser.add_argument("--broker", choices=sorted(BROKERS), action="append")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for name in options.broker or sorted(BROKERS):
        with tempfile.TemporaryDirectory() as folder:
            broker = BROKERS[name](Path(folder) / name)
            broker.start()
            try:
                outcome = asyncio.run(run(broker, "counted", options.kills, options.seed))
            finally:
                broker.close()
            print(f"{name}, killed {options.kills} times: {outcome}")


if __name__ == "__main__":
    main()
