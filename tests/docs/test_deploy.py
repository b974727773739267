"""The files of the page about deployment start the app as the page does, with one worker."""

from __future__ import annotations

import configparser
import importlib
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from engine.integrations.fastapi import health_routes
from tests.docs.pages import blocks

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "deploy.md").read_text()
yaml: Any = importlib.import_module("yaml")
FILES = {block.title: block.text for block in blocks(PAGE) if block.title is not None}
(STARTED,) = re.findall(r"^\$ (uvicorn .*)$", PAGE, re.MULTILINE)


def read_unit() -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(FILES["bank.service"])
    return unit


def manifests() -> dict[str, Any]:
    return {found["kind"]: found for found in yaml.safe_load_all(FILES["bank.yaml"])}


def test_the_unit_starts_what_the_page_starts() -> None:
    service = read_unit()["Service"]

    assert service["ExecStart"].endswith("/" + STARTED)
    assert int(service["TimeoutStopSec"]) > 10
    assert service["Restart"] == "always"
    assert read_unit()["Unit"]["StartLimitIntervalSec"] == "0"  # else it gives up after five


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "bank.service"
    unit.write_text(re.sub(r"/srv/bank\S*uvicorn", "/bin/true", FILES["bank.service"]))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )

    assert [line for line in done.stderr.splitlines() if "bank.service" in line] == []


def test_the_container_starts_what_the_page_starts() -> None:
    (command,) = re.findall(r"^CMD (.*)$", FILES["Dockerfile"], re.MULTILINE)
    words = json.loads(command)

    assert [w for w in words if w not in ("--host", "0.0.0.0")] == shlex.split(STARTED)
    copied = re.findall(r"^COPY (.*) \./$", FILES["Dockerfile"], re.MULTILINE)
    assert copied == ["bank.py web.py"]


def test_kubernetes_runs_one_pod_and_asks_a_path_that_there_is() -> None:
    found = manifests()
    bank = found["StatefulSet"]["spec"]
    (container,) = bank["template"]["spec"]["containers"]
    paths = [container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")]
    routes = {route.path for route in health_routes().routes if isinstance(route, APIRoute)}

    assert (bank["replicas"], paths) == (1, ["/live", "/ready"])
    assert set(paths) <= routes
    assert "app.include_router(health_routes())" in FILES["web.py"]
    assert bank["selector"]["matchLabels"] == bank["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"] == bank["selector"]["matchLabels"]
    (mount,), (claim,) = container["volumeMounts"], bank["volumeClaimTemplates"]
    assert mount["name"] == claim["metadata"]["name"]
    assert container["env"] == [{"name": "HOSTS", "value": "bank.example"}]
