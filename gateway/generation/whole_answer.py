"""All events of a request as one answer, for clients that do not stream."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from gateway.generation.events import (
    ChoiceFinished,
    ChosenLogprob,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolArguments,
    ToolCallBegan,
)
from gateway.generation.request import ToolCall


@dataclass(slots=True)
class WholeChoice:
    """A call that the token limit cut short is not among the `calls`: its arguments are no JSON."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[ChosenLogprob] = field(default_factory=list)
    reason: FinishReason = "stop"
    stop_string: str | None = None


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    choices: list[WholeChoice]
    finished: Finished


async def collect(events: AsyncIterator[Event]) -> WholeAnswer:
    """Every choice, in their order. Raises what ends the events."""
    building: dict[int, _Building] = {}
    finished = Finished(0, 0)
    async for event in events:
        match event:
            case Finished():
                finished = event
            case TextDelta() | ReasoningDelta() | ToolCallBegan() | ToolArguments() | ChoiceFinished():
                building.setdefault(event.choice, _Building()).add(event)
    return WholeAnswer([choice.whole() for _, choice in sorted(building.items())], finished)


class _Building:
    def __init__(self) -> None:
        self._choice = WholeChoice()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[ToolCallBegan, list[str]]] = []
        self._in_call = False

    def add(self, event: TextDelta | ReasoningDelta | ToolCallBegan | ToolArguments | ChoiceFinished) -> None:
        match event:
            case TextDelta(_, text, logprobs):
                self._text.append(text)
                self._choice.logprobs += logprobs
            case ReasoningDelta(_, text):
                self._reasoning.append(text)
            case ToolCallBegan():
                self._calls.append((event, []))
            case ToolArguments(_, call, text):
                self._calls[call][1].append(text)
            case ChoiceFinished(_, reason, stop_string):
                self._choice.reason, self._choice.stop_string = reason, stop_string
                return
        self._in_call = isinstance(event, ToolCallBegan | ToolArguments)

    def whole(self) -> WholeChoice:
        choice = self._choice
        choice.text, choice.reasoning = "".join(self._text), "".join(self._reasoning)
        calls = [ToolCall(began.id, began.name, "".join(arguments)) for began, arguments in self._calls]
        choice.calls = calls[:-1] if self._in_call and choice.reason == "length" else calls
        return choice
