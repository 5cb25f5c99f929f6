"""The story of one text request, from top to bottom."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from gateway.chat.answer import Answer
from gateway.chat.prompt import Prompt, PromptBuilder
from gateway.config import EngineConfig
from gateway.engine.constraint import CompiledGrammar
from gateway.engine.token_stream import TokenRequest, TokenStream
from gateway.errors import ContextLengthExceeded, GatewayError, InvalidRequest
from gateway.generation.events import Admitted, ChoiceFinished, Event, Finished
from gateway.generation.request import Priority, TextRequest
from gateway.model_pool.pool import ModelPool
from gateway.model_pool.resident_model import TextModel
from gateway.observability.metrics import Metrics
from gateway.observability.request_clock import RequestClock
from gateway.serving.reuse_log import ReuseLog

SEED_BITS = 63


class TextServing:
    """Serves text requests with the pool's models. Belongs to the event loop."""

    def __init__(self, pool: ModelPool, metrics: Metrics, config: EngineConfig, reuse_log: ReuseLog) -> None:
        self._pool = pool
        self._reuse_log = reuse_log
        self._metrics = metrics
        self._config = config
        # Of their own, so that grammars that take long to refuse delay other grammars only.
        self._compiling = ThreadPoolExecutor(1, "grammars")

    def close(self) -> None:
        """Forgets the grammars that wait to be compiled."""
        self._compiling.shutdown(wait=False, cancel_futures=True)

    async def generate(self, request: TextRequest) -> AsyncGenerator[Event, None]:
        """The events of one request; closing the generator at any point cancels it.

        Raises a `GatewayError` before `Admitted` when the request is refused, after it when it fails.
        """
        started = time.perf_counter()
        try:
            model = await self._pool.text_model(request.model)
            builder = PromptBuilder(model.tokenizer)
            composed = await builder.compose(request.messages, with_message_ends=model.engine.resumes_at_stops)
            prompt = composed.ids
            grammar = await self._compiled(request, model)
            stream = model.engine.submit(self._token_request(request, composed, grammar, model))
        except GatewayError as error:
            self._metrics.refused_requests.labels(type(error).__name__).inc()
            raise
        model.metrics.prompt_tokens.inc(len(prompt))
        clock = RequestClock(model.metrics, started)
        try:
            yield Admitted(len(prompt))
            async for event in _answer(request, model, stream, clock):
                yield event
            clock.finished()
            yield Finished(len(prompt), clock.tokens, stream.reuse.tokens if stream.reuse else 0)
        except Exception:
            clock.unfinished("failed")
            raise
        finally:
            stream.cancel()
            clock.unfinished("cancelled")
            if stream.reuse:
                encoder = model.tokenizer.backend_tokenizer
                self._reuse_log.note(request.origin, request.model, stream.reuse, encoder, model.metrics)

    def _token_request(
        self,
        request: TextRequest,
        composed: Prompt,
        grammar: CompiledGrammar | None,
        model: TextModel,
    ) -> TokenRequest:
        """Checks the request against the model's limits and puts it into tokens."""
        prompt = composed.ids
        room = model.context_tokens - len(prompt)
        if room < 1:
            raise ContextLengthExceeded(len(prompt), model.context_tokens)
        if request.choices > model.engine.max_choices:
            raise InvalidRequest(
                f"n is {request.choices}, but this server runs at most {model.engine.max_choices} choices at once.",
                param="n",
            )
        first_seed = request.sampling.seed if request.sampling.seed is not None else secrets.randbits(SEED_BITS)
        token_request = TokenRequest(
            prompt=prompt,
            max_tokens=min(room, request.max_tokens or room),
            expected_tokens=None if request.max_tokens else self._config.expected_answer_tokens,
            sampling=request.sampling,
            seeds=tuple(first_seed + choice for choice in range(request.choices)),
            end_tokens=model.end_tokens,
            top_logprobs=request.top_logprobs,
            grammar=grammar,
            priority=self._priority(request),
            session=request.origin.session,
            message_ends=composed.message_ends,
        )
        token_request.check_tokens(model.vocabulary)
        return token_request

    async def _compiled(self, request: TextRequest, model: TextModel) -> CompiledGrammar | None:
        """The request's grammar for this model, off the event loop: it may take a second."""
        if request.grammar is None:
            return None
        compiling = partial(model.grammars.compile, request.grammar, request.grammar.param)
        return await asyncio.get_running_loop().run_in_executor(self._compiling, compiling)

    def _priority(self, request: TextRequest) -> Priority:
        """As wished; else a short answer is one that somebody waits for."""
        if request.origin.priority is not None:
            return request.origin.priority
        short = request.max_tokens is not None and request.max_tokens <= self._config.interactive_tokens
        return Priority.INTERACTIVE if short else Priority.NORMAL


async def _answer(
    request: TextRequest, model: TextModel, stream: TokenStream, clock: RequestClock
) -> AsyncGenerator[Event, None]:
    """Text and ends of all choices, as their tokens arrive."""
    answers = [Answer(index, model.tokenizer.backend_tokenizer, request.stop) for index in range(request.choices)]
    unfinished = set(range(request.choices))
    while unfinished and (tokens := await stream.read()):
        clock.tokens_arrived()
        for token in tokens:
            if answers[token.choice].finish_reason is None:  # else a stop string ended it
                answers[token.choice].feed(token)
                clock.generated_token()
        for index in sorted(unfinished):
            delta = answers[index].take()
            if delta.text or delta.logprobs:
                yield delta
            if reason := answers[index].finish_reason:
                unfinished.discard(index)
                stream.stop(index)
                model.metrics.choice_ended(reason)
                yield ChoiceFinished(index, reason)
