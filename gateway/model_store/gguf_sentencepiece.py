"""A GGUF's sentencepiece BPE (`tokenizer.ggml.model` is "llama"): no merges, but a score for every token.

Sentencepiece joins, again and again, the two neighbours whose joined text has the best score, the leftmost where
that is the same text. Written as merges: every way to cut every token in two, ranked by the token's score. That is
exact but for one case: where the same token can be joined twice with one neighbour in common ("ab" + "aba" and
"aba" + "ba"), the cut decides and not the place. Hugging Face's conversions have that too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from gateway.model_store.gguf_metadata import GgufMetadata
from gateway.model_store.gguf_token_type import TokenType

SPACE = "\u2581"
LONGEST_TOKEN = 256  # characters; the ways to cut it are as many
BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))


@dataclass(frozen=True)
class SentencePieceBpe:
    """Checked; `scores` are those of the tokens that joining can make, and of single characters.

    `add_space_prefix`: a space is put before each text, and before what follows a special token.
    """

    scores: Mapping[str, float]
    add_space_prefix: bool
    add_bos: bool = True  # what llama.cpp does when the GGUF does not say

    def tokenizer(self, tokens: Sequence[str]) -> Tokenizer:
        """Without added tokens and bos. A character that is no token becomes its bytes."""
        vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
        tokenizer = Tokenizer(BPE(vocabulary, self._merges(), byte_fallback=True))
        spaces = normalizers.Replace(" ", SPACE)
        readable = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        if self.add_space_prefix:
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces])
            readable.append(decoders.Strip(" ", 1, 0))
        else:
            tokenizer.normalizer = spaces
        tokenizer.decoder = decoders.Sequence(readable)
        return tokenizer

    def _merges(self) -> list[tuple[str, str]]:
        return [
            (token[:cut], token[cut:])
            for token in sorted(self.scores, key=lambda token: -self.scores[token])
            for cut in range(len(token) - 1, 0, -1)
            if token[:cut] in self.scores and token[cut:] in self.scores
        ]


def read_sentencepiece(metadata: GgufMetadata, tokens: Sequence[str], types: Sequence[int]) -> SentencePieceBpe:
    """Raises ModelFilesInvalid for variants, and for scores that merges cannot express."""
    if metadata.flag("tokenizer.ggml.remove_extra_whitespaces", default=False):
        raise metadata.refusal("its tokenizer removes spaces (remove_extra_whitespaces), which is not supported")
    if "tokenizer.ggml.precompiled_charsmap" in metadata.values:
        raise metadata.refusal("its tokenizer rewrites characters (precompiled_charsmap), which is not supported")
    scores = metadata.numbers("tokenizer.ggml.scores")
    if len(scores) != len(tokens):
        raise metadata.refusal(f"it has {len(scores)} scores for {len(tokens)} tokens")
    bytes_found = {token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.BYTE}
    if bytes_found != BYTE_TOKENS:
        raise metadata.refusal("its tokens for single bytes are not <0x00> to <0xFF>")

    joinable = {token: s for token, s, kind in zip(tokens, scores, types, strict=True) if kind == TokenType.NORMAL}
    for token in joinable:
        if len(token) > LONGEST_TOKEN or not all(character in joinable for character in token):
            raise metadata.refusal(f"the token {token[:40]!r} cannot be made by joining tokens")
    ranked = sorted(score for token, score in joinable.items() if len(token) > 1)
    if not all(map(isfinite, ranked)) or any(one == next_one for one, next_one in pairwise(ranked)):
        raise metadata.refusal("the scores of its tokens leave open which is joined first")
    return SentencePieceBpe(joinable, metadata.flag("tokenizer.ggml.add_space_prefix", default=True))
