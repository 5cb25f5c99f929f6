"""Finding marks in a text that comes in pieces. Pure."""

from collections.abc import Iterable


def first_mark(text: str, marks: Iterable[str]) -> tuple[int, str] | None:
    """Where the earliest of the marks begins, and which it is: the longest of those that begin there."""
    found = [(position, -len(mark), mark) for mark in marks if (position := text.find(mark)) >= 0]
    if not found:
        return None
    position, _, mark = min(found)
    return position, mark


def undecided_length(text: str, marks: Iterable[str]) -> int:
    """How many characters at the end of `text` begin a mark that is not whole yet; the longest such end."""
    marks = tuple(marks)
    longest = max((len(mark) - 1 for mark in marks), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        end = text[-length:]
        if any(mark.startswith(end) and mark != end for mark in marks):
            return length
    return 0
