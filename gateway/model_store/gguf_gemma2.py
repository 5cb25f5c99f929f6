"""Gemma and Gemma 2 as models for `mlx_lm.models.gemma` and `gemma2`.

What the files do not say is what llama.cpp knows by itself (`LLM_ARCH_GEMMA2` in llama-model.cpp): the largest Gemma 2
scales its queries differently.
"""

from gateway.model_store.gguf_architecture import ATTENTION_AND_FEED_FORWARD, Architecture, LayerTensor, Numbers
from gateway.model_store.gguf_gemma3 import CHAT_TEMPLATE, NORMS_AROUND
from gateway.model_store.gguf_metadata import GgufMetadata
from gateway.model_store.gguf_shape import Shape

LAYERS_OF_27B = 46
END_TOKENS = ("<eos>", "<end_of_turn>")


def _gemma2_config(metadata: GgufMetadata, shape: Shape, _numbers: Numbers) -> dict[str, object]:
    window = metadata.integer("gemma2.attention.sliding_window", 1, 1 << 30, default=4096)
    return {
        "query_pre_attn_scalar": (
            shape.hidden_size // shape.heads if shape.layers == LAYERS_OF_27B else shape.head_dim
        ),
        "attn_logit_softcapping": metadata.number("gemma2.attn_logit_softcapping", 0.0, 1e6, default=50.0),
        "final_logit_softcapping": metadata.number("gemma2.final_logit_softcapping", 0.0, 1e6, default=30.0),
        # every second layer has a window of so many tokens, which mlx-lm leaves out: within it both are the same
        "max_position_embeddings": min(shape.context_tokens, window),
    }


GEMMA = Architecture(
    "gemma",
    model_type="gemma",
    class_name="GemmaForCausalLM",
    activation={"hidden_activation": "gelu_pytorch_tanh"},
    layer_tensors=(
        *ATTENTION_AND_FEED_FORWARD,
        LayerTensor("ffn_norm.weight", "post_attention_layernorm.weight", ("hidden",)),
    ),
    norms_hold_one_more=True,
    end_tokens=END_TOKENS,
    chat_template=CHAT_TEMPLATE,
)
GEMMA2 = Architecture(
    "gemma2",
    model_type="gemma2",
    class_name="Gemma2ForCausalLM",
    activation={"hidden_activation": "gelu_pytorch_tanh"},
    layer_tensors=(*ATTENTION_AND_FEED_FORWARD, *NORMS_AROUND),
    norms_hold_one_more=True,
    further_keys=("attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"),
    further_config=_gemma2_config,
    end_tokens=END_TOKENS,
    chat_template=CHAT_TEMPLATE,
)
