"""Answers with calls, written as the models' chat templates write them."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from gateway.chat.tool_calls.command_r import CommandR
from gateway.chat.tool_calls.deepseek import DeepSeek
from gateway.chat.tool_calls.deepseek_v32 import DeepSeekV32
from gateway.chat.tool_calls.dialect import ToolDialect
from gateway.chat.tool_calls.function_gemma import FunctionGemma
from gateway.chat.tool_calls.gemma4 import Gemma4
from gateway.chat.tool_calls.glm import Glm
from gateway.chat.tool_calls.granite import Granite
from gateway.chat.tool_calls.harmony import Harmony
from gateway.chat.tool_calls.hermes import Hermes
from gateway.chat.tool_calls.kimi_k2 import KimiK2
from gateway.chat.tool_calls.kimi_k3 import KimiK3
from gateway.chat.tool_calls.lfm2 import Lfm2
from gateway.chat.tool_calls.listed_calls import ListedCalls
from gateway.chat.tool_calls.llama3_json import Llama3Json
from gateway.chat.tool_calls.longcat import LongCat
from gateway.chat.tool_calls.minicpm5 import MiniCpm5
from gateway.chat.tool_calls.minimax_m2 import MiniMaxM2
from gateway.chat.tool_calls.mistral import Mistral, MistralList
from gateway.chat.tool_calls.muse import Muse
from gateway.chat.tool_calls.nemotron import Nemotron
from gateway.chat.tool_calls.olmo3 import Olmo3
from gateway.chat.tool_calls.phi4_functools import Phi4Functools
from gateway.chat.tool_calls.phi4_mini import Phi4Mini
from gateway.chat.tool_calls.pythonic import Pythonic
from gateway.chat.tool_calls.qwen3_coder import Qwen3Coder
from gateway.chat.tool_calls.seed_oss import SeedOss

Calls = Sequence[tuple[str, dict[str, Any]]]


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def call_object(name: str, arguments: Any, key: str = "arguments") -> str:
    return compact({"name": name, key: arguments})


def objects(calls: Calls, key: str = "arguments") -> list[str]:
    return [call_object(name, arguments, key) for name, arguments in calls]


def listed(calls: Calls) -> str:
    return f"[{', '.join(objects(calls))}]"


def raw(value: Any) -> str:
    return value if isinstance(value, str) else compact(value)


def tagged(calls: Calls, call: str, parameter: str, end: str) -> str:
    return "".join(
        call.format(name) + "".join(parameter.format(key, raw(value)) for key, value in arguments.items()) + end
        for name, arguments in calls
    )


def glm(calls: Calls, mark: str = "") -> str:
    key = "<MARKarg_key>{}</MARKarg_key>\n<MARKarg_value>{}</MARKarg_value>\n"
    return tagged(calls, "\n<MARKtool_call>{}\n", key, "</MARKtool_call>").replace("MARK", mark)


def python(calls: Calls, separator: str = ", ") -> str:
    return separator.join(
        f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})" for name, arguments in calls
    )


def gemma(calls: Calls, quote: str, begin: str, end: str) -> str:
    def literal(value: Any) -> str:
        match value:
            case str():
                return f"{quote}{value}{quote}"
            case dict():
                return "{" + ",".join(f"{key}:{literal(inner)}" for key, inner in value.items()) + "}"
            case list():
                return "[" + ",".join(map(literal, value)) + "]"
        return json.dumps(value)

    return "".join(f"{begin}call:{name}{literal(arguments)}{end}" for name, arguments in calls)


def minicpm5(calls: Calls) -> str:
    def value(content: Any) -> str:
        return f"<![CDATA[{content}]]>" if isinstance(content, str) and set("<&\n") & set(content) else raw(content)

    return "\n".join(
        f'<function name="{name}">'
        + "".join(f'<param name="{key}">{value(content)}</param>' for key, content in arguments.items())
        + "</function>"
        for name, arguments in calls
    )


def kimi_k3(calls: Calls) -> str:
    kinds = {str: "string", bool: "boolean", int: "number", float: "number", dict: "object", list: "array"}
    written = "<|open|>tools<|sep|>"
    for index, (name, arguments) in enumerate(calls, 1):
        written += f'<|open|>call tool="{name}" index="{index}"<|sep|>'
        for key, value in arguments.items():
            kind = kinds.get(type(value), "null")
            written += f'<|open|>argument key="{key}" type="{kind}"<|sep|>{raw(value)}<|close|>argument<|sep|>'
        written += "<|close|>call<|sep|>"
    return written + "<|close|>tools<|sep|>"


def dsml(calls: Calls) -> str:
    written = "\n\n<｜DSML｜function_calls>\n"
    for name, arguments in calls:
        written += f'<｜DSML｜invoke name="{name}">\n'
        for key, value in arguments.items():
            text = "true" if isinstance(value, str) else "false"
            written += f'<｜DSML｜parameter name="{key}" string="{text}">{raw(value)}</｜DSML｜parameter>\n'
        written += "</｜DSML｜invoke>\n"
    return written + "</｜DSML｜function_calls>"


def deepseek(calls: Calls, begin: str, end: str) -> str:
    inner = "\n".join(f"{begin.format(name)}{compact(arguments)}{end}" for name, arguments in calls)
    return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>"


def kimi_k2(calls: Calls) -> str:
    inner = "".join(
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{compact(arguments)}<|tool_call_end|>"
        for index, (name, arguments) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{inner}<|tool_calls_section_end|>"


def harmony(calls: Calls) -> str:
    return "<|start|>assistant".join(
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{compact(arguments)}<|call|>"
        for name, arguments in calls
    )


QWEN = ("\n<tool_call>\n<function={}>\n", "<parameter={}>\n{}\n</parameter>\n", "</function>\n</tool_call>")
SEED = ("\n<seed:tool_call>\n<function={}>\n", "<parameter={}>{}</parameter>\n", "</function>\n</seed:tool_call>")
MINIMAX = ('<invoke name="{}">\n', '<parameter name="{}">{}</parameter>\n', "</invoke>\n")
MUSE = ('<atem:invoke name="{}">\n', '<atem:parameter name="{}">{}</atem:parameter>\n', "</atem:invoke>\n")
DSV3 = ("<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n", "\n```<｜tool▁call▁end｜>")
DSV31 = ("<｜tool▁call▁begin｜>{}<｜tool▁sep｜>", "<｜tool▁call▁end｜>")

WRITERS: dict[str, tuple[ToolDialect, Callable[[Calls], str]]] = {
    "hermes": (Hermes(), lambda calls: "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in objects(calls))),
    "granite": (Granite(), lambda calls: f"<|tool_call|>{listed(calls)}"),
    "phi4_mini": (Phi4Mini(), lambda calls: f"<|tool_call|>{listed(calls)}<|/tool_call|>"),
    "phi4_functools": (Phi4Functools(), lambda calls: f"functools{listed(calls)}"),
    "nemotron": (Nemotron(), lambda calls: f"<TOOLCALL>{listed(calls)}</TOOLCALL>"),
    "listed_calls": (ListedCalls(), lambda calls: f"<tool_calls>{listed(calls)}</tool_calls>"),
    "minimax_m1": (ListedCalls(), lambda calls: "\n".join(("<tool_calls>", *objects(calls), "</tool_calls>"))),
    "command_r": (
        CommandR(),
        lambda calls: (
            "<|START_ACTION|>[\n"
            + ",\n".join(
                compact({"tool_call_id": str(index), "tool_name": name, "parameters": arguments})
                for index, (name, arguments) in enumerate(calls)
            )
            + "\n]<|END_ACTION|>"
        ),
    ),
    "llama3_json": (Llama3Json(), lambda calls: "\n" + "; ".join(objects(calls, "parameters"))),
    "llama3_tag": (Llama3Json(), lambda calls: "<|python_tag|>" + "; ".join(objects(calls, "parameters"))),
    "pythonic": (Pythonic(), lambda calls: f"\n[{python(calls)}]"),
    "lfm2": (Lfm2(), lambda calls: f"<|tool_call_start|>[{python(calls)}]<|tool_call_end|>"),
    "olmo3": (Olmo3(), lambda calls: f"<function_calls>\n{python(calls, chr(10))}\n</function_calls>"),
    "function_gemma": (
        FunctionGemma(),
        lambda calls: gemma(calls, "<escape>", "<start_function_call>", "<end_function_call>"),
    ),
    "gemma4": (Gemma4(), lambda calls: gemma(calls, '<|"|>', "<|tool_call>", "<tool_call|>")),
    "kimi_k2": (KimiK2(), kimi_k2),
    "kimi_k3": (KimiK3(), kimi_k3),
    "deepseek_v3": (DeepSeek(), lambda calls: deepseek(calls, *DSV3)),
    "deepseek_v31": (DeepSeek(), lambda calls: deepseek(calls, *DSV31)),
    "deepseek_v32": (DeepSeekV32(), dsml),
    "mistral_list": (MistralList(), lambda calls: f"[TOOL_CALLS] {listed(calls)}"),
    "mistral_named": (
        Mistral(),
        lambda calls: "".join(f"[TOOL_CALLS]{name}[ARGS]{compact(arguments)}" for name, arguments in calls),
    ),
    "qwen3_coder": (Qwen3Coder(), lambda calls: tagged(calls, *QWEN)),
    "seed_oss": (SeedOss(), lambda calls: tagged(calls, *SEED)),
    "glm": (Glm(), glm),
    "longcat": (LongCat(), lambda calls: glm(calls, "longcat_")),
    "minimax_m2": (
        MiniMaxM2(),
        lambda calls: f"\n<minimax:tool_call>\n{tagged(calls, *MINIMAX)}</minimax:tool_call>",
    ),
    "muse": (Muse(), lambda calls: f"<atem:function_calls>{tagged(calls, *MUSE)}</atem:function_calls>"),
    "minicpm5": (MiniCpm5(), minicpm5),
    "harmony": (Harmony(), harmony),
}
"""By name of a format: the dialect, and how a model writes calls in it."""
