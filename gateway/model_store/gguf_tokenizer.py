"""A GGUF's byte-level BPE tokenizer, rebuilt as the Hugging Face files that transformers and mlx-lm load.

Only pre-tokenizers whose text splitting is known exactly are rebuilt: a near miss would split some texts
otherwise than in training, and nobody would notice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from gateway.model_store.gguf_metadata import GgufMetadata, LlamaShape


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`, from the GGUF specification."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


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


# patterns from each model's own tokenizer.json; "default" is left out on purpose: it means that the
# converter did not know the pre-tokenizer either
PRE_TOKENIZATIONS = {
    "gpt-2": PreTokenization(_gpt2),
    "smollm": PreTokenization(_smollm),
    "llama-bpe": PreTokenization(_llama3, ignore_merges=True, add_bos=True),
    "qwen2": PreTokenization(_qwen2, normalizer=NFC),
}


@dataclass(frozen=True)
class GgufTokenizer:
    """What the metadata says about the tokenizer, checked; token ids are indexes into `tokens`."""

    tokens: list[str]
    token_types: list[int]
    merges: list[tuple[str, str]]
    pre: str
    bos_id: int | None
    eos_id: int
    end_of_turn_id: int | None
    unknown_id: int | None
    padding_id: int | None
    add_bos: bool
    chat_template: str

    def stop_ids(self) -> list[int]:
        """The ids that end an answer."""
        return sorted({self.eos_id, self.eos_id if self.end_of_turn_id is None else self.end_of_turn_id})

    def special_ids(self) -> dict[str, int]:
        """The entries of config.json that name special tokens."""
        named = {"bos_token_id": self.bos_id, "eos_token_id": self.eos_id, "pad_token_id": self.padding_id}
        return {key: token_id for key, token_id in named.items() if token_id is not None}

    def config(self, shape: LlamaShape) -> dict[str, object]:
        """tokenizer_config.json."""
        named = {
            "bos_token": self.bos_id,
            "eos_token": self.eos_id,
            "unk_token": self.unknown_id,
            "pad_token": self.padding_id,
        }
        special = {key: self.tokens[token_id] for key, token_id in named.items() if token_id is not None}
        template = {"chat_template": self.chat_template} if self.chat_template else {}
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": shape.context_tokens,
            "clean_up_tokenization_spaces": False,
            "add_bos_token": self.add_bos,
            "add_eos_token": False,
            **special,
            **template,
        }

    def tokenizer_json(self) -> str:
        """tokenizer.json."""
        how = PRE_TOKENIZATIONS[self.pre]
        vocabulary = {token: token_id for token_id, token in enumerate(self.tokens)}
        tokenizer = Tokenizer(BPE(vocabulary, self.merges, ignore_merges=how.ignore_merges))
        if how.normalizer is not None:
            tokenizer.normalizer = how.normalizer()
        tokenizer.pre_tokenizer = how.splitter()
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = self._post_processor()
        for token, token_type in zip(self.tokens, self.token_types, strict=True):
            if token_type in (TokenType.CONTROL, TokenType.UNKNOWN):
                tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
            elif token_type == TokenType.USER_DEFINED:
                tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
        return tokenizer.to_str()

    def _post_processor(self) -> processors.PostProcessor:
        if not self.add_bos or self.bos_id is None:
            return processors.ByteLevel(trim_offsets=True)
        bos = self.tokens[self.bos_id]
        return processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, self.bos_id)]
        )


def read_tokenizer(metadata: GgufMetadata, shape: LlamaShape) -> GgufTokenizer:
    """Raises ModelFilesInvalid for another kind of tokenizer, an unknown splitting, or bad parts."""
    model = metadata.text("tokenizer.ggml.model")
    if model != "gpt2":
        raise metadata.refusal(f"its tokenizer model is {model!r}; only 'gpt2' (byte-level BPE) can be imported")
    pre = metadata.text("tokenizer.ggml.pre")
    if pre not in PRE_TOKENIZATIONS:
        raise metadata.refusal(f"its pre-tokenizer is {pre!r}; known are {', '.join(sorted(PRE_TOKENIZATIONS))}")
    if metadata.flag("tokenizer.ggml.add_eos_token", default=False):
        raise metadata.refusal("it asks to end every prompt with eos (add_eos_token), which is not supported")
    tokens, token_types = _read_vocabulary(metadata, shape)
    eos_id = _token_id(metadata, "tokenizer.ggml.eos_token_id", tokens)
    if eos_id is None:
        raise metadata.refusal("the GGUF has no tokenizer.ggml.eos_token_id")
    return GgufTokenizer(
        tokens=tokens,
        token_types=token_types,
        merges=_read_merges(metadata, frozenset(tokens)),
        pre=pre,
        bos_id=_token_id(metadata, "tokenizer.ggml.bos_token_id", tokens),
        eos_id=eos_id,
        end_of_turn_id=_token_id(metadata, "tokenizer.ggml.eot_token_id", tokens),
        unknown_id=_token_id(metadata, "tokenizer.ggml.unknown_token_id", tokens),
        padding_id=_token_id(metadata, "tokenizer.ggml.padding_token_id", tokens),
        add_bos=metadata.flag("tokenizer.ggml.add_bos_token", default=PRE_TOKENIZATIONS[pre].add_bos),
        chat_template=metadata.text("tokenizer.chat_template", default=""),
    )


def _read_vocabulary(metadata: GgufMetadata, shape: LlamaShape) -> tuple[list[str], list[int]]:
    tokens = metadata.texts("tokenizer.ggml.tokens")
    token_types = metadata.integers("tokenizer.ggml.token_type")
    if len(tokens) != shape.vocab_size or len(token_types) != len(tokens):
        raise metadata.refusal(
            f"it has {len(tokens)} tokens and {len(token_types)} token types for a vocabulary of {shape.vocab_size}"
        )
    if len(set(tokens)) != len(tokens) or "" in tokens:
        raise metadata.refusal("its token list has an empty token or the same token twice")
    if unknown_types := sorted(set(token_types) - set(TokenType)):
        raise metadata.refusal(f"tokenizer.ggml.token_type holds the unknown types {unknown_types[:4]}")
    return tokens, token_types


def _read_merges(metadata: GgufMetadata, vocabulary: frozenset[str]) -> list[tuple[str, str]]:
    merges = []
    for merge in metadata.texts("tokenizer.ggml.merges"):
        left, space, right = merge.partition(" ")
        if not space or not {left, right, left + right} <= vocabulary:
            raise metadata.refusal(f"the merge {merge!r} is not of two tokens that make a third")
        merges.append((left, right))
    return merges


def _token_id(metadata: GgufMetadata, key: str, tokens: list[str]) -> int | None:
    return metadata.integer(key, 0, len(tokens) - 1) if key in metadata.values else None
