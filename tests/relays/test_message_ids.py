"""Ids of messages: the same each time an event is sent, and no other event's of any history."""

from __future__ import annotations

from engine import Delivery, Meta
from engine.model.messages import Event
from engine.relays.message import Former, Outgoing, place_of
from engine.testing.scenario import deliveries
from tests.support.counters import Added

LOG = "0123456789abcdef0123456789abcdef"


def sent(recorded: int, stream: str = "counter:a", log_id: str = LOG) -> Outgoing:
    """Give the message of the first event of a stream."""
    (delivery,) = deliveries(Added(1), stream=stream, recorded=recorded, log_id=log_id)
    assert isinstance(delivery, Delivery)
    message = Former("topic").form(delivery)
    assert message is not None
    assert message.id == delivery.id
    return message


def test_an_event_that_is_sent_again_has_its_id() -> None:
    assert sent(7).id == sent(7).id
    assert sent(7).id.startswith(f"{LOG}-1-")


def test_no_event_has_the_id_of_one_that_a_restored_log_has_lost() -> None:
    lost, new = sent(7), sent(8)
    assert lost.place == new.place == f"{LOG}-1"
    assert lost.id != new.id
    assert sent(7, "counter:b").id != lost.id
    assert sent(7, log_id="another").id != lost.id


def test_a_release_that_renames_or_changes_an_event_changes_no_id() -> None:
    meta = Meta("counter:a", 1, 1, 7, None, None, None, None, None)
    assert Delivery[Event](Added(2), meta, LOG).id == sent(7).id


def test_a_stream_of_any_characters_has_an_id() -> None:
    assert place_of(sent(7, "counter:\u00e4 \u4e2d").id) == f"{LOG}-1"
