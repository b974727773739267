"""Judges a trial: whether what was told, what lies in the files and what is shown fit together.

Rules: it knows nothing but a story; it opens no file and asks no engine. Each finding names the
promise of docs/reference/promises.md that is broken.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from engine.model.projection import slice_of

from .cells import POISON, trail
from .dying import LOG
from .story import Image, Logged, Story, Told, View

State = tuple[int, int]
"""Total and trail of a cell at a version."""


def judge(story: Story) -> list[str]:
    """Give what cannot be true; nothing for a story that holds together."""
    problems = list(story.problems)
    before: list[Logged] = []
    for image in story.images:
        where = f"after life {image.life} ({story.ends[image.life]})"
        told = [told for told in story.told if told.life <= image.life]
        found = [
            *_files(image),
            *_order(image.log),
            *_whole(image.log),
            *_answers(told, image),
            *_refusals([t for t in told if t.life == image.life], before, image, story.cut),
            *_views(image),
            *_behind(image),
        ]
        if image.log[: len(before)] != before:
            found.append("P3: what the log had before is not there as it was")
        problems += [f"{where}: {problem}" for problem in found]
        before = image.log
    if not story.problems:
        problems += _last(story)
    return problems


def _files(image: Image) -> Iterator[str]:
    yield from (f"P1: integrity: {complaint}" for complaint in image.complaints)
    if image.log and set(image.journal_modes) != {"wal"}:
        yield f"P1: the journal modes are {image.journal_modes}"


def _order(log: Sequence[Logged]) -> Iterator[str]:
    versions: Counter[str] = Counter()
    for number, event in enumerate(log, 1):
        versions[event.stream] += 1
        if event.position != number:
            yield f"P4: position {event.position} stands in place {number}"
        if event.version != versions[event.stream]:
            yield f"P3: {event.stream} has version {event.version} in place {number}"


def _whole(log: Sequence[Logged]) -> Iterator[str]:
    by_operation: defaultdict[int, list[Logged]] = defaultdict(list)
    keys: Counter[str] = Counter()
    for event in log:
        by_operation[event.operation].append(event)
        if event.key is not None:
            keys[event.key] += 1
    for operation, events in by_operation.items():
        first = events[0]
        parts = [event.part for event in events]
        if parts != list(range(first.parts)):
            yield f"P2: operation {operation} has parts {parts} of {first.parts}"
        places = [event.position - first.position for event in events]
        if places != list(range(len(events))) or len({event.stream for event in events}) > 1:
            yield f"P2: the events of operation {operation} do not stand together: {places}"
        named = [event.key for event in events]
        if named != [f"k{operation}"] + [None] * (len(events) - 1):
            yield f"P8: the events of operation {operation} have the keys {named}"
    yield from (f"P8: key {key} is there {count} times" for key, count in keys.items() if count > 1)


def _answers(told: Sequence[Told], image: Image) -> Iterator[str]:
    last = {event.operation: event for event in image.log}
    states = _states(image.log)
    acknowledged: set[int] = set()
    for answer in told:
        number = answer.operation
        if answer.what == "receipt":
            acknowledged.add(number)
            event = last.get(number)
            if event is None:
                yield (
                    f"P1: operation {number} was acknowledged in life {answer.life} at position "
                    f"{answer.position}, and is not in the log of {len(image.log)} events"
                )
            elif (event.version, event.position) != (answer.version, answer.position):
                yield f"P8: operation {number} has {answer}, and stands at {event}"
        elif answer.what == "rejected":
            if number in acknowledged:
                yield f"P8: operation {number} was acknowledged, and later rejected"
            known = states.get(answer.cell, [(0, 0)])
            shown = (answer.total, answer.trail)
            if answer.version >= len(known) or known[answer.version] != shown:
                yield f"P7: {answer} tells a state that the log does not have at that version"


def _refusals(
    told: Sequence[Told], before: Sequence[Logged], image: Image, cut: bool
) -> Iterator[str]:
    """What was refused in this life was not run in it."""
    run = {event.operation for event in image.log[len(before) :]}
    for answer in told:
        if answer.what in ("rejected", "not run") and answer.operation in run:
            yield f"P6: operation {answer.operation} was {answer.what}, and is in the log"
        if answer.what == "error" or (answer.what in ("not run", "unknown") and not cut):
            yield f"P6: operation {answer.operation} was answered {answer.error} for no reason"


def _states(log: Sequence[Logged]) -> dict[str, list[State]]:
    """Fold the log: the state of each cell at each of its versions, from 0 on."""
    states: dict[str, list[State]] = {}
    for event in log:
        known = states.setdefault(event.stream.partition(":")[2], [(0, 0)])
        total, before = known[-1]
        known.append((total + event.amount, trail(before, event.operation, event.part)))
    return states


def _folded(log: Sequence[Logged]) -> View:
    states = _states(log)
    cells = {cell: (known[-1][0], len(known) - 1, known[-1][1]) for cell, known in states.items()}
    return View(cells, dict(Counter(event.operation for event in log)))


def _views(image: Image) -> Iterator[str]:
    for projection, position in image.checkpoints.items():
        if position > len(image.log):
            yield f"P9: {projection} is at {position}, and the log ends at {len(image.log)}"
    cells = _folded(image.log[: image.checkpoints.get("cells", 0)]).cells
    if cells != image.view.cells:
        yield f"P9: the view of the cells is {image.view.cells}, and a fold gives {cells}"
    counts = _counted(image)
    if counts != image.view.operations:
        wrong = set(counts.items()) ^ set(image.view.operations.items())
        yield f"P9: the view of the operations differs from a fold in {sorted(wrong)}"


def _counted(image: Image) -> dict[int, int]:
    """Count the events of each operation that its slice has passed, but for those parked."""
    counts: Counter[int] = Counter()
    for event in image.log:
        reached = image.checkpoints.get(f"operations {slice_of(event.stream, 2)}", 0)
        if event.position <= reached and event.position not in image.parked:
            counts[event.operation] += 1
    return dict(counts)


def _behind(image: Image) -> Iterator[str]:
    """Nothing is parked but behind an event that fails, and all of its stream behind that.

    That event itself may be folded: a process that dies in a retry has folded the first of them.
    """
    failed: set[str] = set()
    waiting: set[str] = set()
    for event in image.log:
        if event.amount == POISON:
            failed.add(event.stream)
        reached = image.checkpoints.get(f"operations {slice_of(event.stream, 2)}", 0)
        parked = event.position in image.parked
        if event.position <= reached and event.stream in waiting and not parked:
            yield f"P9: {event} is folded, and one before it is parked"
        if parked and event.stream not in failed:
            yield f"P9: {event} is parked, and nothing before it fails"
        if parked:
            waiting.add(event.stream)


def _last(story: Story) -> Iterator[str]:
    """The last life was quiet: everything was answered, and it saw what lies in the files."""
    life = len(story.ends) - 1
    answered = ("receipt", "rejected")
    answers = Counter(t.operation for t in story.told if t.life == life and t.what in answered)
    silent = [o.number for o in story.operations if answers[o.number] != 1]
    if silent:
        yield f"P6: these operations had no answer, or several, in the last life: {silent}"
    seen, image = story.seen, story.images[-1]
    if seen is None:
        yield "the last life did not come to its end"
        return
    if seen.log != image.log:
        yield f"P3: the engine shows another log than what lies in {LOG}"
    if seen.view != _folded(image.log):
        yield f"P9: the engine shows {seen.view}, and a fold gives {_folded(image.log)}"
    if image.log and not image.snapshots:
        yield "no snapshot was written: the trial says nothing about them"
