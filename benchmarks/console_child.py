"""Who looks at a console: `python -m benchmarks.console_child PORT overview|log`.

It asks as the page in a browser does, tells on a line of its own that it has had its first answer,
goes on until a line comes over stdin, and prints how many answers it had. Only the standard library
is imported, so that it takes little of the machine.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
from typing import Any

OVERVIEW_SECONDS = 2.0
LOG_SECONDS = 0.25
LIVE_ROWS, WAIT_SECONDS = 200, 15


def main(port: int, looks: str) -> None:
    """Look until a line comes."""
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.readline()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    end = _asked(connection, "log?limit=1")["end"]
    print(flush=True)
    answers = 0
    while not ended.is_set():
        if looks == "overview":
            _asked(connection, "overview")
        else:
            page = _asked(connection, f"log?after={end}&wait={WAIT_SECONDS}&limit={LIVE_ROWS}")
            end = max(end, page["end"])
        answers += 1
        ended.wait(OVERVIEW_SECONDS if looks == "overview" else LOG_SECONDS)
    print(answers)


def _asked(connection: http.client.HTTPConnection, path: str) -> Any:
    connection.request("GET", f"/api/v1/{path}")
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path} was answered with {response.status}: {body[:200]!r}")
    return json.loads(body)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
