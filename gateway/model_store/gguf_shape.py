"""The numbers that make a transformer, read from a GGUF's metadata with their ranges checked. No mlx here."""

from collections.abc import Collection
from dataclasses import dataclass

from gateway.model_store.gguf_metadata import GgufMetadata

UNDERSTOOD_KEYS = (
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


@dataclass(frozen=True)
class Shape:
    """Lengths in elements, `context_tokens` as trained."""

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
    rope_dims: int
    """How many elements of each head are rotated."""
    experts: int
    """0 in a model without."""
    expert_size: int

    def length(self, dimension: str) -> int:
        """The length that a `LayerTensor` calls by name."""
        return {
            "hidden": self.hidden_size,
            "wide": self.intermediate_size,
            "queries": self.heads * self.head_dim,
            "keys": self.kv_heads * self.head_dim,
            "head": self.head_dim,
            "qkv": (self.heads + 2 * self.kv_heads) * self.head_dim,
            "twice wide": 2 * self.intermediate_size,
            "experts": self.experts,
            "expert wide": self.expert_size,
        }[dimension]

    def config(self) -> dict[str, object]:
        """Its part of config.json, as `ModelArgs` of mlx-lm's models reads it."""
        linear = {"type": "linear", "rope_type": "linear", "factor": self.rope_linear_factor}
        return {
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


def read_shape(
    metadata: GgufMetadata, name: str, further_keys: Collection[str] = (), *, partial_rope: bool = False
) -> Shape:
    """The shape of the architecture `name`, which may have `further_keys` that its table entry reads itself, and with
    `partial_rope` heads that are rotated in part.

    Raises ModelFilesInvalid for an absurd or missing number, and for a variant nobody here knows.
    """
    # a scaling or an attention variant under any other key would change the answers if it were passed over
    known = {f"{name}.{key}" for key in (*UNDERSTOOD_KEYS, *further_keys)}
    if unknown := sorted(key for key in metadata.values if key.startswith(f"{name}.") and key not in known):
        raise metadata.refusal(f"its metadata has {', '.join(unknown)}, which this importer does not understand")

    hidden_size = metadata.integer(f"{name}.embedding_length", 1, 1 << 17)
    heads = metadata.integer(f"{name}.attention.head_count", 1, 1 << 12)
    kv_heads = metadata.integer(f"{name}.attention.head_count_kv", 1, heads, default=heads)
    head_dim = metadata.integer(f"{name}.attention.key_length", 2, 1 << 12, default=hidden_size // heads)
    if heads % kv_heads or head_dim % 2:
        raise metadata.refusal(f"{heads} heads of {head_dim} cannot share {kv_heads} key-value heads")
    rope_dims = (
        metadata.integer(f"{name}.rope.dimension_count", 2, head_dim, default=head_dim) if partial_rope else head_dim
    )
    for key in ("attention.value_length", *(() if partial_rope else ("rope.dimension_count",))):
        if metadata.integer(f"{name}.{key}", 1, 1 << 12, default=head_dim) != head_dim:
            raise metadata.refusal(f"{name}.{key} differs from the head's {head_dim}; such models cannot be imported")
    tokens = len(metadata.texts("tokenizer.ggml.tokens"))
    return Shape(
        layers=metadata.integer(f"{name}.block_count", 1, 1 << 10),
        hidden_size=hidden_size,
        intermediate_size=metadata.integer(f"{name}.feed_forward_length", 1, 1 << 20),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=metadata.integer(f"{name}.vocab_size", 1, 1 << 24, default=tokens),
        context_tokens=metadata.integer(f"{name}.context_length", 1, 1 << 30),
        rms_norm_eps=metadata.number(f"{name}.attention.layer_norm_rms_epsilon", 0.0, 1.0),
        # llama.cpp's default when the key is absent
        rope_theta=metadata.number(f"{name}.rope.freq_base", 0.0, 1e12, default=10_000.0),
        rope_linear_factor=_rope_linear_factor(metadata, name),
        rope_dims=rope_dims,
        experts=metadata.integer(f"{name}.expert_count", 1, 1 << 12) if "expert_count" in further_keys else 0,
        expert_size=(
            metadata.integer(f"{name}.expert_feed_forward_length", 1, 1 << 20) if "expert_count" in further_keys else 0
        ),
    )


def _rope_linear_factor(metadata: GgufMetadata, name: str) -> float:
    scaling = metadata.text(f"{name}.rope.scaling.type", default="none")
    if scaling == "none":
        return 1.0
    if scaling == "linear":
        return metadata.number(f"{name}.rope.scaling.factor", 0.0, 1e6)
    raise metadata.refusal(f"its rope scaling is {scaling!r}; only 'none' and 'linear' can be imported")
