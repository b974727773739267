"""The gate before a log: whether the declared types of events fit what is stored, and the samples.

Rules: everything that does not fit is found at once, each with its mend; an engine does not start
on a log with findings, and `foldline schema check` says the same before a release. This file reads
no log and no file: it compares what it is given. Commands of timers that wait are looked at by that
command alone, since an engine starts without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from ..errors import Damaged, HandlerFailed, StoreRefused
from ..runtime.package import COMMAND
from .codec import EventRegistry
from .stored import ENCODING_JSON, EventType, StoredEvent

__all__ = [
    "Finding",
    "Sample",
    "check_commands",
    "check_samples",
    "check_types",
    "findings_text",
    "refuse_misfits",
    "unknown_kinds",
]


class Finding(msgspec.Struct, frozen=True):
    """One thing that does not fit."""

    rule: str
    """"changed", "missing-upcaster", "newer-release", "unknown", "unreadable", "no-sample" or
    "timer"."""
    name: str
    version: int
    message: str
    """What does not fit, and the mend."""


class Sample(msgspec.Struct, frozen=True):
    """A stored event kept in the repository, so that a change is found before a log is at hand."""

    name: str
    version: int
    schema: str
    """Schema hash of its class when it was recorded."""
    payload: msgspec.Raw


def check_types(registry: EventRegistry, stored: Iterable[EventType]) -> Sequence[Finding]:
    """Give what does not fit between the declared types and those of a log."""
    found = [_check_type(registry, kind) for kind in stored]
    return [finding for finding in found if finding is not None]


def _check_type(registry: EventRegistry, stored: EventType) -> Finding | None:
    name, version = stored.name, stored.version
    declared = {t.version: t for t in registry.types if t.name == name}
    versions = {number: t.schema_hash for number, t in declared.items()}
    if registry.upcasting.is_retired(name, version):
        return None
    if version in versions:
        if stored.schema_hash in (versions[version], *declared[version].former):
            return None
        return Finding(
            "changed",
            name,
            version,
            f"{name!r} version {version} is stored with schema {stored.schema_hash} and declared "
            f"with {versions[version]}: its fields changed, or a default that stored events rely "
            f"on, or the name of an enum's number. Undo the change, or declare it as version "
            f"{max(versions) + 1} with an upcaster from version {version}. A new field of the "
            f"event itself, not of a struct inside it, is declared with `added=[...]` if it has a "
            f"default that is true of all events before.",
        )
    if not versions:
        return Finding(
            "unknown",
            name,
            version,
            f"{name!r} version {version} is stored and nothing declares it. Declare its class, "
            f"lead to another one by an upcaster, or pass Retired({name!r}).",
        )
    if version > max(versions):
        return Finding(
            "newer-release",
            name,
            version,
            f"{name!r} version {version} is stored, and this program knows it up to version "
            f"{max(versions)}: a newer release wrote it. Run that one.",
        )
    following = min(v for v in versions if v > version)
    return Finding(
        "missing-upcaster",
        name,
        version,
        f"{name!r} version {version} is stored, and no upcaster leads from it to version "
        f"{following}. Declare the class as it was, and write `@upcasts def ...(event: <version "
        f"{version}>) -> <version {following}>`.",
    )


def check_commands(
    decode: Callable[[str, bytes], object], waiting: Iterable[tuple[str, str, bytes]]
) -> Sequence[Finding]:
    """Give which commands of timers that wait cannot be read: (whose timer, command, its JSON).

    `decode` raises HandlerFailed for one that is declared otherwise today.
    """
    first: dict[tuple[str, str], str] = {}
    counts: dict[tuple[str, str], int] = {}
    for whose, name, payload in waiting:
        try:
            decode(name, payload)
        except HandlerFailed as error:
            key = name, str(error).removesuffix(" Nothing was run.")
            first.setdefault(key, whose)
            counts[key] = counts.get(key, 0) + 1
    return [
        Finding(
            "timer",
            name,
            0,
            f"{why} {counts[name, why]} of them wait, the first is the timer {whose}; each would "
            f"fail when it is due.",
        )
        for (name, why), whose in first.items()
    ]


def unknown_kinds(declared: Iterable[str], stored: Iterable[str]) -> str:
    """Tell of streams that no declared kind of aggregate is the owner of; nothing where all are."""
    known = sorted(declared)
    strange = [kind for kind in stored if kind not in known]
    if not strange:
        return ""
    return (
        f"the log has streams of the kind {', '.join(map(repr, strange))}, and no aggregate here "
        f"is of that kind (there are {', '.join(map(repr, known))}): their state is not seen. A "
        f'stored kind stays: where a class was renamed, write kind="{strange[0]}" again.'
    )


def check_samples(registry: EventRegistry, samples: Iterable[Sample]) -> Sequence[Finding]:
    """Give what does not fit between the declared types and the samples."""
    found: list[Finding] = []
    known: set[tuple[str, int]] = set()
    for sample in samples:
        known.add((sample.name, sample.version))
        kind = EventType(sample.name, sample.version, sample.schema)
        finding = _check_type(registry, kind) or _check_readable(registry, sample)
        if finding is not None:
            found.append(finding)
    # What is only upcast from is written no more, so that no sample of it can be made any more.
    old = {registry.type_of(cls) for cls in registry.upcasting.steps}
    lacking = [t for t in registry.types if (t.name, t.version) not in known and t not in old]
    return [*found, *map(_no_sample, lacking)]


def _no_sample(kind: EventType) -> Finding:
    return Finding(
        "no-sample",
        kind.name,
        kind.version,
        f"there is no sample of {kind.name!r} version {kind.version}: let a test write one into a "
        f"log, and run `{COMMAND} schema record`",
    )


def _check_readable(registry: EventRegistry, sample: Sample) -> Finding | None:
    payload = bytes(sample.payload)
    stored = StoredEvent(
        0, "sample:1", 1, sample.name, sample.version, 0, payload, b"", ENCODING_JSON, 0
    )
    try:
        registry.decode(stored)
    except Damaged as damaged:
        return Finding(
            "unreadable",
            sample.name,
            sample.version,
            f"the sample of {sample.name!r} version {sample.version} cannot be read any more: "
            f"{damaged.what}",
        )
    return None


def refuse_misfits(registry: EventRegistry, stored: Iterable[EventType], so: str) -> None:
    """Raise StoreRefused with all findings, and what that means, where a log has any."""
    findings = check_types(registry, stored)
    if findings:
        raise StoreRefused(
            f"the events of this log do not fit those of this program; {so}:\n"
            f"{findings_text(findings)}"
        )


def findings_text(findings: Sequence[Finding]) -> str:
    """Give the findings as one text, a line each."""
    return "\n".join(f"- {finding.message}" for finding in findings)
