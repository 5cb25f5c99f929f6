"""Conversations in other forms, for chat templates that refuse the one that the client sent.

Agents send several messages of one role in a row, system messages anywhere, and text behind tool results. Templates
such as Gemma's and Mistral's want user and assistant to alternate. No form moves a text past another turn, and a
conversation that needs none stays as it is: so one that grows begins with what it was, also if it needs a form only
from now on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from gateway.chat.tool_prompt import Turn


@dataclass(frozen=True, slots=True)
class Form:
    """What is changed of a conversation.

    With `joined`, neighbours of one role become one turn. System turns behind the first `systems` are the user's, and
    with `text_in_results` so is what the user says behind tool results a part of the last of these. With `user_first`
    an empty turn of the user's stands before an assistant's that would be the first.
    """

    joined: bool = True
    systems: int | None = None
    text_in_results: bool = False
    user_first: bool = False

    def write(self, turns: Sequence[Turn]) -> list[Turn]:
        if not self.joined:
            return list(turns)
        written = _joined(turns)
        if self.systems is not None:
            kept, others = written[: self.systems], written[self.systems :]
            written = _joined([*kept, *({**turn, "role": _without_system(turn["role"])} for turn in others)])
        if self.user_first and _begins_with_assistant([turn["role"] for turn in written]):
            system = written[0]["role"] == "system"
            written.insert(int(system), {"role": "user", "content": ""})
        return _with_text_in_results(written) if self.text_in_results else written


AS_SENT = Form(joined=False)

FORMS = (
    AS_SENT,
    *(
        Form(systems=systems, text_in_results=text_in_results, user_first=user_first)
        for user_first in (False, True)
        for systems, text_in_results in ((None, False), (1, False), (0, False), (1, True), (0, True))
    ),
)
"""From the least change to the largest."""


def is_even(turns: Sequence[Turn]) -> bool:
    """Whether user and assistant alternate, behind a system turn at most and with tool results in between."""
    roles = [turn["role"] for turn in turns]
    if _begins_with_assistant(roles):
        return False
    return "system" not in roles[1:] and not any(
        (one == other != "tool") or (one, other) == ("tool", "user") for one, other in pairwise(roles)
    )


def _begins_with_assistant(roles: Sequence[str]) -> bool:
    return next((role for role in roles[:2] if role != "system"), "") == "assistant"


def _joined(turns: Sequence[Turn]) -> list[Turn]:
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1]["role"] == turn["role"] != "tool":
            joined[-1] = _both(joined[-1], turn)
        else:
            joined.append(turn)
    return joined


def _both(one: Turn, other: Turn) -> Turn:
    both = {**one, **other, "content": _text(one["content"], other["content"])}
    if reasoning := _text(one.get("reasoning_content", ""), other.get("reasoning_content", "")):
        both["reasoning_content"] = reasoning
    if calls := [*one.get("tool_calls", ()), *other.get("tool_calls", ())]:
        both["tool_calls"] = calls
    return both


def _with_text_in_results(turns: Sequence[Turn]) -> list[Turn]:
    written: list[Turn] = []
    for turn in turns:
        if written and (written[-1]["role"], turn["role"]) == ("tool", "user"):
            written[-1] = {**written[-1], "content": _text(written[-1]["content"], turn["content"])}
        else:
            written.append(turn)
    return written


def _without_system(role: str) -> str:
    return "user" if role == "system" else role


def _text(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)
