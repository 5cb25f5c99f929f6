"""Reading an answer that comes in pieces as if it were all there.

A dialect describes how it reads as a generator: it asks a `Reader` for text and stops at a bare `yield` wherever that
has not come yet. What it decides hangs on the text alone, never on where it was cut.
"""

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

from gateway.chat.marks_in_text import first_mark, undecided_length
from gateway.chat.output_parser import CallArguments, CallBegan, Piece, Said, Thought

T = TypeVar("T")
Reading = Generator[None, None, T]
Give = Callable[[str], None]


SPACE = re.compile(r"\s*")
LONGEST_PART = 1000
"""Characters that are read at once: each step costs as much as the text at hand."""


def parts_of(text: str) -> Iterable[str]:
    """The text, so cut that reading it costs no more than its length; one part if it is empty."""
    return (text[begin : begin + LONGEST_PART] for begin in range(0, len(text) or 1, LONGEST_PART))


def nowhere(text: str) -> None:
    """Takes what nobody is to read."""


class Reader:
    """The text of one answer that was not read yet, and the pieces made of what was.

    White space beside calls is nobody's: it is given only between words and words. Nor are marks, wherever they stand.
    """

    def __init__(self, markup: Sequence[str] = ()) -> None:
        self.saying = True
        self.thinking = False
        self.on_new_line = True  # no word stands between here and the beginning of the line
        self._markup = tuple(markup)
        self._text = ""
        self._over = False
        self._pieces: list[Piece] = []
        self._taken: list[str] | None = None
        self._space: list[str] = []  # the last white space, which may be nobody's
        self._said = False
        self._interrupted = False  # by markup, since the last words

    # The parser's side.

    def add(self, text: str) -> None:
        self._text += text

    def end(self) -> None:
        self._over = True

    def given(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    # Pieces.

    def say(self, text: str) -> None:
        """More text for the reader, in which there is no markup."""
        if not text:
            return
        if "\n" in text:
            self.on_new_line = not text[text.rindex("\n") :].strip()
        elif text.strip():
            self.on_new_line = False
        words = text.rstrip()
        if words:
            before = text[: len(text) - len(text.lstrip())]
            held = "".join(self._space)
            space = held + before if not self._interrupted else before or held
            if self._interrupted and not self._said:
                space = ""
            self._give(Said(space + words.lstrip()))
            self._space, self._said, self._interrupted = [text[len(words) :]], True, False
        else:
            self._space.append(text)

    def say_read(self, text: str) -> None:
        """What was read as a call and is none."""
        for mark in self._markup:
            text = text.replace(mark, " ")
        self.say(text)

    def interrupt(self) -> None:
        """Markup stands here."""
        self._interrupted = True
        self.saying = False

    def think(self, text: str) -> None:
        if text:
            self._give(Thought(text))

    def begin(self, name: str) -> None:
        self.interrupt()
        self._taken = None
        self._pieces.append(CallBegan(name))

    def argue(self, text: str) -> None:
        if text:
            self._give(CallArguments(text))

    def _give(self, piece: Said | Thought | CallArguments) -> None:
        if self._pieces and type(last := self._pieces[-1]) is type(piece) and not isinstance(last, CallBegan):
            self._pieces[-1] = type(piece)(last.text + piece.text)
        else:
            self._pieces.append(piece)

    # Text.

    @property
    def at_end(self) -> bool:
        return self._over and not self._text

    def take(self, count: int) -> str:
        """So many characters, which must be there."""
        taken, self._text = self._text[:count], self._text[count:]
        if self._taken is not None:
            self._taken.append(taken)
        return taken

    def remember(self) -> None:
        """From here on, for `remembered`, until a call begins."""
        self._taken = []

    def remembered(self) -> str:
        """What was taken since."""
        taken, self._taken = "".join(self._taken or ()), None
        return taken

    def peek(self, count: int = 1) -> Reading[str]:
        """The next characters; fewer before the end."""
        while len(self._text) < count and not self._over:
            yield
        return self._text[:count]

    def begins_with(self, marks: Iterable[str]) -> Reading[str]:
        """The longest of the marks with which the text goes on, or nothing. One that the answer's end cut is gone."""
        marks = tuple(mark for mark in marks if mark)
        if self._text and not any(mark[0] == self._text[0] for mark in marks):
            return ""  # as nearly always
        while not self._over and any(mark.startswith(self._text) and mark != self._text for mark in marks):
            yield
        found = max((mark for mark in marks if self._text.startswith(mark)), key=len, default="")
        if not found and self._text and any(mark.startswith(self._text) for mark in marks):
            self.take(len(self._text))
        return found

    def skip(self, marks: Iterable[str]) -> Reading[str]:
        """Takes a mark if one stands here."""
        mark = yield from self.begins_with(marks)
        return self.take(len(mark))

    def skip_space(self) -> Reading[None]:
        yield from self.run(SPACE, nowhere)

    def pass_space(self) -> Reading[None]:
        """The same beside a call: perhaps words follow."""
        space: list[str] = []
        yield from self.run(SPACE, space.append)
        self._space = space or self._space

    def run(self, characters: re.Pattern[str], give: Give) -> Reading[None]:
        """All that follows of a class of characters, as it comes; the pattern matches any number of them."""
        while True:
            found = characters.match(self._text)
            if found and found.end():
                give(self.take(found.end()))
            if self._text or self._over:
                return
            yield

    def until(self, marks: Iterable[str], give: Give, give_rest: Give = nowhere) -> Reading[str]:
        """All that precedes the first of the marks, which is not taken; nothing is returned if none comes.

        `give_rest` gets what may be the beginning of a mark that the answer's end cut.
        """
        marks = tuple(mark for mark in marks if mark)
        while True:
            found = first_mark(self._text, marks)
            certain = len(self._text) - undecided_length(self._text, marks)
            if found and (self._over or found[0] < certain):
                if found[0]:
                    give(self.take(found[0]))
                return found[1]
            if certain:
                give(self.take(certain))
            if self._over:
                give_rest(self.take(len(self._text)))
                return ""
            yield

    def say_until(self, marks: Iterable[str]) -> Reading[str]:
        """The same for text that is said; all other marks are left out of it."""
        marks = tuple(marks)
        while True:
            self.saying = True
            if self._interrupted:
                yield from self.pass_space()
            mark = yield from self.until((*marks, *self._markup), self.say, self._say_rest)
            if not mark or mark in marks:
                return mark
            self.interrupt()
            self.take(len(mark))

    def _say_rest(self, text: str) -> None:
        if not self._interrupted:  # else it is the beginning of markup that goes with what is before it
            self.say(text)

    def leave(self) -> None:
        """The answer is over."""
        space = "".join(self._space)
        if space and not self._interrupted:
            self._give(Said(space))


class ReadingParser:
    """An `OutputParser` that is described by how it reads."""

    def __init__(self, markup: Sequence[str], read: Callable[[Reader], Reading[None]]) -> None:
        """`markup` are marks that are no text for the reader, wherever they stand."""
        self._reader = Reader(markup)
        self._reading = self._all(read)

    @property
    def saying(self) -> bool:
        return self._reader.saying

    @property
    def thinking(self) -> bool:
        return self._reader.thinking

    def feed(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        for part in parts_of(text):
            self._reader.add(part)
            next(self._reading, None)
            pieces += self._reader.given()
        return pieces

    def finish(self) -> list[Piece]:
        self._reader.end()
        next(self._reading, None)
        return self._reader.given()

    def _all(self, read: Callable[[Reader], Reading[None]]) -> Reading[None]:
        yield from read(self._reader)
        self._reader.leave()
