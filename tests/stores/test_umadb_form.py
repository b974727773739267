"""What a log in UmaDB is made of: a log that was written before is read, and written so today."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from engine import Ports
from engine.model.stored import EventData, EventType
from engine.stores.contract.claims import ClaimTaken, HeldClaim, ReleaseClaim, TakeClaim
from engine.stores.contract.log import Appended, AppendRequest, Batch, Write
from engine.stores.contract.tags import TagForm, TagRead
from engine.stores.umadb.calls import umadb
from engine.testing.conformance import ALL, append, feed
from tests.support.umadb_server import UmadbServer

LOG_ID: Final = "85839c65733b461e8265595ddacafd69"
WRITTEN: Final[list[tuple[str, bytes, list[str], dict[str, str]]]] = [
    ("foldline.log", b"", [], {"form": "1", "log_id": LOG_ID}),
    (
        "added",
        b'{"number":1,"course":"c-1"}',
        ["stream=a:1", "course:c-1", "x:y", "claims=", "c=Im96P", "first="],
        {
            "foldline": "1 1 1700000000000000 0 1716331670",
            "metadata": '{"key":"k-1"}',
            "claims": '[["email","ann","a:1",1]]',
            "type": '["00aa",[[["course","course"]],["x:y"]]]',
        },
    ),
    (
        "moved",
        b"\x00\xff",
        ["stream=b:é", "claims=", "c=K6ouo", "first="],
        {
            "foldline": "1 3 1700000000000000 7 83829878",
            "metadata.bytes": "ÿ\x00",
            "claims": '[["email","bob","b:é",2]]',
            "type": '["00bb",null]',
        },
    ),
    (
        "moved",
        b"\x00\xff",
        ["stream=b:é", "claims=", "c=K6ouo"],
        {
            "foldline": "2 3 1700000000000000 7 1019522821",
            "metadata.bytes": "ÿ\x00",
            "claims": '[["email","bob",null,3]]',
        },
    ),
]
"""Events of form 1, and the number beside them; a new release reads them, whatever it writes."""
NUMBER: Final = 35184372088831
ADDED, MOVED = EventType("added", 1, "00aa"), EventType("moved", 3, "00bb")
FORMS = [TagForm("added", 1, (("course", "course"),), ("x:y",))]
DATA = EventData(ADDED, WRITTEN[1][1], b'{"key":"k-1"}', tags=("course:c-1", "x:y"))
BINARY = EventData(MOVED, b"\x00\xff", b"\xff\x00", encoding=7)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[UmadbServer]:
    made = UmadbServer(tmp_path / "umadb")
    made.start()
    yield made
    made.close()


async def test_a_log_of_this_form_is_read(server: UmadbServer) -> None:
    """Events, types, kinds, tags and claims, and the log goes on."""
    module, client = umadb(), server.client()
    client.append([module.Event(*given[:3], uuid.uuid4(), given[3]) for given in WRITTEN])
    client.append([], None, module.TrackingInfo("foldline", NUMBER))
    store = server.store()
    await store.open(Ports())
    await store.index_tags(FORMS)
    found = await feed(store)
    tagged = await store.read_tagged(
        [TagRead(("course:c-1", "x:y"), ("added",))], events_max=9, bytes_max=ALL
    )

    assert store.log_id == LOG_ID
    assert [(e.position, e.stream, e.version, e.payload, e.metadata) for e in found] == [
        (1, "a:1", 1, DATA.payload, DATA.metadata),
        (2, "b:é", 1, BINARY.payload, BINARY.metadata),
        (3, "b:é", 2, BINARY.payload, BINARY.metadata),
    ]
    assert list(await store.event_types()) == [ADDED, MOVED]
    assert list(await store.kinds()) == ["a", "b"]
    assert await store.read_claims(claims_max=9) == [HeldClaim("email", "ann", "a:1", 1)]
    assert [event.position for event in tagged[0].events] == [1]
    takes = [TakeClaim("email", name, "c:1") for name in ("bob", "ann")]
    assert await append(
        store,
        AppendRequest([Write("c:1", 0, [BINARY])], takes),
        AppendRequest([Write("b:é", 2, [BINARY])], [TakeClaim("email", "bob", "b:é")]),
    ) == [ClaimTaken(1), Appended(4, (3,))]
    await store.close()


async def test_a_log_is_written_in_this_form(server: UmadbServer) -> None:
    """A change of it needs another number, and this one is still read."""
    store = server.store()
    await store.open(Ports())
    await store.index_tags(FORMS)
    writes = [Write("a:1", 0, [DATA]), Write("b:é", 0, [BINARY])]
    takes = [TakeClaim("email", "ann", "a:1"), TakeClaim("email", "bob", "b:é")]
    await store.append(Batch([AppendRequest(writes, takes)], 1_700_000_000_000_000))
    release = [ReleaseClaim("email", "bob", "b:é")]
    await store.append(Batch([AppendRequest([Write("b:é", 1, [BINARY])], release)], 1))
    log_id = store.log_id
    await store.close()
    client = server.client()

    def shown(event: Any) -> tuple[str, bytes, list[str], dict[str, str]]:
        return event.event_type, bytes(event.data), event.tags, event.metadata

    written = [shown(found.event) for found in client.read()]
    assert written[0][3].pop("log_id") == log_id
    assert written == [(*WRITTEN[0][:3], {"form": "1"}), *WRITTEN[1:]]
    assert client.get_tracking_info("foldline") == NUMBER
