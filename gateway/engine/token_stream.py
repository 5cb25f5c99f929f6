"""The border between the MLX thread and the event loop, in tokens.

`TokenRequest` goes down, `StepReport` comes up once per engine step, and `TokenStream` is one request's end of it. A
`TokenStream` belongs to the event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.errors import GatewayError, InvalidRequest
from gateway.generation.adapter import BASE
from gateway.generation.events import FinishReason
from gateway.generation.request import Priority, Sampling
from gateway.observability.engine_state import EngineState
from gateway.prefix_cache.reuse import Reuse

if TYPE_CHECKING:
    from gateway.engine.constraint import CompiledGrammar


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A prompt to continue `len(seeds)` times.

    `prompt` holds at least one token id, and `len(prompt) + max_tokens` fits the model's context. Generation ends with
    one of `end_tokens` (reason `stop`) or after `max_tokens` (reason `length`). Memory is set aside for
    `expected_tokens` of each answer (None: all of them); one that grows longer may have to wait for its neighbours.
    `message_ends` are places in the prompt from which a later one may go on otherwise: where its last messages end.
    `prompt_field` is what the client calls the prompt, `answer_field` what it calls `max_tokens`. `adapter` is one that
    was loaded with the model. `score_prompt`: log-probabilities are wanted of the prompt's tokens too; all of it is
    computed for that.
    """

    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    seeds: tuple[int, ...]
    end_tokens: frozenset[int]
    top_logprobs: int | None = None
    grammar: "CompiledGrammar | None" = None
    priority: Priority = Priority.NORMAL
    session: str = ""
    expected_tokens: int | None = None
    message_ends: tuple[int, ...] = ()
    prompt_field: str = "messages"
    answer_field: str = "max_tokens"
    adapter: str = BASE
    score_prompt: bool = False

    @property
    def reserved_tokens(self) -> int:
        """Of each answer, for which memory is set aside before it starts."""
        return self.max_tokens if self.expected_tokens is None else min(self.expected_tokens, self.max_tokens)

    def check_tokens(self, vocabulary: int) -> None:
        """Raises `InvalidRequest` for an empty prompt and for ids not below `vocabulary`.

        A tokenizer may have more tokens than its model, and mlx does not check indices: it would read foreign memory.
        """
        if not self.prompt:
            raise InvalidRequest(f"There are no tokens in {self.prompt_field}; write something.", self.prompt_field)
        for field_name, tokens in ((self.prompt_field, self.prompt), ("logit_bias", self.sampling.logit_bias)):
            if (largest := max(tokens, default=0)) >= vocabulary:
                raise InvalidRequest(
                    f"{field_name} holds token {largest}, but this model's tokens are 0 to {vocabulary - 1}.",
                    field_name,
                )


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Natural-log probabilities under the model, before sampling settings: the chosen token's and `top`'s
    (likeliest first)."""

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One token of one choice. The last one has a `finish`; with `stop` it is an end token and carries no text."""

    choice: int
    token: int
    scores: TokenScores | None = None
    finish: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Starving:
    """A request for which so many bytes must be free."""

    ticket: int
    wanted_bytes: int


@dataclass(slots=True)
class StepReport:
    """What one engine step did, and how the engine does after it.

    `closed` says why the engine takes no more requests; it is the last report. `starving` is a request that
    waits although nothing runs, and how many bytes must be free for it: other models hold them.
    """

    tokens: list[tuple[int, GeneratedToken]] = field(default_factory=list)
    failures: list[tuple[int, GatewayError]] = field(default_factory=list)
    reused: list[tuple[int, Reuse]] = field(default_factory=list)
    prompt_scores: list[tuple[int, Sequence[TokenScores]]] = field(default_factory=list)
    state: EngineState = field(default_factory=EngineState)
    closed: GatewayError | None = None
    starving: "Starving | None" = None


Cancel = Callable[[int, int | None], None]
"""Takes a ticket, and one of its choices or None for all."""


class TokenStream:
    """One request's tokens as they arrive; read by the request's task, fed by the engine on the same event loop."""

    def __init__(self, ticket: int, choices: int, cancel: Cancel) -> None:
        self.ticket = ticket
        self.choices = choices
        self.reuse: Reuse | None = None  # of its prompt, known when its computation begins
        self.began: float | None = None  # that moment, by `time.perf_counter()`
        self._prompt_scores: Sequence[TokenScores] | None = None
        self._unfinished = set(range(choices))
        self._cancel = cancel
        self._tokens: deque[GeneratedToken] = deque()
        self._error: GatewayError | None = None
        self._changed = asyncio.Event()

    @property
    def complete(self) -> bool:
        """Nothing more will arrive."""
        return not self._unfinished or self._error is not None

    def prompt_begins(self, reuse: Reuse) -> None:
        """Again after the request was put back into the queue: the first time counts."""
        if self.reuse is None:
            self.reuse, self.began = reuse, time.perf_counter()

    def feed(self, token: GeneratedToken) -> None:
        if token.choice not in self._unfinished:
            return  # on its way when the reader stopped it
        self._tokens.append(token)
        if token.finish:
            self._unfinished.discard(token.choice)
        self._changed.set()

    def prompt_scored(self, scores: Sequence[TokenScores]) -> None:
        self._prompt_scores = scores
        self._changed.set()

    def fail(self, error: GatewayError) -> None:
        self._error = error
        self._changed.set()

    async def prompt_scores(self) -> Sequence[TokenScores]:
        """Those of the prompt's tokens but the first, if the request asked for them. Raises what ended the request."""
        while self._prompt_scores is None:
            if self._error:
                raise self._error.with_traceback(None)
            self._changed.clear()
            await self._changed.wait()
        return self._prompt_scores

    async def read(self) -> list[GeneratedToken]:
        """All tokens that arrived since the last call, at least one; an empty list once every choice has finished.

        Raises the error that ended the request, after the tokens before it were read.
        """
        while not self._tokens:
            if self._error:
                raise self._error.with_traceback(None)  # perhaps shared: keep no other request's frames
            if not self._unfinished:
                return []
            self._changed.clear()
            await self._changed.wait()
        tokens = list(self._tokens)
        self._tokens.clear()
        return tokens

    def stop(self, choice: int) -> None:
        """The reader has all it wants of this choice: its row is freed, the others go on."""
        if choice in self._unfinished:
            self._unfinished.discard(choice)
            self._cancel(self.ticket, choice)

    def cancel(self) -> None:
        """The reader is gone: frees the rows before the next step. Harmless after the end."""
        self._cancel(self.ticket, None)
