"""Which dialect a chat template speaks. The excerpts are what templates of published models write around calls."""

from pathlib import Path

import pytest

from gateway.chat.output_format import output_format
from gateway.chat.tool_calls.table import dialect_of

HERMES = '<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>'
LLAMA = (
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}. ipython'
)

EXCERPTS = {
    "Qwen 2.5": ("Hermes", "<tools></tools>" + HERMES),
    "Qwen 3": ("Hermes", "<think></think>" + HERMES),
    "Qwen3-Coder": ("Qwen3Coder", "<tool_call>\\n<function=example_function_name>\\n<parameter=example_parameter_1>"),
    "Seed-OSS": ("SeedOss", "<seed:tool_call>\\n<function=example_function_name>\\n<parameter=example_parameter_1>"),
    "GLM 4.6": (
        "Glm",
        "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>",
    ),
    "LongCat": ("LongCat", "<longcat_tool_call>{{ name }}\n<longcat_arg_key>{{ k }}</longcat_arg_key>"),
    "MiniMax M2": ("MiniMaxM2", '\'<minimax:tool_call>\' <invoke name="tool-name-1">\n<parameter name="param-key-1">'),
    "MiniCPM5": ("MiniCpm5", '<function name="fn"><param name="p">value</param></function>'),
    "Muse Spark": ("Muse", '<atem:function_calls><atem:invoke name="x">'),
    "Llama 3.1": ("Llama3Json", LLAMA + "<|python_tag|>"),
    "Llama 3.2": ("Llama3Json", LLAMA),
    "Llama 4": ("Llama3Json", LLAMA + "<|python_start|>"),
    "Llama 3.2, pythonic": (
        "Pythonic",
        "[func_name1(params_name1=params_value1, params_name2=params_value2...), f(params)]",
    ),
    "Llama 4, pythonic": ("Pythonic", "Use exact format: [func_name1(param1=value1, param2=value2), func_name2(...)]"),
    "LFM2": ("Lfm2", "<|tool_list_start|>[{{ tools }}]<|tool_list_end|>"),
    "LFM2.5": ("Lfm2", '"<|tool_call_start|>[" + calls + "]<|tool_call_end|>"'),
    "OLMo 3": ("Olmo3", "'<function_calls>' + calls + '</function_calls>'"),
    "Mistral 7B 0.3": ("MistralList", '"[TOOL_CALLS] [" [AVAILABLE_TOOLS]'),
    "Devstral": ("Mistral", '"[TOOL_CALLS]" + name + "[ARGS]" + arguments'),
    "DeepSeek V3.1": ("DeepSeek", "'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'+ name + '<｜tool▁sep｜>'</think>"),
    "DeepSeek V3.2": ("DeepSeekV32", '{%- set dsml_token = "｜DSML｜" -%} <{{ dsml_token }}function_calls>'),
    "Kimi K2": ("KimiK2", "<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}"),
    "Kimi K2 Thinking": (
        "KimiK2",
        "<|tool_calls_section_begin|><|tool_call_begin|>{{ id }}<|tool_call_argument_begin|>",
    ),
    "Kimi K3": ("KimiK3", "'<|open|>' + tag + '<|sep|>' open_tag('think')"),
    "gpt-oss": ("Harmony", "<|start|>assistant<|channel|>commentary to=functions.x <|constrain|>json<|message|>"),
    "Granite 3": ("Granite", "write <|tool_call|> followed by a JSON list of tools used"),
    "Granite 4": ("Hermes", HERMES),
    "Phi-4-mini": ("Phi4Mini", "'<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>'"),
    "Phi-4-mini, vLLM": (
        "Phi4Functools",
        'functools[{"name": [function name], "arguments": [function arguments as JSON]}, ...]',
    ),
    "Gemma 4": ("Gemma4", "'<|tool_call>call:' + name + '{' '}<tool_call|>' <|channel>thought\n<channel|>"),
    "FunctionGemma": ("FunctionGemma", "'<start_function_call>call:' + name + '{' '<escape>'"),
    "Nemotron": ("Nemotron", '<TOOLCALL>[{{"name": "tool_name1", "arguments": "tool_args1"}}]</TOOLCALL>'),
    "Command R7B": (
        "CommandR",
        "<|START_THINKING|><|END_THINKING|><|START_ACTION|>[ ]<|END_ACTION|><|START_RESPONSE|>",
    ),
    "Hunyuan": ("ListedCalls", '<tool_calls>[{"name": "f", "arguments": {}}]</tool_calls>'),
    "ChatML": ("NoneType", "{{ '<|im_start|>' + message['role'] + message.tool_calls }} [link](x)"),
}


@pytest.mark.parametrize(("dialect", "template"), EXCERPTS.values(), ids=EXCERPTS)
def test_a_template_tells_the_dialect(dialect: str, template: str) -> None:
    assert type(dialect_of(template)).__name__ == dialect


def test_a_whole_template() -> None:
    found = output_format((Path(__file__).parent.parent / "qwen3.jinja").read_text())
    assert type(found.calls).__name__ == "Hermes"
    assert found.special_tokens == {"<think>", "</think>", "<tool_call>", "</tool_call>"}


def test_marks_built_from_several_tokens_are_visible() -> None:
    found = output_format("<|tool_call><|channel>thought\n<channel|>")
    assert found.special_tokens == {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>'}
