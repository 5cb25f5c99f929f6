"""What llguidance needs to know of a model's tokenizer. Does not import mlx."""

from copy import copy
from typing import Any

from llguidance import LLTokenizer, TokenizerWrapper


def grammar_tokenizer(tokenizer: Any, vocabulary: int, end_tokens: list[int]) -> LLTokenizer:
    """Takes about 0.4 s for 50,000 tokens. Token ids of the result are below `vocabulary`, and all `end_tokens` end.

    `tokenizer` is an mlx-lm TokenizerWrapper. Raises ValueError if its decoder is none that llguidance knows.
    """
    backend = copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    return LLTokenizer(TokenizerWrapper(_TextTokens(backend, vocabulary, end_tokens)), eos_token=end_tokens)


def special_tokens(tokenizer: Any, of_llguidance: LLTokenizer) -> dict[str, int]:
    """The tokens that no text becomes, by name."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    return {
        token.content: number
        for number, token in added.items()
        if number < of_llguidance.vocab_size and of_llguidance.is_special_token(number)
    }


class _TextTokens:
    """The tokenizer as `llguidance.TokenizerWrapper` wants it, except that text never becomes a special token.

    llguidance's own reading of tokenizer.json takes a forced text such as "<|im_end|>" in a schema's `const` for
    the token of that name, which would end the answer in the middle of a string.
    """

    def __init__(self, backend: Any, vocabulary: int, end_tokens: list[int]) -> None:
        size = max(vocabulary, backend.get_vocab_size(with_added_tokens=True))
        self._native = LLTokenizer(backend.to_str(), n_vocab=size, eos_token=end_tokens, slices=[])
        self._backend = backend
        special = {token for token in range(size) if self._native.is_special_token(token)} | set(end_tokens)
        self._never_text = special | set(range(vocabulary, size))
        self.special_token_ids = sorted(token for token in special if token < vocabulary)
        self.tokens = [self._native.decode_bytes([token]) for token in range(vocabulary)]
        self.eos_token_id = end_tokens[0]
        self.bos_token_id = None

    def __call__(self, text: str) -> list[int]:
        tokens: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return tokens if self._never_text.isdisjoint(tokens) else self._native.greedy_tokenize(text)
