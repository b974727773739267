"""Telemetries for tests: one that keeps what it is told, and one that raises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine import EngineStatistics
from engine.telemetry import CommandBegan, Observation

Told = tuple[Any, BaseException | None, Mapping[str, Any]]


class Recorder:
    """Keeps what it is told."""

    wants_commands = True

    def __init__(self, headers: Any = None) -> None:
        self.told: list[Told] = []
        self.headers = headers
        self.statistics: Callable[[], EngineStatistics] | None = None
        self.detached = False

    def attach(self, statistics: Callable[[], EngineStatistics]) -> None:
        self.statistics = statistics

    def detach(self) -> None:
        self.detached = True

    def begin(self, began: Any) -> Observation | None:
        given = began.headers if isinstance(began, CommandBegan) else None
        return Seen(self, began, given if self.headers is None else self.headers)

    def of(self, cls: type) -> list[Told]:
        return [told for told in self.told if isinstance(told[0], cls)]


class Seen:
    def __init__(self, recorder: Recorder, began: Any, headers: Any) -> None:
        self._recorder = recorder
        self._began = began
        self.headers = headers

    def end(self, error: BaseException | None, facts: Mapping[str, Any]) -> None:
        self._recorder.told.append((self._began, error, facts))


class Raising:
    """Raises at one of its steps, as a broken exporter may."""

    headers: Any = None

    @property
    def wants_commands(self) -> bool:
        self._at("wants")
        return True

    def __init__(self, step: str, error: BaseException) -> None:
        self._step = step
        self._error = error
        if step == "headers":
            self.headers = {"a": 1}

    def _at(self, step: str) -> None:
        if step == self._step:
            raise self._error

    def attach(self, statistics: Any) -> None:
        self._at("attach")

    def detach(self) -> None:
        self._at("detach")

    def begin(self, began: Any) -> Observation | None:
        self._at("begin")
        return self

    def end(self, error: BaseException | None, facts: Mapping[str, Any]) -> None:
        self._at("end")
