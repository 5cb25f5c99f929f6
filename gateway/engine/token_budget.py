"""Ending a text after so many tokens. Does not import mlx.

llguidance has a limit of its own (`max_tokens`), but it ends a lexeme wherever that is, without the mark that should
close it, and keeps grammars apart that must be merged.
"""

from collections.abc import Sequence

from llguidance import LLTokenizer

from gateway.generation.grammar import Exactly, FreeText, InOrder, OneOf, Shape


class TokenBudget:
    """Counts the tokens of the text between two marks, and tells how to end it. One row's; owned by the MLX thread.

    `opening` may be empty where the text begins at once; an answer that begins with another text is never limited. A
    mark is its UTF-8 bytes; `closing_token` is the special token that is the mark, if one is.
    """

    def __init__(
        self, tokenizer: LLTokenizer, opening: bytes, closing: bytes, closing_token: int | None, most_tokens: int
    ) -> None:
        self.over = False
        self._tokenizer = tokenizer
        self._opening = opening
        self._closing = closing
        self._closing_token = closing_token
        self._left = most_tokens
        self._inside = not opening
        self._tail = b""  # what may be part of a mark

    def copy(self) -> "TokenBudget":
        other = TokenBudget(self._tokenizer, self._opening, self._closing, self._closing_token, self._left)
        other.over, other._inside, other._tail = self.over, self._inside, self._tail
        return other

    def advance(self, token: int) -> None:
        """The next token of the answer."""
        self._tail += self._tokenizer.decode_bytes([token])
        if not self._inside:
            self._look_for_opening()
            return
        self._left -= 1
        self.over = token == self._closing_token or self._closing in self._tail
        self._tail = self._tail[1 - len(self._closing) :] if len(self._closing) > 1 else b""

    def ending(self) -> Sequence[int]:
        """The tokens that must come now to close the text: none while there are some left."""
        if self.over or not self._inside or self._left > 0:
            return ()
        if self._closing_token is not None:
            return (self._closing_token,)
        begun = next(
            (length for length in range(len(self._tail), 0, -1) if self._closing.startswith(self._tail[-length:])), 0
        )
        tokens: list[int] = self._tokenizer.tokenize_bytes(self._closing[begun:])
        return tokens

    def _look_for_opening(self) -> None:
        begun = self._tail.lstrip()
        if begun.startswith(self._opening):
            self._inside, self._tail = True, begun[len(self._opening) :]
        elif not self._opening.startswith(begun):
            self.over = True


def limited_text(shape: Shape) -> tuple[Sequence[str], FreeText] | None:
    """The text that an answer begins with and that has a limit, and the marks before it."""
    match shape:
        case FreeText(most_tokens=int()):
            return (), shape
        case InOrder((Exactly(text), *rest)):
            found = limited_text(InOrder(tuple(rest)))
            return ((text, *found[0]), found[1]) if found else None
        case InOrder((first, *_)):
            return limited_text(first)
        case OneOf(choices):
            return next((found for choice in choices if (found := limited_text(choice))), None)
    return None
