"""What a client asks for, in the gateway's own words; every protocol is translated into these."""

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]

LONGEST_SESSION_NAME = 256
"""Characters of a session's name that count; clients choose it."""


class Priority(IntEnum):
    """Who goes first when not all can; within a class sessions share fairly."""

    INTERACTIVE = 0  # someone waits for a few tokens: autocomplete, titles
    NORMAL = 1
    BACKGROUND = 2


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks. `session` is what shares fairly with others; `priority` is None where nobody said one.

    `request_id` is the name under which the client and the log know this request.
    """

    session: str = ""
    priority: Priority | None = None
    request_id: str = ""

    def within(self, session: str) -> "Origin":
        """The same, in a session of that name within this one."""
        return replace(self, session=f"{self.session} {session[:LONGEST_SESSION_NAME]}")


ANYONE = Origin()


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the whole answer must match.

    `source` is the schema's JSON for `json_schema`, a regular expression for `regex`, a Lark grammar for `lark`, a JSON
    list of strings for `choice`, and empty for `json_object`. `param` is the request's field that asked for it.
    """

    kind: Literal["json_object", "json_schema", "regex", "lark", "choice"]
    source: str = ""
    param: str = field(default="response_format", compare=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that an answer calls. `arguments` is JSON as the client wrote it, which may not be as it was generated."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. Only assistants call tools; with role `tool`, `content` is what a call returned."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen from a model's logits.

    The order is: `logit_bias` is added, the three penalties are applied, then at temperature 0 the largest logit
    wins; else logits are divided by the temperature and `min_p`, `top_k` and `top_p` narrow the choice.

    `presence_penalty` and `frequency_penalty` look at generated tokens (OpenAI's formula), `repetition_penalty` at
    the prompt and generated tokens (https://arxiv.org/abs/1909.05858). `top_k` 0 means no limit.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A conversation to continue.

    `max_tokens` None means as many as the context leaves. `choices` answers are generated from the same prompt.
    `top_logprobs` None means no log-probabilities; a number asks for the chosen token's and that many alternatives'.
    With a `grammar` the whole answer matches it, unless `max_tokens` cuts it short.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    choices: int = 1
    top_logprobs: int | None = None
    grammar: Grammar | None = None
    origin: Origin = ANYONE
