"""The folder of a process, by which others of the machine see that it has gone."""

from __future__ import annotations

import os

import pytest

from engine.runtime.private_folder import PrivateFolder, is_abandoned


def test_a_folder_is_abandoned_when_its_lock_is_free_and_never_before() -> None:
    folder = PrivateFolder()
    assert not is_abandoned(folder.path)
    os.close(folder._descriptor)  # pyright: ignore[reportPrivateUsage] - as the system does
    assert is_abandoned(folder.path)
    folder._descriptor = os.open(folder.path, os.O_RDONLY)  # pyright: ignore[reportPrivateUsage]
    folder.remove()


def test_who_takes_its_folder_away_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves, and still answers what it has: whoever looks at that moment finds a free lock."""
    folder = PrivateFolder()
    opened = os.open

    def open_then_removed(path: str, flags: int) -> int:
        monkeypatch.undo()
        descriptor = opened(path, flags)
        folder.remove()
        return descriptor

    monkeypatch.setattr(os, "open", open_then_removed)
    assert not is_abandoned(folder.path)
    assert folder._descriptor < 0, "it was removed meanwhile"  # pyright: ignore[reportPrivateUsage]
