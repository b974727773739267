"""The dashboard and the alert rules: they name what is published, and a real Prometheus fires."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

import engine
from engine import Engine, MembershipStatistics, ServerStatistics
from engine.__main__ import main
from engine.integrations.opentelemetry import OpenTelemetry
from tests.health.looking import SomeDisk, engine_on
from tests.support.counters import Add
from tests.support.prometheus import program, prometheus, until_firing
from tests.support.tallies import AILING
from tests.support.waiting import until

FILES: Final = Path(engine.__file__).parent / "integrations" / "prometheus"


class Published:
    """An engine's metrics as Prometheus is given them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.meters = MeterProvider([PrometheusMetricReader(registry=self.registry)])
        self.telemetry = OpenTelemetry(meter_provider=self.meters, spans=False)

    def names(self) -> set[str]:
        text = generate_latest(self.registry).decode()
        return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line[0] != "#"}


@pytest.fixture
def published() -> Iterator[Published]:
    made = Published()
    yield made
    made.meters.shutdown()
    AILING.clear()


def engine_in(path: Path, published: Published) -> Engine:
    store = f"sqlite:{path}/log.db"
    return engine_on(store, SomeDisk(), telemetry=published.telemetry, join=True)


def expressions() -> list[str]:
    """Give what the rules and the dashboard ask for."""
    rules = (FILES / "alerts.yml").read_text()
    asked = re.findall(r"expr: (?:>-\n)?((?:.+\n)(?: {10}.+\n)*)", rules)
    dashboard: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
    asked += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    return asked


async def test_every_metric_that_they_name_is_one_that_an_engine_publishes(
    tmp_path: Path, published: Published
) -> None:
    async with engine_in(tmp_path, published) as running:
        await running.execute(Add("a", 1))
        await until(lambda: running.statistics().projectors["tallies"].lag_events == 0)
        numbers = msgspec.structs.replace(
            running.statistics(),
            server=ServerStatistics(
                reconnects=0,
                batches_found=0,
                batches_sent_again=0,
                renewals_failed=0,
                lease_seconds_left=1.0,
            ),
            membership=MembershipStatistics("owner", 1, 1, 1, 0),
        )
        names = published.names()
        published.telemetry.detach()
        others = OpenTelemetry(meter_provider=published.meters, spans=False)
        others.attach(lambda: numbers)
        names |= published.names()
        others.detach()

    asked = {name for text in expressions() for name in re.findall(r"foldline_[a-z_]+", text)}
    asked -= {name for text in expressions() for name in _labels(text)}
    # These have numbers when something has happened that did not here.
    later = {"foldline_queries_total", "foldline_reactor_commands_total"}
    later |= {"foldline_query_duration_seconds_bucket"}
    assert len(asked) > 25
    assert asked - names - later == set()


async def test_what_an_alert_sees_grow_is_published_before_it_happens(
    tmp_path: Path, published: Published
) -> None:
    """A series that began with 1 fired no alert, and an unknown outcome ends its engine."""
    async with engine_in(tmp_path, published):
        text = generate_latest(published.registry).decode()
    grown = {
        value
        for rule in expressions()
        for value in re.findall(r'increase\(\w+\{foldline_answer="([a-z-]+)"', rule)
    }
    assert grown == {"outcome-unknown", "stream-unreadable"}
    for answer in grown:
        (line,) = [one for one in text.splitlines() if f'foldline_answer="{answer}"' in one]
        assert line.startswith("foldline_commands_answered_total{")
        assert line.endswith(" 0.0")


def _labels(text: str) -> set[str]:
    """Give what are names of labels in an expression."""
    inside = re.findall(r"\{[^}]*\}|by \([^)]*\)", text)
    return set(re.findall(r"foldline_[a-z_]+", " ".join(inside)))


async def test_a_member_publishes_its_part_and_nothing_of_what_its_owner_does(
    tmp_path: Path, published: Published
) -> None:
    owner = engine_on(f"sqlite:{tmp_path}/log.db", SomeDisk(), join=True)
    async with owner, engine_in(tmp_path, published) as member:
        await member.execute(Add("a", 1))
        text = generate_latest(published.registry).decode()

    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    found = {key.partition("{")[0]: value for key, value in lines.items()}
    roles = {key: value for key, value in lines.items() if "membership_role" in key}
    assert [value for key, value in roles.items() if 'foldline_role="member"' in key] == ["1.0"]
    assert [value for key, value in roles.items() if 'foldline_role="owner"' in key] == ["0.0"]
    assert found["foldline_membership_forwarded_total"] == "1.0"
    assert found["foldline_membership_owners_total"] == "1.0"
    assert not [name for name in found if re.match("foldline_(projector|timers)_", name)]


def test_the_rules_load_and_fire_on_what_they_are_for(tmp_path: Path) -> None:
    promtool = program("promtool")
    rules = tmp_path / "alerts.yml"
    rules.write_text((FILES / "alerts.yml").read_text())
    cases = tmp_path / "alerts_test.yml"
    cases.write_text(Path(__file__).with_name("alerts_test.yml").read_text())
    for command in (["check", "rules", str(rules)], ["test", "rules", str(cases)]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


async def test_a_real_prometheus_scrapes_an_engine_and_fires_an_alert(
    tmp_path: Path, published: Published
) -> None:
    program("prometheus")
    server, thread = start_http_server(0, "127.0.0.1", published.registry)
    AILING.add("a")
    try:
        async with engine_in(tmp_path, published) as running:
            await running.execute(Add("a", 1))
            await until(lambda: running.statistics().projectors["tallies"].failure is not None)
            with prometheus(tmp_path, rules=FILES / "alerts.yml", target=server.server_port) as url:
                fired = await asyncio.to_thread(until_firing, url, "FoldlineProjectionStopped")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

    assert fired["foldline_projection"] == "tallies"
    assert (fired["job"], fired["severity"]) == ("shop", "page")


def test_the_command_prints_both_files_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for what, name in (("grafana", "dashboard.json"), ("alerts", "alerts.yml")):
        assert main(["dashboard", what]) == 0
        assert capsys.readouterr().out == (FILES / name).read_text()


def test_each_panel_has_its_own_place_and_a_name() -> None:
    dashboard: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]

    assert len(set(places)) == len(places) > 20
    assert all(panel["title"] and panel["targets"] for panel in dashboard["panels"])
