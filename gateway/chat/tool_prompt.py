"""Tools for models whose chat template knows none: described in a system text, with calls and results as plain turns.

Calls are written in the form of Hermes (https://github.com/NousResearch/Hermes-Function-Calling), which many models
have met in their training; the text is theirs too, shortened. A turn becomes the same text whatever follows it, so that
a conversation that grows begins with what it was.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

Turn = dict[str, Any]

READS_TOOLS = re.compile(r"\btools\b")
READS_CALLS = re.compile(r"\btool_calls\b")
TAKES_NO_SYSTEM = re.compile(r"raise_exception\([^)]*[Ss]ystem", re.DOTALL)

INSTRUCTION = """\
You may call functions to help with the user's query. Their signatures are:
<tools>
{tools}
</tools>
For each function call write a JSON object with the function's name and arguments within <tool_call></tool_call> tags:
<tool_call>
{{"name": "<function-name>", "arguments": <arguments-object>}}
</tool_call>"""


def knows_tools(template: str) -> bool:
    """Whether a chat template has a place for tools."""
    return READS_TOOLS.search(template) is not None


def plain_turns(turns: Sequence[Turn], tools: Sequence[dict[str, Any]], template: str) -> list[Turn]:
    """The same conversation for a template without tools: system, user and assistant turns, all of text.

    A template that writes calls, though it describes no tools, has these turns its own way.
    """
    plain = list(turns) if READS_CALLS.search(template) else _without_calls(turns)
    return _with_instruction(plain, _instruction(tools), template) if tools else plain


def _without_calls(turns: Sequence[Turn]) -> list[Turn]:
    plain: list[Turn] = []
    in_results = False
    for turn in turns:
        result = turn["role"] == "tool"
        text = f"<tool_response>\n{turn['content']}\n</tool_response>" if result else _with_calls(turn)
        if result or (in_results and turn["role"] == "user"):
            if in_results:
                plain[-1]["content"] += f"\n{text}"
            else:
                plain.append({"role": "user", "content": text})
        else:
            plain.append({key: value for key, value in turn.items() if key != "tool_calls"} | {"content": text})
        in_results = plain[-1]["role"] == "user" and (result or in_results)
    return plain


def _with_calls(turn: Turn) -> str:
    calls = [
        "<tool_call>\n" + json.dumps(call["function"], ensure_ascii=False) + "\n</tool_call>"
        for call in turn.get("tool_calls", ())
    ]
    return "\n".join(([turn["content"]] if turn["content"] else []) + calls)


def _instruction(tools: Sequence[dict[str, Any]]) -> str:
    return INSTRUCTION.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))


def _with_instruction(turns: list[Turn], instruction: str, template: str) -> list[Turn]:
    """In the first system turn, or in one of its own; where the template takes none, before the first turn's text."""
    if turns and turns[0]["role"] == "system":
        first = {**turns[0], "content": f"{turns[0]['content']}\n\n{instruction}"}
        return [first, *turns[1:]]
    if turns and TAKES_NO_SYSTEM.search(template):
        return [{**turns[0], "content": f"{instruction}\n\n{turns[0]['content']}"}, *turns[1:]]
    return [{"role": "system", "content": instruction}, *turns]
