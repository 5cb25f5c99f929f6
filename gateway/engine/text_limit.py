"""Texts that are sure to have too many tokens. To count these would take 1.7 s and 270 MB of memory a megabyte."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from gateway.errors import ContextLengthExceeded


@dataclass(frozen=True, slots=True)
class TextLimit:
    """What a model's context can hold at all: nothing but its longest tokens."""

    context_tokens: int
    longest_token_bytes: int

    def check(self, texts: Sequence[str], param: str) -> None:
        """Raises `ContextLengthExceeded` if the texts together are longer. `param` is the field that holds them."""
        size = sum(len(text.encode()) for text in texts)
        if size > self.context_tokens * self.longest_token_bytes:
            least_tokens = -(-size // self.longest_token_bytes)
            raise ContextLengthExceeded(least_tokens, self.context_tokens, param, at_least=True)


def longest_token_bytes(tokenizer: Tokenizer) -> int:
    """Of the text that one token stands for, in UTF-8, or more: sentencepiece writes a space in three bytes."""
    pieces = tokenizer.get_vocab(with_added_tokens=False)
    byte_level = "ByteLevel(" in repr(tokenizer.decoder)  # which has a character for each byte
    added = [len(token.content.encode()) for token in tokenizer.get_added_tokens_decoder().values()]
    return max(1, *(len(piece if byte_level else piece.encode()) for piece in pieces), *added)
