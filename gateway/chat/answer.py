"""One answer on its way from tokens to what a client reads."""

import json
import secrets
from collections import deque
from collections.abc import Callable

from gateway.chat.detokenizer import Detokenizer
from gateway.chat.output_parser import CallArguments, CallBegan, OutputParser, Piece, Said, Thought
from gateway.chat.stop_strings import StopStrings
from gateway.chat.token_texts import TokenTexts
from gateway.chat.tool_calls.json_values import refuse_constant
from gateway.engine.token_stream import GeneratedToken
from gateway.generation.events import (
    ChosenLogprob,
    Delta,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolArguments,
    ToolCallBegan,
)
from gateway.generation.request import ToolCall


def new_call_id() -> str:
    """Random: whoever sends a call's id back has got it from its answer."""
    return f"call_{secrets.token_hex(12)}"


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments, parse_constant=refuse_constant), dict)
    except (ValueError, RecursionError):
        return False


class Answer:
    """`feed` tokens until there is a `finish_reason`; `take` what they said so far.

    Stop strings are looked for in the text for the reader, and log-probabilities are those of its tokens.
    """

    def __init__(
        self,
        choice: int,
        detokenizer: Detokenizer,
        texts: TokenTexts,
        stops: tuple[str, ...],
        parser: OutputParser,
        call_id: Callable[[], str] = new_call_id,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.ended_by_model = False  # with an end token, rather than by a stop string or a limit
        self.ids: list[int] = []  # all that was generated but the end token
        self.reasoning_tokens = 0
        self._choice = choice
        self._detokenizer = detokenizer
        self._texts = texts
        self._stops = StopStrings(stops)
        self._parser = parser
        self._call_id = call_id
        self._said: list[str] = []
        self._calls: list[tuple[ToolCallBegan, list[str]]] = []
        self._deltas: list[Delta] = []
        self._said_characters = 0
        self._sent_characters = 0
        self._logprobs: deque[tuple[int, ChosenLogprob]] = deque()  # with the length of the text before the token

    @property
    def stop_string(self) -> str | None:
        """The one that ended the answer, if one did."""
        return self._stops.stopped_by

    @property
    def text(self) -> str:
        """All the text for the reader."""
        return "".join(self._said)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return tuple(ToolCall(began.id, began.name, "".join(arguments)) for began, arguments in self._calls)

    def feed(self, token: GeneratedToken) -> None:
        """The next token; none may follow once there is a `finish_reason`."""
        is_end_token = token.finish == "stop"
        decoded = "" if is_end_token else self._detokenizer.feed(token.token)
        if token.finish:
            decoded += self._detokenizer.finish()
        if not is_end_token:
            self.ids.append(token.token)
            self.reasoning_tokens += self._parser.thinking
            if token.scores and self._parser.saying:
                self._logprobs.append((self._said_characters, self._texts.chosen(token.token, token.scores)))
        self._add(self._parser.feed(decoded))
        if token.finish and not self._stops.stopped:
            self._finish(token.finish)

    def take(self) -> list[Delta]:
        """What is certain by now, and the log-probabilities of its tokens."""
        deltas, self._deltas = self._deltas, []
        logprobs = self._logprobs_of_sent_text()
        if logprobs and not any(isinstance(delta, TextDelta) for delta in deltas):
            deltas.append(TextDelta(self._choice, ""))
        for index, delta in enumerate(deltas):
            if isinstance(delta, TextDelta):
                deltas[index] = TextDelta(delta.choice, delta.text, logprobs)
                break
        return deltas

    def _finish(self, reason: FinishReason) -> None:
        self._add(self._parser.finish())
        if self._stops.stopped:
            return
        self._say(self._stops.finish())
        self.ended_by_model = reason == "stop"
        if self.ended_by_model and self._calls:
            reason = self._end_of_calls()
        self.finish_reason = reason

    def _end_of_calls(self) -> FinishReason:
        """Of an answer that ended by itself."""
        if not self._calls[-1][1]:  # some models end a call without arguments with the token that ends the answer
            self._add([CallArguments("{}")])
        # Clients run the calls of an answer that ends with `tool_calls`; `length` tells them that one is not whole.
        return "tool_calls" if all(_is_object(call.arguments) for call in self.calls) else "length"

    def _add(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if not isinstance(piece, Said):
                self._say(self._stops.finish())
            match piece:
                case Said(text):
                    self._said_characters += len(text)
                    self._say(self._stops.feed(text))
                    if self._stops.stopped:
                        self.finish_reason = "tool_calls" if self._calls else "stop"
                        return
                case Thought(text):
                    self._deltas.append(ReasoningDelta(self._choice, text))
                case CallBegan(name):
                    began = ToolCallBegan(self._choice, len(self._calls), self._call_id(), name)
                    self._calls.append((began, []))
                    self._deltas.append(began)
                case CallArguments(text):
                    self._calls[-1][1].append(text)
                    self._deltas.append(ToolArguments(self._choice, len(self._calls) - 1, text))

    def _say(self, text: str) -> None:
        if not text:
            return
        self._said.append(text)
        self._sent_characters += len(text)
        if self._deltas and isinstance(last := self._deltas[-1], TextDelta):
            self._deltas[-1] = TextDelta(self._choice, last.text + text)
        else:
            self._deltas.append(TextDelta(self._choice, text))

    def _logprobs_of_sent_text(self) -> tuple[ChosenLogprob, ...]:
        """Those of tokens whose text was sent at least in part; a stop string's tokens never are."""
        everything = self.finish_reason is not None and not self._stops.stopped
        sent = []
        while self._logprobs and (everything or self._logprobs[0][0] < self._sent_characters):
            sent.append(self._logprobs.popleft()[1])
        return tuple(sent)
