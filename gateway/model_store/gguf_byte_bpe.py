"""A GGUF's byte-level BPE (`tokenizer.ggml.model` is "gpt2"): merges in order, on text cut by a pre-tokenizer.

Only pre-tokenizers whose text splitting is known exactly are rebuilt: a near miss would split some texts
otherwise than in training, and nobody would notice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from gateway.model_store.gguf_metadata import GgufMetadata


@dataclass(frozen=True)
class PreTokenization:
    """How one family of models cuts text before the merges; `tokenizer.ggml.pre` names it."""

    splitter: Callable[[], PreTokenizer]
    normalizer: Callable[[], Normalizer] | None = None
    ignore_merges: bool = False  # a piece that is a token as a whole is taken without merging
    add_bos: bool = False  # what llama.cpp does when the GGUF does not say


def _split_by(pattern: str) -> PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _gpt2() -> PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _llama3() -> PreTokenizer:
    return _split_by(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def _qwen2() -> PreTokenizer:
    return _split_by(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def _tekken() -> PreTokenizer:
    return _split_by(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


# patterns from each model's own tokenizer.json; "default" is left out on purpose: it means that the
# converter did not know the pre-tokenizer either
PRE_TOKENIZATIONS = {
    "gpt-2": PreTokenization(_gpt2),
    "smollm": PreTokenization(_smollm),
    "llama-bpe": PreTokenization(_llama3, ignore_merges=True, add_bos=True),
    "qwen2": PreTokenization(_qwen2, normalizer=NFC),
    "tekken": PreTokenization(_tekken, ignore_merges=True, add_bos=True),  # Mistral Nemo, Small and later
    "dbrx": PreTokenization(_llama3),  # Phi 4
    "refact": PreTokenization(_smollm),  # Granite 3
}


@dataclass(frozen=True)
class ByteLevelBpe:
    """Checked against its vocabulary."""

    how: PreTokenization
    merges: list[tuple[str, str]]

    @property
    def add_bos(self) -> bool:
        """Whether prompts begin with bos when the GGUF does not say."""
        return self.how.add_bos

    def tokenizer(self, tokens: Sequence[str]) -> Tokenizer:
        """Without added tokens and bos."""
        vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
        tokenizer = Tokenizer(BPE(vocabulary, self.merges, ignore_merges=self.how.ignore_merges))
        if self.how.normalizer is not None:
            tokenizer.normalizer = self.how.normalizer()
        tokenizer.pre_tokenizer = self.how.splitter()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer


def read_byte_level_bpe(metadata: GgufMetadata, tokens: Sequence[str]) -> ByteLevelBpe:
    """Raises ModelFilesInvalid for an unknown splitting, or bad merges."""
    pre = metadata.text("tokenizer.ggml.pre")
    if pre not in PRE_TOKENIZATIONS:
        raise metadata.refusal(f"its pre-tokenizer is {pre!r}; known are {', '.join(sorted(PRE_TOKENIZATIONS))}")
    vocabulary = frozenset(tokens)
    merges = []
    for merge in metadata.texts("tokenizer.ggml.merges"):
        left, space, right = merge.partition(" ")
        if not space or not {left, right, left + right} <= vocabulary:
            raise metadata.refusal(f"the merge {merge!r} is not of two tokens that make a third")
        merges.append((left, right))
    return ByteLevelBpe(PRE_TOKENIZATIONS[pre], merges)
