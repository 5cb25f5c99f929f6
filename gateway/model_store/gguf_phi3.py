"""Phi 3, 3.5 and 4 as models for `mlx_lm.models.phi3`."""

from gateway.model_store.gguf_architecture import Architecture, LayerTensor, Numbers
from gateway.model_store.gguf_metadata import GgufMetadata
from gateway.model_store.gguf_rope import LONG_TENSOR, SHORT_TENSOR, long_rope
from gateway.model_store.gguf_shape import Shape


def _config(metadata: GgufMetadata, shape: Shape, numbers: Numbers) -> dict[str, object]:
    """Its sliding window is left out of the computation, as llama.cpp and mlx-lm both do."""
    if shape.heads * shape.head_dim != shape.hidden_size:
        raise metadata.refusal(f"{shape.heads} heads of {shape.head_dim} do not make up its width {shape.hidden_size}")
    original = metadata.integer("phi3.rope.scaling.original_context_length", 1, 1 << 30, default=shape.context_tokens)
    return {"partial_rotary_factor": shape.rope_dims / shape.head_dim, **long_rope(metadata, shape, numbers, original)}


PHI3 = Architecture(
    "phi3",
    model_type="phi3",
    class_name="Phi3ForCausalLM",
    activation={"hidden_act": "silu"},
    layer_tensors=(
        LayerTensor("attn_norm.weight", "input_layernorm.weight", ("hidden",)),
        LayerTensor("attn_qkv.weight", "self_attn.qkv_proj.weight", ("qkv", "hidden")),
        LayerTensor("attn_output.weight", "self_attn.o_proj.weight", ("hidden", "queries")),
        LayerTensor("ffn_norm.weight", "post_attention_layernorm.weight", ("hidden",)),
        LayerTensor("ffn_up.weight", "mlp.gate_up_proj.weight", ("twice wide", "hidden")),  # the gate comes first
        LayerTensor("ffn_down.weight", "mlp.down_proj.weight", ("hidden", "wide")),
    ),
    further_keys=(
        "attention.sliding_window",
        "rope.scaling.original_context_length",
        "rope.scaling.attn_factor",  # mlx-lm computes the same from the context's lengths
    ),
    number_tensors=(LONG_TENSOR, SHORT_TENSOR),
    further_config=_config,
    partial_rope=True,
    end_tokens=("<|end|>", "<|endoftext|>", "<|im_end|>"),
)
