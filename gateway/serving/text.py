"""The story of one text request, from top to bottom."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import msgspec

from gateway.chat.answer import Answer
from gateway.chat.answer_grammar import answer_shape
from gateway.chat.answer_memory import AnswerMemory
from gateway.chat.argument_defaults import without_defaults
from gateway.chat.detokenizer import Detokenizer, decoded
from gateway.chat.output_format import PLAIN, output_format
from gateway.chat.prompt import Prompt, PromptBuilder
from gateway.chat.token_texts import TokenTexts
from gateway.config import EngineConfig, ModelConfig, SamplingDefaults
from gateway.engine.constraint import CompiledGrammar
from gateway.engine.token_stream import TokenRequest, TokenStream
from gateway.errors import ContextLengthExceeded, GatewayError, InvalidRequest
from gateway.generation.events import Admitted, ChoiceFinished, ChosenLogprob, Event, Finished, TextDelta, Waiting
from gateway.generation.grammar import Shape
from gateway.generation.request import Conversation, FillIn, PlainText, Priority, Sampling, TextRequest
from gateway.model_pool.lease import Lease
from gateway.model_pool.pool import ModelPool
from gateway.model_pool.served_model import TextModel
from gateway.observability.metrics import Metrics
from gateway.observability.request_clock import RequestClock
from gateway.observability.request_record import current_record
from gateway.serving.reuse_log import ReuseLog
from gateway.serving.running_requests import RunningRequest, RunningRequests

SEED_BITS = 63


class TextServing:
    """Serves text requests with the pool's models. Belongs to the event loop."""

    def __init__(
        self,
        pool: ModelPool,
        metrics: Metrics,
        config: EngineConfig,
        reuse_log: ReuseLog,
        running: RunningRequests,
        tokenizing: Executor,
    ) -> None:
        """`tokenizing` are the threads that make prompts."""
        self._pool = pool
        self._tokenizing = tokenizing
        self._reuse_log = reuse_log
        self._running = running
        self._metrics = metrics
        self._config = config
        self._answers = AnswerMemory()
        # Of their own, so that grammars that take long to refuse delay other grammars only.
        self._compiling = ThreadPoolExecutor(1, "grammars")

    def close(self) -> None:
        """Forgets the grammars that wait to be compiled."""
        self._compiling.shutdown(wait=False, cancel_futures=True)

    async def generate(self, request: TextRequest) -> AsyncGenerator[Event, None]:
        """The events of one request; closing the generator at any point cancels it.

        Raises a `GatewayError` before `Admitted` when the request is refused, after it when it fails.
        """
        with self._running.follow(request) as running:
            async with aclosing(self._followed(request, running)) as events:
                async for event in events:
                    yield event

    async def _followed(self, request: TextRequest, running: RunningRequest) -> AsyncGenerator[Event, None]:
        current_record().asks(request.model)
        started = time.perf_counter()
        lease: Lease | None = None
        try:
            try:
                async for why in self._pool.news(request.model):
                    running.loading()
                    yield Waiting(why)
                model = await self._pool.text_model(request.model)
                prompt = await self._prompt(request, model)
                if len(prompt.ids) >= model.context_tokens:
                    raise ContextLengthExceeded(len(prompt.ids), model.context_tokens, _prompt_field(request))
                answers = _new_answers(request, prompt, model)
                grammar = await self._compiled(request, prompt, model)
                lease = self._pool.lease(request.model)
                async for why in lease.news():
                    running.loading()
                    yield Waiting(why)
                self._pool.check_same(request.model, model)
                options = self._pool.find_here(request.model).options
                asked = self._token_request(request, prompt, grammar, model, options)
                running.go_on()
                running.prompt_tokens = len(prompt.ids)
                running.priority = asked.priority
                stream = model.engine.submit(asked)
            except GatewayError as error:
                self._metrics.refused_requests.labels(type(error).__name__).inc()
                raise
            clock = RequestClock(model.metrics, started, asked.priority, request.choices)
            running.submitted(stream, clock)
            async with aclosing(self._generated(request, prompt, answers, model, stream, clock)) as events:
                async for event in events:
                    yield event
        finally:
            if lease:
                lease.give_back()

    async def _generated(
        self,
        request: TextRequest,
        prompt: Prompt,
        answers: Sequence[Answer],
        model: TextModel,
        stream: TokenStream,
        clock: RequestClock,
    ) -> AsyncGenerator[Event, None]:
        """From the place in the engine's queue to the end."""
        try:
            model.metrics.requests.prompt_tokens.inc(len(prompt.ids))
            yield Admitted(len(prompt.ids))
            if echoed := await _echoed(request, model):
                logprobs = await _prompt_logprobs(request, prompt, echoed, model, stream)
                for choice in range(request.choices):
                    yield TextDelta(choice, echoed, logprobs)
            async for event in _events(answers, model, stream, clock):
                yield event
            self._remember(request, prompt, answers, model)
            clock.finished(len(prompt.ids), stream.began)
            yield Finished(
                len(prompt.ids),
                clock.tokens,
                stream.reuse.tokens if stream.reuse else 0,
                sum(answer.reasoning_tokens for answer in answers),
            )
        except Exception:
            clock.unfinished("failed")
            raise
        finally:
            stream.cancel()
            clock.unfinished("cancelled")
            if request.origin.charge:
                request.origin.charge(len(prompt.ids) + clock.tokens)
            record = current_record()
            record.began(stream.began)
            record.used(len(prompt.ids), clock.tokens, stream.reuse.tokens if stream.reuse else 0)
            if stream.reuse:
                encoder = model.tokenizer.backend_tokenizer
                self._reuse_log.note(request.origin, request.model, stream.reuse, encoder, model.metrics)

    async def count_tokens(self, request: TextRequest) -> int:
        """How many the request's prompt would have now. Raises a `GatewayError` as `generate` would for the prompt."""
        model = await self._pool.text_model(request.model)
        return len((await self._prompt(request, model)).ids)

    async def _prompt(self, request: TextRequest, model: TextModel) -> Prompt:
        """In tokens, with the answers given before as they were generated wherever the client replays them."""
        output = output_format(model.template)
        builder = PromptBuilder(model.tokenizer, model.text_limit, self._tokenizing, output)
        match request.prompt:
            case Conversation() as conversation:
                recalled = self._answers.recall(_memory_name(model), request.origin.own_session, conversation.messages)
                with_ends = model.engine.resumes_at_stops
                prompt = await builder.compose(conversation, recalled, with_message_ends=with_ends)
                if recalled and len(prompt.ids) >= model.context_tokens:
                    # Reasoning that the template leaves out was put back with them.
                    prompt = await builder.compose(conversation, with_message_ends=with_ends)
                return prompt
            case PlainText(text):
                return await builder.encode(text) if isinstance(text, str) else Prompt(list(text))
            case FillIn() as gap:
                return await builder.fill_in(gap)

    def _remember(self, request: TextRequest, prompt: Prompt, answers: Sequence[Answer], model: TextModel) -> None:
        """What the model said in full, so that a client that sends it back in other words meets what was computed."""
        if not isinstance(request.prompt, Conversation):
            return
        begun = request.prompt.begun.content if request.prompt.begun else ""
        for answer in answers:
            if answer.ended_by_model:
                self._answers.remember(
                    _memory_name(model),
                    request.origin.own_session,
                    request.prompt.messages,
                    prompt.place,
                    [*prompt.begun, *answer.ids],
                    begun + answer.text,
                    without_defaults(answer.calls, request.prompt.tools),
                    reasoned=answer.reasoning_tokens > 0,
                )

    def _token_request(
        self,
        request: TextRequest,
        prompt: Prompt,
        grammar: CompiledGrammar | None,
        model: TextModel,
        options: ModelConfig,
    ) -> TokenRequest:
        """Checks the request against the model's limits and puts it into tokens; its prompt leaves room to answer."""
        room = model.context_tokens - len(prompt.ids)
        if request.choices > model.engine.max_choices:
            raise InvalidRequest(
                f"n is {request.choices}, but this server runs at most {model.engine.max_choices} choices at once.",
                param="n",
            )
        first_seed = request.sampling.seed if request.sampling.seed is not None else secrets.randbits(SEED_BITS)
        token_request = TokenRequest(
            prompt=prompt.ids,
            max_tokens=min(room, request.max_tokens or room),
            expected_tokens=self._config.expected_answer_tokens,
            sampling=_with_defaults(request.sampling, options.sampling),
            seeds=tuple(first_seed + choice for choice in range(request.choices)),
            end_tokens=model.end_tokens | prompt.end_tokens,
            top_logprobs=request.top_logprobs,
            grammar=grammar,
            priority=self._priority(request, options),
            session=request.origin.session,
            message_ends=prompt.message_ends,
            prompt_field=_prompt_field(request),
            answer_field=request.max_tokens_param,
            adapter=model.adapter,
            score_prompt=_scores_prompt(request),
        )
        token_request.check_tokens(model.vocabulary)
        return token_request

    async def _compiled(self, request: TextRequest, prompt: Prompt, model: TextModel) -> CompiledGrammar | None:
        """What the answer must look like, for this model; off the event loop: it may take a second.

        What is known does not wait for what others have to compile.
        """
        shape, known = await asyncio.to_thread(_shape, request, prompt, model)
        if shape is None or known:
            return known
        param = request.grammar.param if request.grammar else "tools"
        compiling = partial(model.grammars.compile, shape, param)
        return await asyncio.get_running_loop().run_in_executor(self._compiling, compiling)

    def _priority(self, request: TextRequest, options: ModelConfig) -> Priority:
        """As wished, or as the model's options say; else an answer that is short or fills a gap is one that somebody
        waits for at the keyboard."""
        if request.origin.priority is not None:
            return request.origin.priority
        if options.priority:
            return Priority[options.priority.upper()]
        if isinstance(request.prompt, FillIn):
            return Priority.INTERACTIVE
        short = request.max_tokens is not None and request.max_tokens <= self._config.interactive_tokens
        return Priority.INTERACTIVE if short else Priority.NORMAL


def _with_defaults(asked: Sampling, defaults: SamplingDefaults) -> Sampling:
    """What the request leaves open is as the model's options say."""
    open_ones = {
        name: value
        for name, value in msgspec.structs.asdict(defaults).items()
        if value is not None and name not in asked.stated
    }
    return replace(asked, **open_ones)


def _memory_name(model: TextModel) -> str:
    """The name under which answers are remembered: ids mean something to the tokenizer that made them."""
    return model.fingerprint.hex()


def _shape(request: TextRequest, prompt: Prompt, model: TextModel) -> tuple[Shape | None, CompiledGrammar | None]:
    """What the answer must look like, and that compiled if it is known. Any thread; many tools take 0.1 s."""
    shape: Shape | None = request.grammar
    if isinstance(request.prompt, Conversation):
        shape = answer_shape(output_format(model.template), request.prompt, request.grammar, prompt.end)
    return shape, model.grammars.known(shape) if shape else None


def _prompt_field(request: TextRequest) -> str:
    return request.prompt.param if isinstance(request.prompt, Conversation) else "prompt"


async def _echoed(request: TextRequest, model: TextModel) -> str:
    """The prompt, if the answer shall begin with it."""
    match request.prompt:
        case PlainText(str() as text, echo=True):
            return text
        case PlainText(tuple() as ids, echo=True):
            return await decoded(model.tokenizer.backend_tokenizer, ids)
    return ""


def _scores_prompt(request: TextRequest) -> bool:
    return request.top_logprobs is not None and isinstance(request.prompt, PlainText) and request.prompt.echo


async def _prompt_logprobs(
    request: TextRequest, prompt: Prompt, echoed: str, model: TextModel, stream: TokenStream
) -> tuple[ChosenLogprob, ...]:
    """Those of the echoed text's tokens, once the prompt is computed. On another thread: there may be very many."""
    if not _scores_prompt(request):
        return ()
    scores = await stream.prompt_scores()
    texts = TokenTexts(model.tokenizer.backend_tokenizer)
    return await asyncio.to_thread(lambda: tuple(texts.of_prompt(prompt.ids, scores, echoed)))


def _new_answers(request: TextRequest, prompt: Prompt, model: TextModel) -> list[Answer]:
    tokenizer = model.tokenizer.backend_tokenizer
    conversation = request.prompt if isinstance(request.prompt, Conversation) else None
    output = output_format(model.template) if conversation else PLAIN
    tools = conversation.tools if conversation and conversation.tool_choice.mode != "none" else ()
    texts = TokenTexts(tokenizer)
    return [
        Answer(
            index,
            Detokenizer(tokenizer, output.special_tokens),
            texts,
            request.stop,
            output.parser(
                tools,
                prompt.end,
                parallel=conversation is None or conversation.parallel_tool_calls,
                begun=conversation.begun.content if conversation and conversation.begun else None,
            ),
        )
        for index in range(request.choices)
    ]


async def _events(
    answers: Sequence[Answer], model: TextModel, stream: TokenStream, clock: RequestClock
) -> AsyncGenerator[Event, None]:
    """Deltas and ends of all choices, as their tokens arrive."""
    unfinished = set(range(len(answers)))
    while unfinished and (tokens := await stream.read()):
        clock.tokens_arrived()
        current_record().token_came()
        for token in tokens:
            if answers[token.choice].finish_reason is None:  # else a stop string ended it
                answers[token.choice].feed(token)
                clock.generated_token()
        for index in sorted(unfinished):
            for delta in answers[index].take():
                yield delta
            if reason := answers[index].finish_reason:
                unfinished.discard(index)
                stream.stop(index)
                current_record().finish_reason = reason
                model.metrics.requests.choice_ended(reason)
                yield ChoiceFinished(index, reason, answers[index].stop_string)
