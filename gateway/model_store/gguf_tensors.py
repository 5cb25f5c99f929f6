"""Which tensors a llama GGUF must hold, and where each goes in a Hugging Face style folder. No mlx here."""

from dataclasses import dataclass

from gateway.model_store.gguf_metadata import LlamaShape

GGUF_GROUP_SIZE = 32  # elements that share one scale in Q4_0, Q4_1 and Q8_0


@dataclass(frozen=True)
class TensorMove:
    """One tensor on its way; names lack the `.weight`, `.scales` or `.biases` at their end."""

    gguf_name: str
    name: str
    shape: tuple[int, ...]
    """In elements, unpacked: (rows, inputs), or (size,) for a norm."""
    rope_heads: int = 0
    """Not 0: the rows are this many heads in interleaved rope order, to be put in half order."""


def llama_tensor_moves(shape: LlamaShape, has_output: bool) -> list[TensorMove]:
    """Every tensor of the model; `has_output`: it has an output layer apart from the embedding."""
    hidden, wide = shape.hidden_size, shape.intermediate_size
    moves = [
        TensorMove("token_embd", "model.embed_tokens", (shape.vocab_size, hidden)),
        TensorMove("output_norm", "model.norm", (hidden,)),
    ]
    if has_output:
        moves.append(TensorMove("output", "lm_head", (shape.vocab_size, hidden)))
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for layer in range(shape.layers):
        old, new = f"blk.{layer}", f"model.layers.{layer}"
        moves += [
            TensorMove(f"{old}.attn_norm", f"{new}.input_layernorm", (hidden,)),
            TensorMove(f"{old}.attn_q", f"{new}.self_attn.q_proj", (queries, hidden), shape.heads),
            TensorMove(f"{old}.attn_k", f"{new}.self_attn.k_proj", (keys, hidden), shape.kv_heads),
            TensorMove(f"{old}.attn_v", f"{new}.self_attn.v_proj", (keys, hidden)),
            TensorMove(f"{old}.attn_output", f"{new}.self_attn.o_proj", (hidden, queries)),
            TensorMove(f"{old}.ffn_norm", f"{new}.post_attention_layernorm", (hidden,)),
            TensorMove(f"{old}.ffn_gate", f"{new}.mlp.gate_proj", (wide, hidden)),
            TensorMove(f"{old}.ffn_up", f"{new}.mlp.up_proj", (wide, hidden)),
            TensorMove(f"{old}.ffn_down", f"{new}.mlp.down_proj", (hidden, wide)),
        ]
    return moves


def half_order_rows(heads: int, head_dim: int) -> list[int]:
    """For each row of a query or key projection in Hugging Face order, the GGUF row that holds it.

    A GGUF interleaves a head's rope pairs (0, 1), (2, 3), ...; Hugging Face pairs row i with row i + half.
    The inverse of `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    half = head_dim // 2
    return [head * head_dim + 2 * pair + side for head in range(heads) for side in range(2) for pair in range(half)]


def quantization_config(bits_of_layer: dict[str, int]) -> dict[str, object] | None:
    """The `quantization` entry of config.json, as `mlx_lm.utils.load_model` reads it; None if no layer is.

    Args: bits of each quantised layer by name. The commonest width is the rule, the others are exceptions.
    """
    if not bits_of_layer:
        return None
    widths = list(bits_of_layer.values())
    rule = max(set(widths), key=widths.count)
    exceptions = {
        name: {"group_size": GGUF_GROUP_SIZE, "bits": bits} for name, bits in bits_of_layer.items() if bits != rule
    }
    return {"group_size": GGUF_GROUP_SIZE, "bits": rule, "mode": "affine", **exceptions}
