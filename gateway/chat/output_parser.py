"""What a model's text is made of: reasoning, words for the reader, and calls of tools.

Each parser knows one format. It gets the text in pieces, cut anywhere, and gives what is certain by now; the pieces of
one answer are the same however the text was cut.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Said:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegan:
    """A tool is called; its arguments follow until another piece or the end comes."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments' JSON."""

    text: str


Piece = Said | Thought | CallBegan | CallArguments


class OutputParser(Protocol):
    """Never raises, whatever a model writes: what it cannot read is text for the reader."""

    def feed(self, text: str) -> list[Piece]:
        """What is certain of the text so far and was not given yet."""

    def finish(self) -> list[Piece]:
        """The text is over: what is left of it."""

    @property
    def saying(self) -> bool:
        """Whether text for the reader is expected next, rather than reasoning or a call."""

    @property
    def thinking(self) -> bool:
        """Whether more reasoning is expected next."""


class FirstCallOnly:
    """Another's pieces without the calls that follow the first, where no grammar keeps a model from writing them."""

    def __init__(self, of: OutputParser) -> None:
        self._of = of
        self._calls = 0

    @property
    def saying(self) -> bool:
        return self._of.saying

    @property
    def thinking(self) -> bool:
        return self._of.thinking

    def feed(self, text: str) -> list[Piece]:
        return self._kept(self._of.feed(text))

    def finish(self) -> list[Piece]:
        return self._kept(self._of.finish())

    def _kept(self, pieces: list[Piece]) -> list[Piece]:
        kept: list[Piece] = []
        for piece in pieces:
            self._calls += isinstance(piece, CallBegan)
            if self._calls < 2 or not isinstance(piece, CallBegan | CallArguments):
                kept.append(piece)
        return kept


class GoingOn:
    """Another's pieces behind words that the prompt has `begun`, which it reads as the beginning of the answer.

    `opening` is the markup before them. They hold no call.
    """

    def __init__(self, of: OutputParser, opening: str, begun: str) -> None:
        self._of = of
        self._left_out = len(begun.lstrip() if opening else begun)
        self._behind(of.feed(opening + begun))

    @property
    def saying(self) -> bool:
        return self._of.saying

    @property
    def thinking(self) -> bool:
        return self._of.thinking

    def feed(self, text: str) -> list[Piece]:
        return self._behind(self._of.feed(text))

    def finish(self) -> list[Piece]:
        return self._behind(self._of.finish())

    def _behind(self, pieces: list[Piece]) -> list[Piece]:
        kept: list[Piece] = []
        for piece in pieces:
            if not isinstance(piece, Said):
                kept.append(piece)
                continue
            text = piece.text[self._left_out :]
            self._left_out -= len(piece.text) - len(text)
            if text:
                kept.append(Said(text))
        return kept


class PlainParser:
    """Of a model that neither reasons nor calls tools: every text is for the reader."""

    saying = True
    thinking = False

    def feed(self, text: str) -> list[Piece]:
        return [Said(text)] if text else []

    def finish(self) -> list[Piece]:
        return []
