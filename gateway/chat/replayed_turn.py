"""What an answer keeps when a client sends it back as a turn of the conversation, and what makes it another answer.

Measured of agents: they write tool arguments anew (spaces gone, `1.0` as `1`, `\\u00e9` as `é`), they drop, trim or
repeat the reasoning, and some drop the text beside tool calls. All else is a change that the client wants to be seen.
"""

import json
import re
from hashlib import blake2b

from gateway.generation.request import Message, ToolCall

THOUGHTS = r"(?:think|thinking|thought|reasoning|seed:think)"
REASONING_OPENS = re.compile(rf"<{THOUGHTS}>|\[THINK\]|◁think▷")
REASONING_CLOSES = re.compile(rf"</{THOUGHTS}>|\[/THINK\]|◁/think▷")


def visible_text(content: str) -> str:
    """A turn's text without the reasoning that it begins with and without outer white space.

    The mark that opens the reasoning may be missing: some templates write it into the prompt.
    """
    closes = REASONING_CLOSES.search(content)
    if closes is None:
        return content.strip()
    opens = REASONING_OPENS.search(content, 0, closes.start())
    if opens and content[: opens.start()].strip():
        return content.strip()  # the answer is about such marks
    return content[closes.end() :].strip()


def text_digest(content: str) -> bytes:
    """The same for all ways to replay a text."""
    return _digest(visible_text(content))


def call_digest(call: ToolCall) -> bytes:
    """The same for all ways to write a call's arguments: numbers are read as JavaScript does, all as doubles."""
    try:
        value = json.loads(call.arguments or "{}", parse_int=_double, parse_float=_double)
        arguments = json.dumps(value, sort_keys=True)
    except (ValueError, RecursionError):
        arguments = call.arguments  # no JSON: its letters are all there is to go by
    return _digest(json.dumps([call.id, call.name, arguments]))


def calls_digest(calls: tuple[ToolCall, ...]) -> bytes:
    """The same in whatever order the calls come; another if one is missing."""
    return blake2b(b"".join(sorted(map(call_digest, calls))), digest_size=16).digest()


def replays(message: Message, text: bytes, calls: bytes) -> bool:
    """Whether the turn is the answer whose digests are given, in a client's words."""
    if calls_digest(message.tool_calls) != calls:
        return False
    content = visible_text(message.content)
    return _digest(content) == text or (bool(message.tool_calls) and not content)


def _double(number: str) -> float:
    return float(number) + 0.0  # no negative zero, which JavaScript writes as 0


def _digest(text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
