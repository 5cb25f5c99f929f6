"""A GGUF's tokenizer, rebuilt as the Hugging Face files that transformers and mlx-lm load."""

from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, processors

from gateway.model_store.gguf_architecture import Architecture
from gateway.model_store.gguf_byte_bpe import ByteLevelBpe, read_byte_level_bpe
from gateway.model_store.gguf_metadata import GgufMetadata
from gateway.model_store.gguf_sentencepiece import SentencePieceBpe, read_sentencepiece
from gateway.model_store.gguf_shape import Shape
from gateway.model_store.gguf_token_type import TokenType


@dataclass(frozen=True)
class GgufTokenizer:
    """What the metadata says about the tokenizer, checked; token ids are indexes into `tokens`."""

    tokens: list[str]
    token_types: list[int]
    model: ByteLevelBpe | SentencePieceBpe
    bos_id: int | None
    eos_id: int
    stop_ids: list[int]
    """The ids that end an answer."""
    unknown_id: int | None
    padding_id: int | None
    add_bos: bool
    chat_template: str
    context_tokens: int

    def special_ids(self) -> dict[str, int]:
        """The entries of config.json that name special tokens."""
        named = {"bos_token_id": self.bos_id, "eos_token_id": self.eos_id, "pad_token_id": self.padding_id}
        return {key: token_id for key, token_id in named.items() if token_id is not None}

    def config(self) -> dict[str, object]:
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
            "model_max_length": self.context_tokens,
            "clean_up_tokenization_spaces": False,
            "add_bos_token": self.add_bos,
            "add_eos_token": False,
            **special,
            **template,
        }

    def tokenizer_json(self) -> str:
        """tokenizer.json."""
        tokenizer: Tokenizer = self.model.tokenizer(self.tokens)
        if self.add_bos and self.bos_id is not None:
            bos = self.tokens[self.bos_id]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, self.bos_id)]
            )
        # all of a kind at once: each call builds the search for added tokens anew
        tokenizer.add_special_tokens(
            [AddedToken(t, special=True, normalized=False) for t in self._of(TokenType.CONTROL, TokenType.UNKNOWN)]
        )
        tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in self._of(TokenType.USER_DEFINED)])
        return tokenizer.to_str()

    def _of(self, *types: TokenType) -> list[str]:
        return [token for token, kind in zip(self.tokens, self.token_types, strict=True) if kind in types]


def read_tokenizer(metadata: GgufMetadata, architecture: Architecture, shape: Shape) -> GgufTokenizer:
    """Raises ModelFilesInvalid for another kind of tokenizer, an unknown splitting, or bad parts."""
    if metadata.flag("tokenizer.ggml.add_eos_token", default=False):
        raise metadata.refusal("it asks to end every prompt with eos (add_eos_token), which is not supported")
    tokens, token_types = _read_vocabulary(metadata, shape.vocab_size)
    model = _read_model(metadata, tokens, token_types)
    eos_id = _token_id(metadata, "tokenizer.ggml.eos_token_id", tokens)
    if eos_id is None:
        raise metadata.refusal("the GGUF has no tokenizer.ggml.eos_token_id")
    end_of_turn_id = _token_id(metadata, "tokenizer.ggml.eot_token_id", tokens)
    end_ids = {
        token_id
        for token_id, (token, kind) in enumerate(zip(tokens, token_types, strict=True))
        if token_id in (eos_id, end_of_turn_id) or (kind == TokenType.CONTROL and token in architecture.end_tokens)
    }
    return GgufTokenizer(
        tokens=tokens,
        token_types=token_types,
        model=model,
        bos_id=_token_id(metadata, "tokenizer.ggml.bos_token_id", tokens),
        eos_id=eos_id,
        stop_ids=sorted(end_ids),
        unknown_id=_token_id(metadata, "tokenizer.ggml.unknown_token_id", tokens),
        padding_id=_token_id(metadata, "tokenizer.ggml.padding_token_id", tokens),
        add_bos=metadata.flag("tokenizer.ggml.add_bos_token", default=model.add_bos),
        chat_template=metadata.text("tokenizer.chat_template", default=architecture.chat_template),
        context_tokens=shape.context_tokens,
    )


def _read_model(metadata: GgufMetadata, tokens: list[str], token_types: list[int]) -> ByteLevelBpe | SentencePieceBpe:
    match metadata.text("tokenizer.ggml.model"):
        case "gpt2":
            return read_byte_level_bpe(metadata, tokens)
        case "llama":
            return read_sentencepiece(metadata, tokens, token_types)
        case other:
            raise metadata.refusal(
                f"its tokenizer model is {other!r}; only 'gpt2' (byte-level BPE) and 'llama' (sentencepiece) are known"
            )


def _read_vocabulary(metadata: GgufMetadata, vocab_size: int) -> tuple[list[str], list[int]]:
    tokens = metadata.texts("tokenizer.ggml.tokens")
    token_types = metadata.integers("tokenizer.ggml.token_type")
    if len(tokens) != vocab_size or len(token_types) != len(tokens):
        raise metadata.refusal(
            f"it has {len(tokens)} tokens and {len(token_types)} token types for a vocabulary of {vocab_size}"
        )
    if len(set(tokens)) != len(tokens) or "" in tokens:
        raise metadata.refusal("its token list has an empty token or the same token twice")
    if unknown_types := sorted(set(token_types) - set(TokenType)):
        raise metadata.refusal(f"tokenizer.ggml.token_type holds the unknown types {unknown_types[:4]}")
    return tokens, token_types


def _token_id(metadata: GgufMetadata, key: str, tokens: list[str]) -> int | None:
    return metadata.integer(key, 0, len(tokens) - 1) if key in metadata.values else None
