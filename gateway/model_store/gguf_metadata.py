"""Reading a GGUF's metadata with its types and ranges checked, and the model's shape out of it.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. No mlx here: values are plain Python.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import ModelFilesInvalid

MetadataValue = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]

# a scaling or an attention variant under any other key would change the answers if it were passed over
UNDERSTOOD_LLAMA_KEYS = frozenset(
    f"llama.{key}"
    for key in (
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.value_length",
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.factor",
        "rope.scaling.type",
        "vocab_size",
    )
)


class GgufMetadata:
    """The key-value part of one GGUF; every getter raises ModelFilesInvalid naming file, key and value."""

    def __init__(self, path: Path, values: Mapping[str, MetadataValue]) -> None:
        self.path = path
        self.values = values

    def refusal(self, reason: str) -> ModelFilesInvalid:
        return ModelFilesInvalid(self.path, reason)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.refusal(f"{key} must be a string, not {_shown(value)}")
        return value

    def integer(self, key: str, least: int, most: int, default: int | None = None) -> int:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.refusal(f"{key} must be an integer from {least} to {most}, not {_shown(value)}")
        return value

    def number(self, key: str, above: float, most: float, default: float | None = None) -> float:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= most:
            raise self.refusal(f"{key} must be a number above {above} up to {most}, not {_shown(value)}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.refusal(f"{key} must be true or false, not {_shown(value)}")
        return value

    def texts(self, key: str) -> list[str]:
        value = self._value(key, None)
        if not isinstance(value, list):
            raise self.refusal(f"{key} must be a list of strings, not {_shown(value)}")
        texts = [item for item in value if isinstance(item, str)]
        if len(texts) != len(value):
            raise self.refusal(f"{key} must be a list of strings, not {_shown(value)}")
        return texts

    def integers(self, key: str) -> list[int]:
        value = self._value(key, None)
        if not isinstance(value, list):
            raise self.refusal(f"{key} must be a list of integers, not {_shown(value)}")
        integers = [item for item in value if isinstance(item, int)]
        if len(integers) != len(value):
            raise self.refusal(f"{key} must be a list of integers, not {_shown(value)}")
        return integers

    def _value(self, key: str, default: MetadataValue | None) -> MetadataValue:
        value = self.values.get(key, default)
        if value is None:
            raise self.refusal(f"the GGUF has no {key}")
        return value


@dataclass(frozen=True)
class LlamaShape:
    """The numbers that make a llama; lengths in elements, `context_tokens` as trained."""

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_tokens: int
    rms_norm_eps: float
    rope_theta: float
    rope_linear_factor: float
    """Positions are divided by it; 1 when the model has no rope scaling."""

    def config(self) -> dict[str, object]:
        """The part of config.json that describes the shape, as `mlx_lm.models.llama.ModelArgs` reads it."""
        linear = {"type": "linear", "rope_type": "linear", "factor": self.rope_linear_factor}
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.context_tokens,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_traditional": False,
            "rope_scaling": None if self.rope_linear_factor == 1 else linear,
        }


def read_llama_shape(metadata: GgufMetadata) -> LlamaShape:
    """Raises ModelFilesInvalid for another architecture, an absurd or missing number, an unknown variant."""
    architecture = metadata.text("general.architecture")
    if architecture != "llama":
        raise metadata.refusal(f"its architecture is {architecture!r}; only 'llama' GGUFs can be imported")
    if unknown := sorted(k for k in metadata.values if k.startswith("llama.") and k not in UNDERSTOOD_LLAMA_KEYS):
        raise metadata.refusal(f"its metadata has {', '.join(unknown)}, which this importer does not understand")

    hidden_size = metadata.integer("llama.embedding_length", 1, 1 << 17)
    heads = metadata.integer("llama.attention.head_count", 1, 1 << 12)
    kv_heads = metadata.integer("llama.attention.head_count_kv", 1, heads, default=heads)
    head_dim = metadata.integer("llama.attention.key_length", 2, 1 << 12, default=hidden_size // heads)
    if heads % kv_heads or head_dim % 2:
        raise metadata.refusal(f"{heads} heads of {head_dim} cannot share {kv_heads} key-value heads")
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if metadata.integer(key, 1, 1 << 12, default=head_dim) != head_dim:
            raise metadata.refusal(f"{key} differs from the head's {head_dim}; such models cannot be imported")
    return LlamaShape(
        layers=metadata.integer("llama.block_count", 1, 1 << 10),
        hidden_size=hidden_size,
        intermediate_size=metadata.integer("llama.feed_forward_length", 1, 1 << 20),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=metadata.integer("llama.vocab_size", 1, 1 << 24, len(metadata.texts("tokenizer.ggml.tokens"))),
        context_tokens=metadata.integer("llama.context_length", 1, 1 << 30),
        rms_norm_eps=metadata.number("llama.attention.layer_norm_rms_epsilon", 0.0, 1.0),
        # llama.cpp's default when the key is absent
        rope_theta=metadata.number("llama.rope.freq_base", 0.0, 1e12, default=10_000.0),
        rope_linear_factor=_rope_linear_factor(metadata),
    )


def _rope_linear_factor(metadata: GgufMetadata) -> float:
    scaling = metadata.text("llama.rope.scaling.type", default="none")
    if scaling == "none":
        return 1.0
    if scaling == "linear":
        return metadata.number("llama.rope.scaling.factor", 0.0, 1e6)
    raise metadata.refusal(f"its rope scaling is {scaling!r}; only 'none' and 'linear' can be imported")


def _shown(value: MetadataValue) -> str:
    shown = repr(value[:4] if isinstance(value, list) else value)
    return shown if len(shown) <= 80 else f"{shown[:80]}..."
