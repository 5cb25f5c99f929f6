"""What one entry of the table of architectures is: the model's tensors, and what it has beyond the common numbers.

No mlx here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.model_store.gguf_metadata import GgufMetadata
from gateway.model_store.gguf_shape import Shape, read_shape
from gateway.model_store.gguf_tensors import TensorMove

Numbers = Mapping[str, Sequence[float]]
"""Tensors by name."""


@dataclass(frozen=True)
class LayerTensor:
    """A tensor that every layer has: its name behind `blk.0.` in the GGUF and behind `model.layers.0.` in mlx-lm.

    `dimensions` are names that `Shape.length` knows: rows and inputs of a matrix, or the one of a vector.
    """

    gguf_name: str
    name: str
    dimensions: tuple[str, ...]


ATTENTION = (
    LayerTensor("attn_norm.weight", "input_layernorm.weight", ("hidden",)),
    LayerTensor("attn_q.weight", "self_attn.q_proj.weight", ("queries", "hidden")),
    LayerTensor("attn_k.weight", "self_attn.k_proj.weight", ("keys", "hidden")),
    LayerTensor("attn_v.weight", "self_attn.v_proj.weight", ("keys", "hidden")),
    LayerTensor("attn_output.weight", "self_attn.o_proj.weight", ("hidden", "queries")),
)
FEED_FORWARD = (
    LayerTensor("ffn_gate.weight", "mlp.gate_proj.weight", ("wide", "hidden")),
    LayerTensor("ffn_up.weight", "mlp.up_proj.weight", ("wide", "hidden")),
    LayerTensor("ffn_down.weight", "mlp.down_proj.weight", ("hidden", "wide")),
)
ATTENTION_AND_FEED_FORWARD = (*ATTENTION, *FEED_FORWARD)
HEAD_NORMS = (
    LayerTensor("attn_q_norm.weight", "self_attn.q_norm.weight", ("head",)),
    LayerTensor("attn_k_norm.weight", "self_attn.k_norm.weight", ("head",)),
)


@dataclass(frozen=True)
class Architecture:
    """One value of `general.architecture`, as a model of mlx-lm."""

    name: str
    model_type: str
    """The module of `mlx_lm.models`."""
    class_name: str
    """Hugging Face's."""
    activation: dict[str, object]
    """What config.json calls the feed-forward's activation."""
    layer_tensors: tuple[LayerTensor, ...]
    interleaved_rope: bool = False
    """Rows of queries and keys lie in the GGUF as `half_order_rows` says."""
    norms_hold_one_more: bool = False
    """The GGUF's norm weights are the model's plus 1."""
    further_keys: tuple[str, ...] = ()
    number_tensors: tuple[str, ...] = ()
    """Small tensors that are settings, not weights; a GGUF may lack them."""
    further_config: Callable[[GgufMetadata, Shape, Numbers], dict[str, object]] = lambda _metadata, _shape, _numbers: {}
    """Reads `further_keys` and what there is of `number_tensors`; raises ModelFilesInvalid for a variant that mlx-lm
    does not know."""
    partial_rope: bool = False
    """Only a part of each head may be rotated."""
    end_tokens: tuple[str, ...] = ()
    """Control tokens that end an answer, besides those that the metadata names."""
    chat_template: str = ""
    """For a GGUF without one, if the whole family has the same."""

    def read_shape(self, metadata: GgufMetadata) -> Shape:
        """Raises ModelFilesInvalid."""
        return read_shape(metadata, self.name, self.further_keys, partial_rope=self.partial_rope)

    def config(self, metadata: GgufMetadata, shape: Shape, numbers: Numbers) -> dict[str, object]:
        """The part of config.json that describes the model's computation. Raises ModelFilesInvalid."""
        return {
            "model_type": self.model_type,
            "architectures": [self.class_name],
            **self.activation,
            **shape.config(),
            **self.further_config(metadata, shape, numbers),
        }

    def tensor_moves(self, shape: Shape, has_output: bool) -> list[TensorMove]:
        """Every tensor of the model; `has_output`: it has an output layer apart from the embedding."""
        table, one_more = (shape.vocab_size, shape.hidden_size), self.norms_hold_one_more
        moves = [
            TensorMove("token_embd.weight", "model.embed_tokens.weight", table),
            TensorMove("output_norm.weight", "model.norm.weight", (shape.hidden_size,), minus_one=one_more),
        ]
        if has_output:
            moves.append(TensorMove("output.weight", "lm_head.weight", table))
        return moves + [
            self._layer_move(tensor, layer, shape) for layer in range(shape.layers) for tensor in self.layer_tensors
        ]

    def _layer_move(self, tensor: LayerTensor, layer: int, shape: Shape) -> TensorMove:
        heads = {"attn_q.weight": shape.heads, "attn_k.weight": shape.kv_heads}.get(tensor.gguf_name)
        return TensorMove(
            f"blk.{layer}.{tensor.gguf_name}",
            f"model.layers.{layer}.{tensor.name}",
            tuple(shape.length(dimension) for dimension in tensor.dimensions),
            rows=half_order_rows(heads, shape.head_dim) if heads and self.interleaved_rope else None,
            minus_one=self.norms_hold_one_more and tensor.gguf_name.endswith("norm.weight"),
        )


def half_order_rows(heads: int, head_dim: int) -> tuple[int, ...]:
    """For each row of a query or key projection in Hugging Face order, the GGUF row that holds it.

    A llama GGUF interleaves a head's rope pairs (0, 1), (2, 3), ...; Hugging Face pairs row i with row i + half.
    The inverse of `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    half = head_dim // 2
    return tuple(
        head * head_dim + 2 * pair + side for head in range(heads) for side in range(2) for pair in range(half)
    )
