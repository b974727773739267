"""A boundary: what is folded from all events with some tags, wherever they are stored.

Rules: it is the state that a rule needs which belongs to no aggregate. It has appliers, and each
event that it applies has all of its tags. It handles no command: functions that are marked with
`@decides` take it, as they take aggregates. What they give it is stored in a stream of its name,
which says nothing of what it folds. What does not fit is refused when the class is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import product
from typing import Any, ClassVar, Final, cast

from ..errors import DefinitionError
from .aggregate import Aggregate, AggregateDefinition, AggregateMeta
from .messages import Command, Event, kebab
from .tags import TagReader, check_tag_names, is_fixed, named, reader_of

__all__ = ["Boundary", "finder_of", "id_by", "selects", "tags_by"]

_ESCAPES = ("%", "%25"), ("/", "%2F")
_CLASSES_MAX: Final = 1_024
FIXED_ID = "all"
"""Of a boundary whose tags no command names."""


class BoundaryMeta(AggregateMeta):
    """Makes the classes of boundaries."""

    def __new__(
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        tags: Sequence[str] = (),
        **options: Any,
    ) -> Any:
        """Make the class; raise DefinitionError for whatever the engine could not run."""
        if bases == (Aggregate,):
            return super().__new__(mcls, class_name, bases, namespace, **options)
        names = check_tag_names(f"boundary {class_name}", tags)
        if not names:
            raise DefinitionError(
                f"boundary {class_name} has no tags: write what its events are about, as `class "
                f'Course(Boundary, tags=("course",))`'
            )
        if options.get("snapshot_every") is not None:
            raise DefinitionError(
                f"boundary {class_name} has snapshot_every=: only aggregates have snapshots"
            )
        options.setdefault("kind", kebab(class_name))
        namespace["__boundary_tags__"] = names
        cls = super().__new__(mcls, class_name, bases, namespace, **options)
        _check(cast("type[Aggregate]", cls).__definition__)
        return cls


class Boundary(Aggregate, metaclass=BoundaryMeta):
    """Base of boundaries: `class Course(Boundary, tags=("course",))`, its fields are the state.

    It folds the events that have all of its `tags`, in whichever streams they are, by its appliers.
    A function marked with `@decides` takes it by a parameter: `course: Course` is the one whose tag
    has the value of the command's field `course: Id`. If it has several tags, the command has an
    `Id` field by the name of each. A whole tag, as "invoices:all", needs no field.

    What the function decides is stored only if no event that the boundary folds came meanwhile;
    otherwise it is decided again. `version` is the number of events that it has folded. `kind`,
    which is stored as part of a stream's name, is made of the class name unless given.
    """

    __boundary_tags__: ClassVar[tuple[str, ...]] = ()


def _check(definition: AggregateDefinition) -> None:
    name = definition.cls.__qualname__
    if definition.handlers:
        command = next(iter(definition.handlers))
        raise DefinitionError(
            f"boundary {name} handles {command.__name__}: write a function that takes the boundary "
            f"instead, marked with @decides"
        )
    if not definition.appliers:
        raise DefinitionError(f"boundary {name} applies no event: mark a method with @applies")
    for event in definition.appliers:
        tags = event.__tagged__()
        lacking = [tag for tag in definition.tags if tags is None or tag not in tags.names]
        if lacking:
            raise DefinitionError(
                f"boundary {name} applies {event.__name__}, which has no tag {lacking[0]!r}: write "
                f'`class {event.__name__}(Event, name=..., tags=("{lacking[0]}",))`'
            )


def id_by(tags: Sequence[str], field: str, command: Command) -> object:
    """Give the id of the boundary with these tags that a command names, in `field` or in several.

    Several values are one text, of which `tags_by` makes them again.
    """
    names = [name for name in tags if not is_fixed(name)]
    if not names:
        return FIXED_ID
    if len(names) == 1:
        return getattr(command, field)
    values = [getattr(command, name) for name in names]
    if not all(isinstance(value, str) and value for value in values):
        return ""  # which is no id
    return "/".join(map(_escaped, values))


def _escaped(value: str) -> str:
    for plain, escape in _ESCAPES:
        value = value.replace(plain, escape)
    return value


def tags_by(tags: Sequence[str], boundary_id: str) -> tuple[str, ...]:
    """Give the tags by which a boundary with an id finds its events."""
    names = [name for name in tags if not is_fixed(name)]
    values = [boundary_id]
    if len(names) > 1:
        values = boundary_id.split("/")
        for plain, escape in reversed(_ESCAPES):
            values = [value.replace(escape, plain) for value in values]
    by_name = dict(zip(names, values, strict=False))
    return tuple(named(name, by_name.get(name, "")) for name in tags)


def selects(definition: AggregateDefinition, boundary_id: str, event: Event) -> bool:
    """Tell whether the boundary with an id folds an event."""
    cls, tags = type(event), definition.tags
    if cls not in definition.appliers:
        return False
    if len(tags) == 1 and getattr(event, tags[0], None) == boundary_id:
        return True  # most often so: each class that is applied has a field of that name
    read = _reader(cls)
    return read is not None and boundary_id in finder_of(definition.tags)(read(event))


@lru_cache(maxsize=_CLASSES_MAX)
def _reader(cls: type[Event]) -> TagReader | None:
    """Give what reads the tags of events of a class; kept, since each event asks for it."""
    tags = cls.__tagged__()
    return None if tags is None else reader_of(cls, tags)


@lru_cache(maxsize=_CLASSES_MAX)
def finder_of(tags: tuple[str, ...]) -> Callable[[Sequence[str]], Sequence[str]]:
    """Give what finds the ids of the boundaries with `tags` that an event belongs to, by its tags.

    Mostly one or none. There are more if it has several tags of one name, as "region:eu" of a field
    and "region:all" as a whole tag. Kept, since each event with tags asks for it.
    """
    names = [name for name in tags if not is_fixed(name)]
    if len(names) == len(tags) == 1:
        prefix = f"{names[0]}:"
        start = len(prefix)
        return lambda found: [tag[start:] for tag in found if tag.startswith(prefix)]
    return partial(_find, names, [name for name in tags if is_fixed(name)])


def _find(names: Sequence[str], fixed: Sequence[str], found: Sequence[str]) -> Sequence[str]:
    if any(name not in found for name in fixed):
        return ()
    values: dict[str, list[str]] = {name: [] for name in names}
    for tag in found:
        name, _, value = tag.partition(":")
        if name in values:
            values[name].append(value)
    if not names:
        return (FIXED_ID,)
    if len(names) == 1:
        return values[names[0]]
    return ["/".join(map(_escaped, each)) for each in product(*values.values())]
