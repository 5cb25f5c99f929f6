"""Gemma 3 (text) as a model for `mlx_lm.models.gemma3_text`.

What the file does not say is what llama.cpp knows by itself (`LLM_ARCH_GEMMA3` in llama-model.cpp): every sixth
layer sees the whole context, the others rotate with base 10000, and the largest model scales its queries differently.
"""

from gateway.model_store.gguf_architecture import (
    ATTENTION_AND_FEED_FORWARD,
    HEAD_NORMS,
    Architecture,
    LayerTensor,
    Numbers,
)
from gateway.model_store.gguf_metadata import GgufMetadata
from gateway.model_store.gguf_shape import Shape

LAYERS_OF_27B = 62
NORMS_AROUND = (
    LayerTensor("post_attention_norm.weight", "post_attention_layernorm.weight", ("hidden",)),
    LayerTensor("ffn_norm.weight", "pre_feedforward_layernorm.weight", ("hidden",)),
    LayerTensor("post_ffw_norm.weight", "post_feedforward_layernorm.weight", ("hidden",)),
)

# https://ai.google.dev/gemma/docs/core/prompt-structure: there is no system turn, its text opens the user's first
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- set opening = namespace(text='', at=0) -%}
{%- if messages and messages[0]['role'] in ['system', 'developer'] -%}
    {%- set opening.text = (messages[0]['content'] or '') + '\\n\\n' -%}
    {%- set opening.at = 1 -%}
{%- endif -%}
{%- for message in messages[opening.at:] -%}
    {%- if message['role'] not in ['user', 'assistant'] -%}
        {{- raise_exception('Only user and assistant messages may follow the first one') -}}
    {%- endif -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
    {%- endif -%}
    {{- '<start_of_turn>' + ('user' if message['role'] == 'user' else 'model') + '\\n' -}}
    {{- (opening.text if loop.first else '') + ((message['content'] or '') | trim) + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<start_of_turn>model\\n' -}}
{%- endif -%}
"""


def _config(metadata: GgufMetadata, shape: Shape, _numbers: Numbers) -> dict[str, object]:
    pattern = metadata.integer("gemma3.attention.sliding_window_pattern", 1, 1 << 10, default=6)
    if shape.layers < pattern:
        raise metadata.refusal(f"its {shape.layers} layers are fewer than the {pattern} of one attention pattern")
    return {
        "rope_local_base_freq": metadata.number("gemma3.rope.freq_base_swa", 0.0, 1e12, default=10_000.0),
        "query_pre_attn_scalar": (
            shape.hidden_size // shape.heads if shape.layers == LAYERS_OF_27B else shape.head_dim
        ),
        "sliding_window": metadata.integer("gemma3.attention.sliding_window", 1, 1 << 30),
        "sliding_window_pattern": pattern,
    }


GEMMA3 = Architecture(
    "gemma3",
    model_type="gemma3_text",
    class_name="Gemma3ForCausalLM",
    activation={"hidden_activation": "gelu_pytorch_tanh"},
    layer_tensors=(*ATTENTION_AND_FEED_FORWARD, *HEAD_NORMS, *NORMS_AROUND),
    norms_hold_one_more=True,  # `Gemma3Model.norm_shift` in convert_hf_to_gguf.py; mlx-lm multiplies by 1 + weight
    further_keys=("attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"),
    further_config=_config,
    end_tokens=("<eos>", "<end_of_turn>"),
    chat_template=CHAT_TEMPLATE,
)
