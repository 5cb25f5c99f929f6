"""Texts to an encoder's tokens. Stateless, so any thread may use it; does not import mlx."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from gateway.engine.encoders.encoder_config import EncoderConfig
from gateway.engine.text_limit import longest_token_bytes
from gateway.errors import ModelFilesInvalid

LAVISH = 4
"""How many times as long as a context full of the longest tokens a text may be: white space may have no tokens, and a
very long word be a single one."""


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """A text, or a pair of texts, in tokens, special ones included.

    `types` tell the texts of a pair apart and are as many as `ids`. `whole_tokens` is how many there would be had
    nothing been cut off, or at least that if only the text's beginning was put into tokens.
    """

    ids: Sequence[int]
    types: Sequence[int]
    whole_tokens: int
    is_beginning: bool = False

    @property
    def was_cut(self) -> bool:
        return self.is_beginning or self.whole_tokens > len(self.ids)


class EncoderTokenizer:
    """Tokenises on the calling thread, for as long as that takes. Of a text much longer than a context holds, only the
    beginning is looked at."""

    def __init__(self, folder: Path, config: EncoderConfig) -> None:
        """Raises `ModelFilesInvalid` without a tokenizer.json that can be read."""
        path = folder / "tokenizer.json"
        if not path.exists():
            raise ModelFilesInvalid(folder, "there is no tokenizer.json; save the model's fast tokenizer beside it")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise ModelFilesInvalid(path, f"is no tokenizer: {error}") from error
        self._tokenizer.no_padding()  # files bring settings from training
        self._tokenizer.no_truncation()
        self._lowercase = config.lowercase
        self._most_characters = LAVISH * config.context_tokens * longest_token_bytes(self._tokenizer)

    def text(self, text: str, most_tokens: int | None = None) -> EncoderInput:
        """Of which only the beginning is kept if it is longer than `most_tokens`, special ones included."""
        bare = self._bare(text)
        whole = len(bare.ids) + self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if most_tokens is not None and whole > most_tokens:
            bare.truncate(max(0, len(bare.ids) - (whole - most_tokens)))
        return _input(self._tokenizer.post_process(bare), whole, self.is_overlong(text))

    def ids(self, ids: Sequence[int], most_tokens: int | None = None) -> EncoderInput:
        """Tokens that the client made: nothing is added."""
        kept = ids[:most_tokens]
        return EncoderInput(kept, [0] * len(kept), len(ids))

    def pairs(self, query: str, documents: Sequence[str], most_tokens: int) -> list[EncoderInput]:
        """The query with each document, of which the end is cut off as far as both together are too long.

        The query alone must leave room for a document: see `pair_room`.
        """
        return [self._pair(query, document, most_tokens) for document in documents]

    def pair_room(self, query: str, most_tokens: int) -> int:
        """Tokens of a document that go with this query; may be negative."""
        added = self._tokenizer.num_special_tokens_to_add(is_pair=True)
        return most_tokens - added - len(self._bare(query).ids)

    def _pair(self, query: str, document: str, most_tokens: int) -> EncoderInput:
        first, second = self._bare(query), self._bare(document)
        whole = len(first.ids) + len(second.ids) + self._tokenizer.num_special_tokens_to_add(is_pair=True)
        if whole > most_tokens:
            second.truncate(max(0, len(second.ids) - (whole - most_tokens)))
        return _input(self._tokenizer.post_process(first, second), whole, self.is_overlong(document))

    def is_overlong(self, text: str) -> bool:
        """Whether only the text's beginning is looked at."""
        return len(text) > self._most_characters

    def _bare(self, text: str) -> Encoding:
        # In batches of one: `encode` holds the GIL throughout, which would stop every stream.
        beginning = text[: self._most_characters]
        texts = [beginning.lower() if self._lowercase else beginning]
        (encoding,) = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return encoding


def _input(encoding: Encoding, whole_tokens: int, is_beginning: bool) -> EncoderInput:
    return EncoderInput(encoding.ids, encoding.type_ids, whole_tokens, is_beginning)
