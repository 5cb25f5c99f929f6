"""Why a prompt was not taken from the cache as far as it might have been, for people. Pure text, no mlx.

Agents send the same growing prompt again and again, so what is computed twice has a cause, mostly in the client. It is
guessed from the text on both sides of the place where the prompt departs from what is cached.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from gateway.prefix_cache.departure import changed_value, reasoning_missing, tools_differ

ANSWER_END_TOKENS = 8
"""The end of an answer, its end-of-turn tokens, comes back in other tokens or not at all."""

FEW_TOKENS = 32
"""Prompts that share no more than this begin alike by their template only."""

EXCERPT_CHARACTERS = 30


class MissCause(StrEnum):
    NONE = "none"
    NEW_CONTENT = "new_content"
    FIRST_REQUEST = "first_request"
    OTHER_MODEL = "other_model"
    EVICTED = "evicted"
    NO_CHECKPOINT = "no_checkpoint"
    DATE_OR_TIME = "date_or_time"
    TOOLS_CHANGED = "tools_changed"
    REASONING_STRIPPED = "reasoning_stripped"
    HISTORY_EDITED = "history_edited"


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is known of a prompt's way through the cache. Texts are around the place where it departs.

    - `matched` of its tokens were known, `restored` were reused, from `prompt_tokens`;
    - `evicted`: what comes next in it had been held;
    - `empty`: nothing is cached of this model; `other_model`: the session used another one before;
    - `previous`: tokens of the session's last request to this model and its answer, None if this is its first;
    - `before`: the text up to that place; `prompt`: how the prompt goes on; `cached`: how something cached goes on, ""
      if nothing does, and `own` if that is the same session's.
    """

    prompt_tokens: int
    matched: int
    restored: int
    evicted: bool = False
    empty: bool = False
    other_model: bool = False
    previous: int | None = None
    before: str = ""
    prompt: str = ""
    cached: str = ""
    own: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """`sentence` quotes the prompt: it is for who may read that, and not for logs."""

    cause: MissCause
    sentence: str


def explain(lookup: Lookup) -> Explanation:
    cause, why = _cause(lookup)
    reused = f"{lookup.restored:,} of {lookup.prompt_tokens:,} prompt tokens were reused."
    short = lookup.matched - lookup.restored
    if short and cause not in (MissCause.EVICTED, MissCause.NO_CHECKPOINT, MissCause.NONE):
        why += f" {short:,} more were known, but the last place that this model can go on from is before them."
    return Explanation(cause, f"{reused} {why}")


def _cause(lookup: Lookup) -> tuple[MissCause, str]:
    last = lookup.prompt_tokens - 1  # it is computed in any case
    first_request = (
        (MissCause.OTHER_MODEL, "The session used another model before; each has its own cache.")
        if lookup.other_model
        else (MissCause.FIRST_REQUEST, "It is the session's first request to this model.")
    )
    if lookup.restored >= last:
        return MissCause.NONE, "What is left is computed in any case."
    if lookup.evicted:
        return MissCause.EVICTED, "What comes next had been cached, but had to make room for others."
    if lookup.matched >= last:
        return MissCause.NO_CHECKPOINT, "All is known, but this model can only go on from certain places."
    if lookup.empty:
        return first_request
    if lookup.previous is not None and lookup.matched + ANSWER_END_TOKENS >= lookup.previous:
        return MissCause.NEW_CONTENT, "The prompt goes on where the session's last one ended."
    if lookup.cached and (found := _cause_in_text(lookup)):
        return found
    if lookup.previous is None:
        return first_request
    if lookup.matched <= FEW_TOKENS:
        return MissCause.FIRST_REQUEST, "The session begins another conversation."
    if not (lookup.cached and lookup.own):
        return MissCause.EVICTED, "What the session had sent next is no longer known."
    return MissCause.HISTORY_EDITED, f"The client changed what it had sent: {_departure(lookup)}."


def _cause_in_text(lookup: Lookup) -> tuple[MissCause, str] | None:
    before, prompt, cached = lookup.before, lookup.prompt, lookup.cached
    if kind := changed_value(before, prompt, cached):
        return MissCause.DATE_OR_TIME, f"{kind} changed: {_departure(lookup)}."
    if tools_differ(before, prompt, cached):
        return MissCause.TOOLS_CHANGED, f"The list of tools changed: {_departure(lookup)}."
    if reasoning_missing(before, prompt, cached):
        return MissCause.REASONING_STRIPPED, f"The client left out what the model had thought: {_departure(lookup)}."
    return None


def _departure(lookup: Lookup) -> str:
    before = _one_line(lookup.before)[-EXCERPT_CHARACTERS:]
    cached, prompt = (_one_line(text)[:EXCERPT_CHARACTERS] for text in (lookup.cached, lookup.prompt))
    return f"after {lookup.matched:,} tokens, at “{before}”, “{cached}” became “{prompt}”"


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)
