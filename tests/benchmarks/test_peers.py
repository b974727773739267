"""Which peers take part."""

from __future__ import annotations

import sys
import types
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.__main__ import main
from benchmarks.peers import Peer, PeerMissing
from benchmarks.systems import floor_system

HERE = sys.version_info[:2]
LATER = (HERE[0], HERE[1] + 1)


@pytest.fixture
def only_anyio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be two peers: one that is installed, and one that is not."""
    module = types.ModuleType("benchmarks.peer_of_a_test")
    module.CONFIGURATION = "as fast as it can"  # type: ignore[attr-defined]
    module.systems = lambda name: [floor_system(durable=True)]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    here = Peer("anyio", "peer_of_a_test", HERE)
    away = Peer("no-such-distribution", "peer_that_is_never_imported", HERE)
    monkeypatch.setattr(peers, "PEERS", (here, away))


@pytest.mark.usefixtures("only_anyio")
def test_without_a_choice_those_that_are_installed_take_part() -> None:
    found = peers.find(None)

    assert len(found.systems) == 1
    assert found.configurations == {f"anyio {metadata.version('anyio')}": "as fast as it can"}
    assert list(found.left_out) == [f"no-such-distribution is not installed: {peers.INSTALL}"]


@pytest.mark.usefixtures("only_anyio")
def test_a_peer_that_is_asked_for_and_not_installed_is_an_error() -> None:
    with pytest.raises(PeerMissing, match="no-such-distribution is not installed: pip install"):
        peers.find(["no-such-distribution"])


@pytest.mark.usefixtures("only_anyio")
def test_a_choice_leaves_the_others_out_without_a_word() -> None:
    found = peers.find(["anyio"])

    assert (len(found.systems), found.left_out) == (1, [])
    assert peers.find([]) == peers.Found([], [], {})


def test_a_peer_for_a_later_python_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PEERS", (Peer("no-such-distribution", "peer", LATER),))

    with pytest.raises(PeerMissing, match=rf"needs Python {LATER[0]}\.{LATER[1]}, and this is"):
        peers.find(["no-such-distribution"])


def test_on_the_command_line_a_missing_peer_is_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", none)

    status = main(["walk", "--quick", "--peers", "eventsourcing", "--folder", str(tmp_path)])

    assert status == 2
    assert "eventsourcing is not installed: pip install" in capsys.readouterr().err
