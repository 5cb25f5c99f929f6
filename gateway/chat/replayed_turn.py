"""What an answer keeps when a client sends it back as a turn of the conversation, and what makes it another answer.

Measured of agents: they write tool arguments anew (spaces gone, `1.0` as `1`, `\\u00e9` as `é`), they drop, trim or
repeat the reasoning, and some drop the text beside tool calls. All else is a change that the client wants to be seen.
"""

import json
from hashlib import blake2b

from gateway.chat.marks_in_text import first_mark
from gateway.chat.reasoning import KNOWN_MARKS
from gateway.generation.request import Message, ToolCall

CLIENTS_MARKS = (("<thought>", "</thought>"), ("<reasoning>", "</reasoning>"))
"""That no model writes; clients put them around reasoning."""

OPENINGS = tuple(marks.opening for marks in KNOWN_MARKS) + tuple(opening for opening, _ in CLIENTS_MARKS)
CLOSINGS = tuple(marks.closing for marks in KNOWN_MARKS) + tuple(closing for _, closing in CLIENTS_MARKS)


def visible_text(content: str) -> str:
    """A turn's text without the reasoning that it begins with and without outer white space."""
    opening = next((mark for mark in OPENINGS if content.lstrip().startswith(mark)), None)
    closes = first_mark(content, CLOSINGS) if opening else None
    return _behind(content, closes) if closes else content.strip()


def visible_texts(content: str, *, reasoned: bool) -> tuple[str, ...]:
    """All that the text may be of a turn that replays an answer.

    The mark that opens the reasoning may be missing, for some templates write it into the prompt. Without it the text
    up to a closing mark is reasoning only if the answer had some: else it may be words about marks, which a client
    changed.
    """
    visible = visible_text(content)
    closes = first_mark(content, CLOSINGS) if reasoned else None
    return (visible, _behind(content, closes)) if closes and visible == content.strip() else (visible,)


def _behind(content: str, mark: tuple[int, str]) -> str:
    position, closing = mark
    return content[position + len(closing) :].strip()


def text_digest(content: str) -> bytes:
    """Of an answer's text."""
    return _digest(visible_text(content))


def replayed_digests(content: str, *, reasoned: bool) -> tuple[bytes, ...]:
    """One of them is the answer's `text_digest` if the content replays it."""
    return tuple(map(_digest, visible_texts(content, reasoned=reasoned)))


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


def replays(message: Message, text: bytes, calls: bytes, *, reasoned: bool) -> bool:
    """Whether the turn is the answer whose digests are given, in a client's words; `reasoned` if it had reasoning."""
    if calls_digest(message.tool_calls) != calls:
        return False
    if text in replayed_digests(message.content, reasoned=reasoned):
        return True
    return bool(message.tool_calls) and "" in visible_texts(message.content, reasoned=reasoned)


def _double(number: str) -> float:
    return float(number) + 0.0  # no negative zero, which JavaScript writes as 0


def _digest(text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
