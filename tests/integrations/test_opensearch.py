"""What is OpenSearch's own: mappings, versions of documents, and servers that refuse.

On an emulator (osmem), with a gate before it for what an emulator does not do.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from engine import DefinitionError, Engine, ProjectionLag
from engine.integrations.opensearch import OpenSearchReadModel
from tests.integrations.places import Counting, InOpenSearch, Kept, keeping
from tests.support.brokers import PASSWORD, USER
from tests.support.certificates import certify
from tests.support.counters import Add, Added, Empty
from tests.support.opensearch import Answer, OpenSearchServer, gate_to
from tests.support.waiting import until

MAPPINGS = {"properties": {"total": {"type": "byte"}}}


@pytest.fixture
def server(started: Callable[[str], Any]) -> OpenSearchServer:
    made: OpenSearchServer = started("opensearch")
    return made


@pytest.fixture
async def database(server: OpenSearchServer) -> InOpenSearch:
    made = InOpenSearch(server)
    await made.empty()
    return made


async def add(engine: Engine, counter: str, amount: int = 1) -> int:
    return (await engine.execute(Add(counter, amount))).position


async def kept(engine: Engine, position: int) -> None:
    await engine.query(Kept(), at=position, timeout=30)


async def cause_of(engine: Engine, position: int) -> str:
    with pytest.raises(ProjectionLag, match="stopped"):
        await kept(engine, position)
    failure = (await engine.projections.status("totals")).failure
    assert failure is not None
    assert PASSWORD not in failure.cause
    return failure.cause


async def test_a_document_that_does_not_fit_is_parked_with_what_follows_and_no_other(
    database: InOpenSearch,
) -> None:
    async with keeping(database.model(mappings=MAPPINGS)) as engine:
        await add(engine, "a")
        await add(engine, "b", 1_000)  # more than a byte
        await add(engine, "b")
        await kept(engine, await add(engine, "a"))
        status = await engine.projections.status("totals")
        assert (status.parked, await database.totals()) == (2, {"a": 2})
        (parked, _) = await engine.projections.parked("totals")
        assert "MessageRefused" in (parked.cause or "")
        assert "1000" not in (parked.cause or "")


async def test_a_document_that_was_parked_is_written_when_it_fits(
    database: InOpenSearch, server: OpenSearchServer
) -> None:
    counting = Counting(factor=1_000)
    async with keeping(database.model(counting, mappings=MAPPINGS)) as engine:
        await add(engine, "a")
        await add(engine, "a")
        await kept(engine, await add(engine, "b"))
        counting.factor = 1
        await engine.projections.retry("totals")
        assert await database.totals() == {"a": 2, "b": 1}
        await kept(engine, await add(engine, "a"))
    assert await database.totals() == {"a": 3, "b": 1}
    found = await server.ask("GET", "totals/_doc/a")
    assert found["_version"] == 4  # the position of its last event


async def test_a_write_that_comes_late_changes_nothing(
    database: InOpenSearch, server: OpenSearchServer
) -> None:
    """As one of a former life of the process, which the network has kept for a while."""
    async with gate_to(server) as gate:
        bodies: list[bytes] = []
        gate.seen = lambda path, body: bodies.append(body) if "_bulk" in path else None
        async with keeping(database.model(port=gate.port)) as engine:
            await kept(engine, await add(engine, "a"))
            await kept(engine, await add(engine, "b"))
            await kept(engine, await add(engine, "a"))
            await kept(engine, (await engine.execute(Empty("b"))).position)
    for body in reversed(bodies):
        await server.bulk(body)
    assert await database.totals() == {"a": 2}


async def test_what_was_written_is_asked_to_be_found_by_search_before_at_returns(
    database: InOpenSearch, server: OpenSearchServer
) -> None:
    async with gate_to(server) as gate, keeping(database.model(port=gate.port)) as engine:
        await kept(engine, await add(engine, "a"))
        await kept(engine, await add(engine, "a"))
    asked = [each for each in gate.asked if "_bulk" in each or "_refresh" in each]
    assert asked == [
        "POST /_bulk?require_alias=true&refresh=false",
        "POST /totals.v1/_refresh",  # before readers are sent there
        "POST /_bulk?require_alias=true&refresh=wait_for",
    ]


@pytest.mark.parametrize("before", ["_mget", "_bulk"])
async def test_an_index_that_is_gone_is_not_made_by_a_write(
    before: str, database: InOpenSearch, server: OpenSearchServer
) -> None:
    async def remove(path: str, body: bytes) -> None:
        if before in path:
            await server.ask("DELETE", "totals.v1")

    async with gate_to(server) as gate, keeping(database.model(port=gate.port)) as engine:
        await kept(engine, await add(engine, "a"))
        gate.seen = remove
        assert "has lost rows" in await cause_of(engine, await add(engine, "a"))
    assert await server.ask("GET", "totals.v1.write/_alias") is None
    assert await server.ask("GET", "totals.v1/_alias") is None


def _says(status: int, kind: str = "") -> web.Response:
    return web.json_response({"error": {"type": kind, "reason": "a secret"}}, status=status)


def _rejected(method: str, path: str) -> web.Response | None:
    """Answer as a server whose queue is full: for the request, or for one of its documents."""
    if path != "/_bulk":
        return None
    item = {"_id": "a", "status": 429, "error": {"type": "rejected_execution_exception"}}
    return web.json_response({"errors": True, "items": [{"index": item}]})


@pytest.mark.parametrize(
    "answer",
    [
        lambda method, path: _says(429) if path == "/_bulk" else None,
        lambda method, path: _says(503),
        lambda method, path: _says(403, "cluster_block_exception") if path == "/_bulk" else None,
        _rejected,
    ],
    ids=["429", "503", "disk full", "429 of a document"],
)
async def test_a_server_that_has_no_room_is_waited_for(
    answer: Answer, database: InOpenSearch, server: OpenSearchServer
) -> None:
    async with gate_to(server) as gate:
        gate.answer = answer
        async with keeping(database.model(port=gate.port)) as engine:
            position = await add(engine, "a")
            await until(lambda: engine.statistics().projectors["totals"].retries > 1)
            gate.answer = lambda method, path: None
            await kept(engine, position)
            assert (await engine.projections.status("totals")).parked == 0
    assert await database.totals() == {"a": 1}


async def test_a_server_that_is_gone_is_waited_for(
    database: InOpenSearch, server: OpenSearchServer
) -> None:
    async with gate_to(server) as gate:
        port = gate.port
    async with keeping(database.model(port=port)) as engine:
        position = await add(engine, "a")
        await until(lambda: engine.statistics().projectors["totals"].retries > 1)
        async with gate_to(server, port=port):
            await kept(engine, position)
    assert await database.totals() == {"a": 1}


OLD = {"version": {"number": "6.8.23", "lucene_version": "7.7.3"}}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda method, path: web.json_response(OLD), "elasticsearch 6.8.23, which is too old"),
        (lambda method, path: web.Response(text="<html>hello"), "does not answer as OpenSearch"),
        (lambda method, path: web.json_response({"status": "ok"}), "does not answer as OpenSearch"),
        (
            lambda method, path: web.Response(
                status=302, headers={"Location": "http://127.0.0.1:1/"}
            ),
            "a redirect, which is not followed",
        ),
        (lambda method, path: _says(403, "security_exception"), "has no right"),
        (
            lambda method, path: (
                _says(400, "mapper_parsing_exception") if method == "PUT" else None
            ),
            "mend settings= or mappings=",
        ),
    ],
    ids=["old", "no JSON", "other JSON", "redirect", "forbidden", "bad mapping"],
)
async def test_what_waiting_does_not_mend_stops_it_and_says_why(
    answer: Answer, said: str, database: InOpenSearch, server: OpenSearchServer
) -> None:
    async with gate_to(server) as gate:
        gate.answer = answer
        async with keeping(database.model(port=gate.port)) as engine:
            position = await add(engine, "a")
            cause = await cause_of(engine, position)
            assert said in cause
            assert "a secret" not in cause
            gate.answer = lambda method, path: None
            await engine.projections.resume("totals")
            await kept(engine, position)
    assert await database.totals() == {"a": 1}


async def test_wrong_credentials_stop_it_without_the_secret(
    database: InOpenSearch, server: OpenSearchServer
) -> None:
    async with gate_to(server) as gate:
        wrong = database.model(to=server.url_of(USER, "wr0ng-secret", port=gate.port))
        async with keeping(wrong) as engine:
            cause = await cause_of(engine, await add(engine, "a"))
    assert "refuses the credentials" in cause
    assert "wr0ng" not in f"{cause}{wrong!r}{vars(wrong)}"


async def test_tls_is_checked_and_a_certificate_that_does_not_fit_stops_it(
    database: InOpenSearch, server: OpenSearchServer, tmp_path: Path
) -> None:
    certificate = certify(tmp_path, "search", "IP:127.0.0.1")
    certified = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certified.load_cert_chain(certificate, tmp_path / "search.key")
    async with gate_to(server, certified) as gate:
        url = server.url_of(USER, PASSWORD, port=gate.port, safe=True)
        async with keeping(database.model(to=url)) as engine:
            cause = await cause_of(engine, await add(engine, "a"))
            assert "no encrypted connection" in cause
        trusted = ssl.create_default_context(cafile=str(certificate))
        async with keeping(database.model(to=url, tls=trusted)) as engine:
            await kept(engine, await add(engine, "a"))
    async with gate_to(server) as plain:
        url = server.url_of(USER, PASSWORD, port=plain.port, safe=True)
        async with keeping(database.model(to=url, tls=trusted)) as engine:
            cause = await cause_of(engine, await add(engine, "a"))
    assert "no encrypted connection" in cause


async def test_a_batch_of_which_the_answer_is_lost_counts_once(
    database: InOpenSearch, server: OpenSearchServer, tmp_path: Path
) -> None:
    async with gate_to(server) as gate:
        cut: list[str] = []

        def lose(path: str, body: bytes) -> None:
            if "_bulk" in path and len(cut) < 3:
                cut.append(path)
                gate.loses = True

        gate.seen = lose
        async with keeping(database.model(port=gate.port), tmp_path / "log.db") as engine:
            for counter in "abab":
                await kept(engine, await add(engine, counter))
    assert len(cut) == 3
    assert await database.totals() == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "nats://localhost"}, "the URL of opensearch"),
        ({"to": "http://search.example.com"}, "would not be encrypted"),
        ({"to": "https://a.example.com,b.example.com"}, "names one host"),
        ({"events": []}, "list of classes of events"),
        ({"apply": None}, "is a function"),
        ({"name": "Totals"}, "small letters"),
        ({"refresh": "soon"}, "refresh= is"),
        ({"mappings": {"_source": {"enabled": False}}}, "disables _source"),
    ],
)
def test_a_model_that_cannot_be_kept_is_refused(options: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"name": "totals", "to": "http://localhost", "events": [Added]}
    given |= {"apply": lambda row, event, meta: None, **options}
    with pytest.raises(DefinitionError, match=said):
        OpenSearchReadModel(**given)
