"""From messages to token ids, with the model's own chat template."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from gateway.chat.answer_memory import Recalled
from gateway.chat.argument_defaults import without_defaults
from gateway.chat.chat_template import TEMPLATE_FAILURES, ChatTemplate, template_options, template_turn
from gateway.chat.fill_in import FillInEncoder, fill_in_marks
from gateway.chat.output_format import PLAIN, OutputFormat
from gateway.chat.splice import Marks, Place, common_length, misplaced, place_of, reopened
from gateway.chat.tool_prompt import Turn
from gateway.engine.text_limit import TextLimit
from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import Conversation, FillIn, Message

Result = TypeVar("Result")

FIRST_CHARACTERS = 256
"""Of a text, in which its first token is found; longer than tokens that are added to a vocabulary."""

END_CHARACTERS = 64
"""Of a prompt's text, which tell how its answer begins."""

MOST_ATTEMPTS = 4
"""To put answers back, each without those that the one before could not place; two are rare."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation in tokens, up to where the answer begins.

    A later prompt may go on otherwise from `message_ends`: where the last message begins and where it ends. `place` is
    where the answer begins, to remember the answer with; None if it could not be found again. `end` are the last
    characters of the text. The answer to this prompt also ends with one of `end_tokens`. The last of the `ids` are
    those of an answer that is `begun`, which are behind place and end.
    """

    ids: list[int]
    message_ends: tuple[int, ...] = ()
    place: Place | None = None
    end: str = ""
    end_tokens: frozenset[int] = frozenset()
    begun: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class _Draft:
    """A conversation as its template wrote it.

    `parts` are the text around the `answers`, one more than these; the last part is the end of `text`. The `turns` of
    the answers, and therefore `text`, have marks in their place.
    """

    turns: list[Turn]
    text: str
    parts: list[str]
    answers: list[Sequence[int]]


class PromptBuilder:
    """Renders and tokenises for one model; stateless, so any thread may use it.

    `tokenizer` is an mlx-lm `TokenizerWrapper`. Its template runs in jinja's sandbox. Ids come from the
    underlying `tokenizers` object, which unlike the wrapper keeps no settings between calls.

    Work is done on `threads`: a long prompt takes tens of milliseconds, and a template is a program of the model's
    maker. Texts beyond the `limit` are refused with `ContextLengthExceeded`.
    """

    def __init__(self, tokenizer: Any, limit: TextLimit, threads: Executor, output: OutputFormat = PLAIN) -> None:
        """`output` is how the model's answers are read: what an answer that a conversation begins must look like."""
        self._tokenizer = tokenizer
        self._output = output
        self._limit = limit
        self._threads = threads

    async def compose(
        self, conversation: Conversation, recalled: Recalled | None = None, *, with_message_ends: bool = False
    ) -> Prompt:
        """The prompt of the whole conversation, in which the turns that replay an answer of `recalled` are its ids.

        An answer is put back only where it was written, and only if the template writes a turn's content once, before
        a token of its own. Other turns are rendered as the client sent them. What a template leaves out stays out.

        Raises `InvalidRequest` with the template's own words when it refuses the conversation.
        """
        template = ChatTemplate(self._tokenizer, template_options(conversation))
        composer = _Composer(template, self._tokenizer.backend_tokenizer, self._limit, self._output)
        return await self._on_thread(lambda: composer.compose(conversation, recalled or {}, with_message_ends))

    async def encode(self, text: str, *, special: bool = True) -> Prompt:
        """The prompt of a text that is no conversation; `special` puts before it what the model's texts begin with."""
        self._limit.check([text], "prompt")
        encoder = self._tokenizer.backend_tokenizer
        encoded = await self._on_thread(lambda: encoder.encode_batch([text], add_special_tokens=special))
        return Prompt(encoded[0].ids, end=text[-END_CHARACTERS:])

    async def fill_in(self, gap: FillIn) -> Prompt:
        """The prompt of a gap. Raises `UnsupportedParameter` if the model has no marks for it."""
        if (marks := fill_in_marks(self._tokenizer.backend_tokenizer)) is None:
            raise UnsupportedParameter(
                "This model has no fill-in-the-middle tokens, so it cannot take a suffix; send the prompt alone or ask "
                "a model that was trained for it.",
                "suffix",
            )
        self._limit.check([gap.prefix, gap.suffix], "prompt")
        encoder = FillInEncoder(self._tokenizer.backend_tokenizer, marks)
        ids = await self._on_thread(lambda: encoder.encode(gap.prefix, gap.suffix))
        return Prompt(ids, end_tokens=encoder.ends)

    async def _on_thread(self, work: Callable[[], Result]) -> Result:
        """Work that nobody waits for any more does not begin."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class _Composer:
    """Composes one prompt."""

    def __init__(self, template: ChatTemplate, encoder: Any, limit: TextLimit, output: OutputFormat) -> None:
        self._template = template
        self._output = output
        self._encoder = encoder
        self._limit = limit

    def compose(self, conversation: Conversation, recalled: Recalled, with_message_ends: bool) -> Prompt:
        self._template = self._template.fitted([template_turn(message) for message in conversation.messages])
        draft = self._with_answers(conversation, recalled) or self._as_sent(conversation.messages)
        self._limit.check(draft.parts, conversation.param)
        ids = self._ids(draft)
        end = self._last_message_ends(draft)
        place = None if end is None else place_of(draft.parts[-1], draft.text[end:])
        text_end = draft.parts[-1][-END_CHARACTERS:]
        positions: set[int | None] = set()
        if with_message_ends:
            positions = {self._token_at(position, draft, ids) for position in (self._last_message_begins(draft), end)}
        begun = self._begun(conversation, text_end)
        message_ends = tuple(sorted(position for position in positions if position))
        return Prompt([*ids, *begun], message_ends, place, text_end, begun=begun)

    def _begun(self, conversation: Conversation, prompt_end: str) -> list[int]:
        """The tokens of the answer that are there already: as if the model had generated them, with what it would have
        written before its words."""
        if (begun := conversation.begun) is None:
            return []
        text = self._output.before_words(prompt_end, begun.reasoning) + begun.content
        self._limit.check([text], conversation.param)
        return self._encode([text])[0]

    def _as_sent(self, messages: Sequence[Message]) -> _Draft:
        turns = [template_turn(message) for message in messages]
        try:
            text = self._template.render(turns)
        except TEMPLATE_FAILURES as error:
            raise InvalidRequest(
                f"The model's chat template does not accept these messages: {error}", param="messages"
            ) from error
        return _Draft(turns, text, [text], [])

    def _with_answers(self, conversation: Conversation, recalled: Recalled) -> _Draft | None:
        """With those answers that can be put back; None without any."""
        messages = conversation.messages
        answers = {}
        for number, answer in recalled.items():
            calls = without_defaults(messages[number].tool_calls, conversation.tools)
            if answer.is_replayed_by(replace(messages[number], tool_calls=calls)):
                answers[number] = answer
        for _ in range(MOST_ATTEMPTS):
            if not answers:
                return None
            draft = self._spliced(messages, answers)
            if isinstance(draft, _Draft):
                return draft
            answers = {number: answer for number, answer in answers.items() if number not in draft}
        return None

    def _spliced(self, messages: Sequence[Message], answers: Recalled) -> _Draft | set[int]:
        """With all the answers in their places, or the numbers of those that cannot be put there."""
        marks = Marks()
        turns = [
            {"role": message.role, "content": marks.mark(number)} if number in answers else template_turn(message)
            for number, message in enumerate(messages)
        ]
        try:
            text = self._template.render(turns)
        except TEMPLATE_FAILURES:
            # Some take a tool's answer only behind a turn that calls it.
            calling = {number for number in answers if messages[number].tool_calls}
            return calling or set(answers)
        parts, numbers = marks.cut(text)
        if wrong := misplaced(numbers, answers):
            return wrong
        wrong = set(numbers) - {numbers[index] for index in self._beginning_anew(parts[1:])}
        for index, number in enumerate(numbers):
            if index and numbers[index - 1] in wrong:
                continue  # the text before it will be another
            if (part := reopened(parts[index], answers[number].place)) is None:
                wrong.add(number)
            else:
                parts[index] = part
        return wrong or _Draft(turns, text, parts, [answers[number].ids for number in numbers])

    def _beginning_anew(self, parts: Sequence[str]) -> list[int]:
        """Which of these texts have the same tokens whatever stands before: they begin with one that was added to the
        vocabulary, which tokenizers look for before all else."""
        added = self._encoder.get_added_tokens_decoder()
        firsts = self._encode([part[:FIRST_CHARACTERS] for part in parts])
        return [index for index, ids in enumerate(firsts) if ids and ids[0] in added]

    def _last_message_begins(self, draft: _Draft) -> int | None:
        """Where in the text; if the template does not show that, where its content begins."""
        *others, last = draft.turns
        try:
            if others and draft.text.startswith(shorter := self._template.render(others, answer_follows=False)):
                return len(shorter)
        except TEMPLATE_FAILURES:
            pass  # it does not take a conversation that ends there
        try:
            return common_length(draft.text, self._template.render([*others, {**last, "content": Marks().mark(0)}]))
        except TEMPLATE_FAILURES:
            return None

    def _last_message_ends(self, draft: _Draft) -> int | None:
        """Where in the text the generation prompt begins."""
        try:
            return common_length(draft.text, self._template.render(draft.turns, answer_follows=False))
        except TEMPLATE_FAILURES:
            return None  # it takes no conversation without an answer to come

    def _token_at(self, position: int | None, draft: _Draft, ids: Sequence[int]) -> int | None:
        """How many of the `ids` stand before a position in the text; None if a token, or an answer, reaches over it."""
        length = 0 if position is None else len(draft.text) - position
        if not 0 < length <= len(draft.parts[-1]):
            return None
        rest = self._encode([draft.parts[-1][-length:]])[0]
        return len(ids) - len(rest) if list(ids[-len(rest) :]) == rest else None

    def _ids(self, draft: _Draft) -> list[int]:
        first, *others = self._encode(draft.parts)
        for answer, part in zip(draft.answers, others, strict=True):
            first += [*answer, *part]
        return first

    def _encode(self, texts: list[str]) -> list[list[int]]:
        # In batches of one: `encode` holds the GIL throughout, which would stop every stream for seconds per megabyte,
        # and in a larger batch a tokenizer may be set to pad the shorter ones.
        return [self._encoder.encode_batch([text], add_special_tokens=False)[0].ids for text in texts]
