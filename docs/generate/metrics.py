"""The tables of metrics, out of the instruments that the OpenTelemetry bridge makes."""

from __future__ import annotations

from engine.integrations.opentelemetry_metrics import DISTRIBUTIONS, INSTRUMENTS

from .markdown import cell, table

__all__ = ["tables"]

_KINDS = {"counter": "counter", "level": "up-down counter", "gauge": "gauge"}


def tables() -> str:
    """Give the tables of instruments and of histograms."""
    instruments = [
        [f"`foldline.{each.name}`", _KINDS[each.make], f"`{each.unit}`", cell(each.description)]
        for each in INSTRUMENTS
    ]
    histograms = [
        [f"`foldline.{each.name}`", f"`{each.unit}`", cell(each.description)]
        for each in DISTRIBUTIONS
    ]
    return (
        table(["metric", "kind", "unit", "meaning"], instruments)
        + "\n\n## Histograms\n\n"
        + table(["metric", "unit", "meaning"], histograms)
    )
