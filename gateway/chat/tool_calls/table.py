"""All tool-call dialects. A new one is a file beside this and a line here."""

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

DIALECTS: tuple[ToolDialect, ...] = (
    *(Harmony(), KimiK3(), KimiK2(), DeepSeekV32(), DeepSeek(), CommandR(), Mistral(), MistralList()),
    *(MiniMaxM2(), SeedOss(), LongCat(), Muse(), Gemma4(), FunctionGemma(), Lfm2()),
    *(Glm(), Qwen3Coder(), MiniCpm5(), Nemotron(), Phi4Mini(), Granite(), Phi4Functools()),
    *(Hermes(), ListedCalls(), Olmo3(), Llama3Json(), Pythonic()),
)
"""The first that a template speaks is taken, so particular ones stand before those whose marks are common."""

DEFAULT_DIALECT: ToolDialect = Hermes()
"""For templates of which nothing tells how calls are written."""


def dialect_of(template: str) -> ToolDialect | None:
    return next((dialect for dialect in DIALECTS if dialect.is_spoken_by(template)), None)
