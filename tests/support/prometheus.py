"""A real Prometheus for tests: on loopback, a free port, and a private folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import httpx
import pytest

from tests.support.postgres import free_port

SECONDS: Final = 60
_CONFIG: Final = """\
global: {{scrape_interval: 100ms, evaluation_interval: 100ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: shop
    static_configs: [{{targets: ["127.0.0.1:{target}"]}}]
"""


def program(name: str) -> str:
    """Give where a program of Prometheus is; skip the test, or fail where CI=true."""
    found = shutil.which(name)
    if found is None:
        install = f"there is no {name}: apt-get install -y --no-install-recommends prometheus"
        assert os.environ.get("CI") != "true", install
        pytest.skip(install)
    return found


@contextmanager
def prometheus(folder: Path, *, rules: Path, target: int) -> Generator[str]:
    """Scrape what a port of this machine says, and evaluate rules; give its URL."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(_CONFIG.format(rules=rules, target=target))
    options = [f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
    options += [f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([program("prometheus"), *options], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(SECONDS)


def _alerts(url: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = httpx.get(f"{url}/api/v1/alerts").json()["data"]["alerts"]
    except (httpx.HTTPError, KeyError, ValueError):
        return []  # it has not begun to serve
    return found


def until_firing(url: str, alert: str) -> dict[str, Any]:
    """Wait until an alert fires; give its labels."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for one in _alerts(url):
            if one["labels"]["alertname"] == alert and one["state"] == "firing":
                return cast("dict[str, Any]", one["labels"])
        time.sleep(0.05)
    raise AssertionError(f"{alert} did not fire within {SECONDS} s")
