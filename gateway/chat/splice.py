"""Token ids that were generated, put back into a conversation that is rendered anew. Pure.

A turn whose ids are known is rendered with a mark as its content; the text is cut at the marks, and the ids take their
place. Each answer stands again where it was written: behind the same text and the same opening of the answer, which a
template may write otherwise for turns of the past (`<think>` is in many a generation prompt, and in no past turn).
"""

import re
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

BEFORE_CHARACTERS = 256
LONGEST_HEADING = 256
"""Characters that a template writes between a message and the answer to it, in a prompt or later."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer was written: the end of the text `before` its `opening`, and this generation prompt.

    `before` is never empty.
    """

    before: str
    opening: str


class Marks:
    """Contents for one rendering, by number, which no client can know.

    Both quotes are in it, so that a template which writes contents as JSON, HTML or Python changes them: ids would be
    wrong there. It has no space at its ends, no template's word in it, and cannot be empty.
    """

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(16)

    def mark(self, number: int) -> str:
        return f"\ue000'\"{self._nonce}:{number}\ue001"

    def cut(self, text: str) -> tuple[list[str], list[int]]:
        """The parts between the marks, and the marks' numbers in the order of the text."""
        pieces = re.split(rf"\ue000'\"{self._nonce}:(\d+)\ue001", text)
        return pieces[::2], [int(number) for number in pieces[1::2]]


def misplaced(numbers: list[int], expected: Iterable[int]) -> set[int]:
    """The marks that a template did not write exactly once, or all if their order is another."""
    wanted, written = sorted(expected), Counter(numbers)
    wrong = {number for number in wanted if written[number] != 1}
    return wrong if wrong or numbers == wanted else set(wanted)


def place_of(part: str, opening: str) -> Place | None:
    """The place behind `part`, a text that ends with the `opening`; None if that makes no place to be known again."""
    if len(opening) > LONGEST_HEADING or len(opening) >= len(part):
        return None
    return Place(part[: len(part) - len(opening)][-BEFORE_CHARACTERS:], opening)


def reopened(part: str, place: Place) -> str | None:
    """`part`, which ends with a template's heading of a past answer, with the opening of `place` instead.

    None if it is not this place.
    """
    if part.endswith(place.before + place.opening):
        return part
    found = part.rfind(place.before)
    if found < 0:
        return None
    end = found + len(place.before)
    heading = part[end:]
    if len(heading) > LONGEST_HEADING or (heading.strip() and heading[:1] != place.opening[:1]):
        return None  # what follows is more than a heading
    return part[:end] + place.opening


def common_length(one: str, other: str) -> int:
    """Of the beginning that both share."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one.startswith(other[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return low
