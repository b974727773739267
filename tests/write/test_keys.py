"""The key window: a function of the stream alone, however it was built."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import UsageError
from engine.model.codec import NOTHING_KEPT, Metadata, encode_metadata, encode_metadata_of_key
from engine.write.keys import KeyRecord, KeyWindow, id_from_key


def test_one_key_gives_one_id_for_ever() -> None:
    assert id_from_key("checkout-77") == "2aa1f363-4ff8-500b-a5fe-0b61b6b87470"
    assert id_from_key("checkout-77") != id_from_key("checkout-78")
    with pytest.raises(UsageError, match="not NoneType: a request without an Idempotency-Key"):
        id_from_key(cast("str", None))


@pytest.mark.parametrize("events", [1, 3])
@pytest.mark.parametrize("reply", [None, b"null", b'{"seat":7}'])
@pytest.mark.parametrize(("fingerprint", "sealed"), [(2**62, None), (0, "sealed"), (None, None)])
def test_metadata_of_a_key_alone_are_stored_as_all_metadata_are(
    events: int, reply: bytes | None, fingerprint: int | None, sealed: str | None
) -> None:
    kept = NOTHING_KEPT if reply is None else msgspec.Raw(reply)
    every = Metadata("k-1", fingerprint, events, reply=kept, sealed=sealed)

    assert encode_metadata_of_key("k-1", fingerprint, events, reply, sealed) == encode_metadata(
        every
    )


def test_a_key_leaves_the_window_with_the_version_that_pushes_it_out() -> None:
    window = KeyWindow(3)
    window.remember("a", KeyRecord(1, 1, 1, 10))

    assert window.find("a", 3) is not None
    assert window.find("a", 4) is None


def test_a_command_of_more_events_than_the_window_keeps_its_own_key() -> None:
    window = KeyWindow(3)
    window.remember("import", KeyRecord(1, 1, 50, 50))

    assert window.find("import", 52) is not None
    assert window.find("import", 53) is None


@given(
    width=st.integers(1, 6),
    commands=st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from(["", "a", "b", "c", "d", "e"])), max_size=30
    ),
)
def test_the_window_holds_the_keyed_commands_of_the_last_versions(
    width: int, commands: list[tuple[int, str]]
) -> None:
    window = KeyWindow(width)
    executed: list[tuple[str, int]] = []
    version = 0
    for events, key in commands:
        first = version + 1
        version += events
        if key:
            window.remember(key, KeyRecord(0, first, version, version))
            executed.append((key, version))

    last = dict(executed)
    expected = {key for key, ended in last.items() if ended > version - width}
    assert {k for k in "abcde" if window.find(k, version) is not None} == expected
    assert len(window) <= width


def test_a_wide_window_lets_go_of_many_at_a_time() -> None:
    window = KeyWindow(80)
    for version in range(1, 1_001):
        window.remember(f"k-{version}", KeyRecord(0, version, version, version))
        assert len(window) <= 90
        assert window.find(f"k-{version - 80}", version) is None
        assert [kept.version for _, kept in window.records(version)] == list(
            range(max(1, version - 79), version + 1)
        )
