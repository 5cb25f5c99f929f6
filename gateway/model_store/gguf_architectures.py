"""The architectures whose GGUFs can be imported. Tensor names: gguf-py/gguf/tensor_mapping.py of llama.cpp."""

from collections.abc import Mapping

from gateway.model_store.gguf_architecture import (
    ATTENTION,
    ATTENTION_AND_FEED_FORWARD,
    HEAD_NORMS,
    Architecture,
    LayerTensor,
    Numbers,
)
from gateway.model_store.gguf_gemma2 import GEMMA, GEMMA2
from gateway.model_store.gguf_gemma3 import GEMMA3
from gateway.model_store.gguf_metadata import GgufMetadata
from gateway.model_store.gguf_phi3 import PHI3
from gateway.model_store.gguf_rope import LLAMA3_TENSOR, llama3_rope
from gateway.model_store.gguf_shape import Shape

SILU: dict[str, object] = {"hidden_act": "silu"}
NORM_BEFORE_FEED_FORWARD = LayerTensor("ffn_norm.weight", "post_attention_layernorm.weight", ("hidden",))
QKV_BIASES = (
    LayerTensor("attn_q.bias", "self_attn.q_proj.bias", ("queries",)),
    LayerTensor("attn_k.bias", "self_attn.k_proj.bias", ("keys",)),
    LayerTensor("attn_v.bias", "self_attn.v_proj.bias", ("keys",)),
)


EXPERTS = (
    LayerTensor("ffn_gate_inp.weight", "mlp.gate.weight", ("experts", "hidden")),
    LayerTensor("ffn_gate_exps.weight", "mlp.switch_mlp.gate_proj.weight", ("experts", "expert wide", "hidden")),
    LayerTensor("ffn_up_exps.weight", "mlp.switch_mlp.up_proj.weight", ("experts", "expert wide", "hidden")),
    LayerTensor("ffn_down_exps.weight", "mlp.switch_mlp.down_proj.weight", ("experts", "hidden", "expert wide")),
)


def _heads_share_the_width(metadata: GgufMetadata, shape: Shape, _numbers: Numbers) -> dict[str, object]:
    """For models of mlx-lm that read no `head_dim`."""
    if shape.heads * shape.head_dim != shape.hidden_size:
        raise metadata.refusal(f"{shape.heads} heads of {shape.head_dim} do not make up its width {shape.hidden_size}")
    return {}


def _qwen3_experts(metadata: GgufMetadata, shape: Shape, _numbers: Numbers) -> dict[str, object]:
    return {
        "num_experts": shape.experts,
        "num_experts_per_tok": metadata.integer("qwen3moe.expert_used_count", 1, shape.experts),
        "moe_intermediate_size": shape.expert_size,
        "decoder_sparse_step": 1,  # every layer has experts
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    }


def _granite_factors(metadata: GgufMetadata, shape: Shape, numbers: Numbers) -> dict[str, object]:
    keys = {
        "attention_multiplier": "attention.scale",
        "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale",
        "logits_scaling": "logit_scale",
    }
    factors = {name: metadata.number(f"granite.{key}", 0.0, 1e6) for name, key in keys.items()}
    return {
        **_heads_share_the_width(metadata, shape, numbers),
        **factors,
        "attention_bias": False,
        "mlp_bias": False,
    }


# Mistral's GGUFs call themselves llama
LLAMA = Architecture(
    "llama",
    model_type="llama",
    class_name="LlamaForCausalLM",
    activation=SILU,
    layer_tensors=(*ATTENTION_AND_FEED_FORWARD, NORM_BEFORE_FEED_FORWARD),
    interleaved_rope=True,
    number_tensors=(LLAMA3_TENSOR,),
    further_config=llama3_rope,
)
SMOLLM3 = Architecture(
    "smollm3",
    model_type="smollm3",
    class_name="SmolLM3ForCausalLM",
    activation=SILU,
    layer_tensors=(*ATTENTION_AND_FEED_FORWARD, NORM_BEFORE_FEED_FORWARD),
    interleaved_rope=True,
    # every fourth layer is not rotated; llama.cpp and mlx-lm both know that by themselves
)
GRANITE = Architecture(
    "granite",
    model_type="granite",
    class_name="GraniteForCausalLM",
    activation=SILU,
    layer_tensors=(*ATTENTION_AND_FEED_FORWARD, NORM_BEFORE_FEED_FORWARD),
    interleaved_rope=True,
    further_keys=("attention.scale", "embedding_scale", "residual_scale", "logit_scale"),
    further_config=_granite_factors,
)
QWEN2 = Architecture(
    "qwen2",
    model_type="qwen2",
    class_name="Qwen2ForCausalLM",
    activation=SILU,
    layer_tensors=(*ATTENTION_AND_FEED_FORWARD, *QKV_BIASES, NORM_BEFORE_FEED_FORWARD),
    further_config=_heads_share_the_width,
)
QWEN3 = Architecture(
    "qwen3",
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    activation=SILU,
    layer_tensors=(*ATTENTION_AND_FEED_FORWARD, *HEAD_NORMS, NORM_BEFORE_FEED_FORWARD),
)
QWEN3_MOE = Architecture(
    "qwen3moe",
    model_type="qwen3_moe",
    class_name="Qwen3MoeForCausalLM",
    activation=SILU,
    layer_tensors=(*ATTENTION, *HEAD_NORMS, NORM_BEFORE_FEED_FORWARD, *EXPERTS),
    further_keys=("expert_count", "expert_used_count", "expert_feed_forward_length"),
    further_config=_qwen3_experts,
)
ARCHITECTURES: Mapping[str, Architecture] = {
    entry.name: entry for entry in (LLAMA, SMOLLM3, GRANITE, QWEN2, QWEN3, QWEN3_MOE, GEMMA, GEMMA2, GEMMA3, PHI3)
}


def architecture_of(metadata: GgufMetadata) -> Architecture:
    """Raises ModelFilesInvalid that lists the known ones for another architecture."""
    name = metadata.text("general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise metadata.refusal(f"its architecture is {name!r}; only GGUFs of these can be imported: {known}")
    return ARCHITECTURES[name]
