"""The architectures whose GGUFs can be imported. Tensor names: gguf-py/gguf/tensor_mapping.py of llama.cpp."""

from collections.abc import Mapping

from gateway.model_store.gguf_architecture import ATTENTION_AND_FEED_FORWARD, HEAD_NORMS, Architecture, LayerTensor
from gateway.model_store.gguf_gemma3 import GEMMA3
from gateway.model_store.gguf_metadata import GgufMetadata
from gateway.model_store.gguf_shape import Shape

SILU: dict[str, object] = {"hidden_act": "silu"}
NORM_BEFORE_FEED_FORWARD = LayerTensor("ffn_norm.weight", "post_attention_layernorm.weight", ("hidden",))
QKV_BIASES = (
    LayerTensor("attn_q.bias", "self_attn.q_proj.bias", ("queries",)),
    LayerTensor("attn_k.bias", "self_attn.k_proj.bias", ("keys",)),
    LayerTensor("attn_v.bias", "self_attn.v_proj.bias", ("keys",)),
)


def _heads_share_the_width(metadata: GgufMetadata, shape: Shape) -> dict[str, object]:
    """mlx-lm's qwen2 reads no `head_dim`."""
    if shape.heads * shape.head_dim != shape.hidden_size:
        raise metadata.refusal(f"{shape.heads} heads of {shape.head_dim} do not make up its width {shape.hidden_size}")
    return {}


# mistral's GGUFs call themselves llama
LLAMA = Architecture(
    "llama",
    model_type="llama",
    class_name="LlamaForCausalLM",
    activation=SILU,
    layer_tensors=(*ATTENTION_AND_FEED_FORWARD, NORM_BEFORE_FEED_FORWARD),
    interleaved_rope=True,
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
ARCHITECTURES: Mapping[str, Architecture] = {entry.name: entry for entry in (LLAMA, QWEN2, QWEN3, GEMMA3)}


def architecture_of(metadata: GgufMetadata) -> Architecture:
    """Raises ModelFilesInvalid that lists the known ones for another architecture."""
    name = metadata.text("general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise metadata.refusal(f"its architecture is {name!r}; only GGUFs of these can be imported: {known}")
    return ARCHITECTURES[name]
