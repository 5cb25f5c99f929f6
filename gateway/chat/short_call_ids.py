"""Ids of tool calls for Mistral's chat templates, which take none but nine letters and digits.

Source: the `chat_template` of Mistral-7B-Instruct-v0.3, Mistral-Nemo and Mistral-Small, and
`mistral_common.protocol.instruct.tool_calls`. A short id depends on nothing but the long one, so that a call and its
result have the same, and a prompt that grows begins with what it was.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b

from gateway.chat.tool_prompt import Turn

ASKS_FOR_NINE = re.compile(r"\blength\s*(?:!=|==|<)?\s*9\b")
SHORT = re.compile(r"[a-zA-Z0-9]{9}")


def wants_short_ids(template: str) -> bool:
    return ASKS_FOR_NINE.search(template) is not None


def with_short_ids(turns: Sequence[Turn]) -> list[Turn]:
    return [_with_short_ids(turn) for turn in turns]


def _with_short_ids(turn: Turn) -> Turn:
    shorter = dict(turn)
    if "tool_call_id" in turn:
        shorter["tool_call_id"] = _short(turn["tool_call_id"])
    if "tool_calls" in turn:
        shorter["tool_calls"] = [{**call, "id": _short(call["id"])} for call in turn["tool_calls"]]
    return shorter


def _short(call_id: str) -> str:
    if SHORT.fullmatch(call_id):
        return call_id
    return blake2b(call_id.encode(errors="surrogatepass")).hexdigest()[:9]
