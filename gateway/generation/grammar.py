"""What an answer must look like, piece by piece; the leaves are a client's own grammars. Values, to be compared and
hashed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from gateway.generation.request import Grammar


@dataclass(frozen=True, slots=True)
class Exactly:
    """This text; if the model has a special token of that name, then that token."""

    text: str


@dataclass(frozen=True, slots=True)
class Space:
    """White space or none, bounded so that no model loses itself in it."""


@dataclass(frozen=True, slots=True)
class InOrder:
    """One part behind the other; nothing at all without any."""

    parts: tuple["Shape", ...]


@dataclass(frozen=True, slots=True)
class OneOf:
    choices: tuple["Shape", ...]


@dataclass(frozen=True, slots=True)
class Repeated:
    """As often as the model likes, `least` times at least (0 or 1)."""

    part: "Shape"
    least: int = 0


@dataclass(frozen=True, slots=True)
class SomeOf:
    """Any of the parts, each once at most, in order and with the separator between any two."""

    parts: tuple["Shape", ...]
    separator: str


@dataclass(frozen=True, slots=True)
class FreeText:
    """Any text, up to and with the first mark `until`, or for as long as the model likes.

    It holds none of the marks `without`, and does not begin with one of `not_beginning` (behind white space). A mark
    that is a special token of the model is that token; of the others only those in `special` are text, and these not
    before an `until` that is none. Marks to be left out may also begin with one of these.

    After `most_tokens` tokens the mark `until` is forced. That can be asked for the first free text of an answer only,
    with nothing before it but marks that the model may leave out.
    """

    until: str | None = None
    without: tuple[str, ...] = ()
    not_beginning: tuple[str, ...] = ()
    most_tokens: int | None = None
    special: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preferably:
    """The first grammar, or where it cannot be enforced the second."""

    first: Grammar
    otherwise: Grammar


Shape: TypeAlias = Grammar | Exactly | Space | InOrder | OneOf | Repeated | SomeOf | FreeText | Preferably

NOTHING = InOrder(())


def maybe(shape: Shape) -> Shape:
    return OneOf((shape, NOTHING))


def parts_of(shape: Shape) -> Iterator[Shape]:
    """The shape and all that it is made of, in order."""
    yield shape
    match shape:
        case InOrder(parts) | OneOf(parts) | SomeOf(parts):
            for part in parts:
                yield from parts_of(part)
        case Repeated(part):
            yield from parts_of(part)


def replaced(shape: Shape, by: dict[Shape, Shape]) -> Shape:
    """With other parts in the place of some."""
    if shape in by:
        return by[shape]
    match shape:
        case InOrder(parts):
            return InOrder(tuple(replaced(part, by) for part in parts))
        case OneOf(choices):
            return OneOf(tuple(replaced(choice, by) for choice in choices))
        case SomeOf(parts):
            return replace(shape, parts=tuple(replaced(part, by) for part in parts))
        case Repeated(part):
            return replace(shape, part=replaced(part, by))
    return shape
