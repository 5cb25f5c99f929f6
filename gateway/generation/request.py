"""What a client asks for, in the gateway's own words; every protocol is translated into these."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal

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

    `request_id` is the name under which the client and the log know this request, `key` a digest of what the client
    proved itself with. `charge` is told how many tokens the request took, once it is over.
    """

    session: str = ""
    priority: Priority | None = None
    request_id: str = ""
    key: str = ""
    charge: Callable[[int], None] | None = field(default=None, compare=False)

    @property
    def own_session(self) -> str:
        """A name of the session that nobody with another key can take."""
        return f"{self.key} {self.session}"

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
    """A tool that an answer calls. `arguments` is JSON; a client may not send it back as it was generated."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Only assistants call tools and reason; `reasoning` is what a client sends back of it, which may be nothing. With
    role `tool`, `content` is what the call with `tool_call_id` returned.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    `parameters` is its JSON Schema as JSON, an object. Calls match it where a grammar can enforce that; of a `strict`
    tool, or where a call is asked for, a schema that none can is refused. `param` is the request's field with it.
    """

    name: str
    description: str = ""
    parameters: str = '{"type": "object"}'
    strict: bool = False
    param: str = field(default="tools", compare=False)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether an answer may, must or must not call tools; if it must and there are `names`, then one of these."""

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Thinking:
    """What is wished of the reasoning before an answer; None leaves it to the model.

    `effort` is a word that the model's template knows, such as low, medium or high. After `budget_tokens` the reasoning
    is ended and the answer begins.
    """

    enabled: bool | None = None
    effort: str | None = None
    budget_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages for the model's chat template, to which the answer is the next turn.

    `begun` is the assistant's, behind the messages: words that the answer goes on with, and what it reasoned before
    them. `template_options` are variables of the template, by name. `param` is the request's field that holds the
    messages.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    thinking: Thinking = Thinking()
    begun: Message | None = None
    template_options: dict[str, Any] = field(default_factory=dict)
    param: str = field(default="messages", compare=False)


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text, or its token ids, to go on with as it is; with `echo` the answer begins with it."""

    text: str | tuple[int, ...]
    echo: bool = False


@dataclass(frozen=True, slots=True)
class FillIn:
    """A place in a text, to be filled in with the model's own fill-in-the-middle tokens."""

    prefix: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen from a model's logits.

    The order is: `logit_bias` is added, the three penalties are applied, then at temperature 0 the largest logit
    wins; else logits are divided by the temperature and `min_p`, `top_k` and `top_p` narrow the choice.

    `presence_penalty` and `frequency_penalty` look at generated tokens (OpenAI's formula), `repetition_penalty` at
    the prompt and generated tokens (https://arxiv.org/abs/1909.05858). `top_k` 0 means no limit. `stated` names the
    fields that the client gave a value; the others may be as the model's options say.
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
    stated: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A prompt to answer.

    `max_tokens` None means as many as the context leaves; `max_tokens_param` is its name in the request. `choices`
    answers are generated from the same prompt. `top_logprobs` None means no log-probabilities; a number asks for the
    chosen token's and that many alternatives'. With a `grammar` the answer behind its reasoning matches it, unless
    `max_tokens` cuts it short.
    """

    model: str
    prompt: Conversation | PlainText | FillIn
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    choices: int = 1
    top_logprobs: int | None = None
    grammar: Grammar | None = None
    origin: Origin = ANYONE
    max_tokens_param: str = field(default="max_tokens", compare=False)
