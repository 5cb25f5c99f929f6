"""The items that make up an answer in OpenAI's responses, each built from its deltas.

An item tells of itself on the way, in the order of OpenAI's events: that it was added, its parts and their deltas, that
these and the item itself are done. What it tells is the event's name and its fields; the stream adds the rest.

Source: OpenAI API reference, "Responses", the object and its streaming events.
"""

from collections.abc import Iterator, Sequence
from typing import Literal
from uuid import uuid4

from msgspec import UNSET, Struct, UnsetType

from gateway.generation.events import ChosenLogprob, TokenLogprob
from gateway.protocols.freeform_input import FreeformInput
from gateway.protocols.responses_items import sealed_reasoning

ItemStatus = Literal["in_progress", "completed", "incomplete"]
WireEvent = tuple[str, dict[str, object]]


class Logprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(Logprob, frozen=True):
    top_logprobs: list[Logprob]


class OutputText(Struct, frozen=True, tag_field="type", tag="output_text"):
    text: str
    logprobs: Sequence[ChosenToken] = ()
    annotations: tuple[()] = ()


class ReasoningText(Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    text: str


class SummaryText(Struct, frozen=True, tag_field="type", tag="summary_text"):
    text: str


class MessageItem(Struct, frozen=True, tag_field="type", tag="message"):
    id: str
    status: ItemStatus
    content: Sequence[OutputText] = ()
    role: Literal["assistant"] = "assistant"


class ReasoningItem(Struct, frozen=True, tag_field="type", tag="reasoning"):
    """`encrypted_content` is absent unless it was asked for."""

    id: str
    status: ItemStatus
    summary: Sequence[SummaryText] = ()
    content: Sequence[ReasoningText] = ()
    encrypted_content: str | UnsetType = UNSET


class FunctionCallItem(Struct, frozen=True, tag_field="type", tag="function_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str = ""
    namespace: str | UnsetType = UNSET


class CustomCallItem(Struct, frozen=True, tag_field="type", tag="custom_tool_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    input: str = ""
    namespace: str | UnsetType = UNSET


OutputItem = MessageItem | ReasoningItem | FunctionCallItem | CustomCallItem


class OpenMessage:
    """Text for the reader."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._id = _new_id("msg")
        self._texts: list[str] = []
        self._logprobs: list[ChosenToken] = []

    def begin(self) -> Iterator[WireEvent]:
        yield _added(self._index, MessageItem(self._id, "in_progress"))
        yield "response.content_part.added", {**self._place, "part": OutputText("")}

    def add(self, text: str, logprobs: Sequence[ChosenLogprob]) -> Iterator[WireEvent]:
        chosen = [_chosen(entry) for entry in logprobs]
        self._texts.append(text)
        self._logprobs += chosen
        yield "response.output_text.delta", {**self._place, "delta": text, "logprobs": chosen}

    def end(self, status: ItemStatus) -> Iterator[WireEvent]:
        part = OutputText("".join(self._texts), self._logprobs)
        yield "response.output_text.done", {**self._place, "text": part.text, "logprobs": part.logprobs}
        yield "response.content_part.done", {**self._place, "part": part}
        yield _done(self._index, MessageItem(self._id, status, [part]))

    @property
    def _place(self) -> dict[str, object]:
        return {"item_id": self._id, "output_index": self._index, "content_index": 0}


class OpenReasoning:
    """Reasoning in full; `with_summary` also as its own summary, `sealed` also for clients that only send that back."""

    def __init__(self, index: int, *, with_summary: bool, sealed: bool) -> None:
        self._index = index
        self._id = _new_id("rs")
        self._texts: list[str] = []
        self._with_summary = with_summary
        self._sealed = sealed

    def begin(self) -> Iterator[WireEvent]:
        yield _added(self._index, ReasoningItem(self._id, "in_progress"))
        if self._with_summary:
            yield "response.reasoning_summary_part.added", {**self._summary_place, "part": SummaryText("")}
        yield "response.content_part.added", {**self._place, "part": ReasoningText("")}

    def add(self, text: str) -> Iterator[WireEvent]:
        self._texts.append(text)
        if self._with_summary:
            yield "response.reasoning_summary_text.delta", {**self._summary_place, "delta": text}
        yield "response.reasoning_text.delta", {**self._place, "delta": text}

    def end(self, status: ItemStatus) -> Iterator[WireEvent]:
        text = "".join(self._texts)
        if self._with_summary:
            yield "response.reasoning_summary_text.done", {**self._summary_place, "text": text}
            yield "response.reasoning_summary_part.done", {**self._summary_place, "part": SummaryText(text)}
        yield "response.reasoning_text.done", {**self._place, "text": text}
        yield "response.content_part.done", {**self._place, "part": ReasoningText(text)}
        summary = [SummaryText(text)] if self._with_summary else []
        sealed = sealed_reasoning(text) if self._sealed else UNSET
        yield _done(self._index, ReasoningItem(self._id, status, summary, [ReasoningText(text)], sealed))

    @property
    def _place(self) -> dict[str, object]:
        return {"item_id": self._id, "output_index": self._index, "content_index": 0}

    @property
    def _summary_place(self) -> dict[str, object]:
        return {"item_id": self._id, "output_index": self._index, "summary_index": 0}


class OpenFunctionCall:
    """A call with JSON arguments."""

    def __init__(self, index: int, call_id: str, name: str, namespace: str | None) -> None:
        self._index = index
        self._item = FunctionCallItem(_new_id("fc"), "in_progress", call_id, name, namespace=namespace or UNSET)
        self._arguments: list[str] = []

    def begin(self) -> Iterator[WireEvent]:
        yield _added(self._index, self._item)

    def add(self, fragment: str) -> Iterator[WireEvent]:
        self._arguments.append(fragment)
        yield "response.function_call_arguments.delta", {**self._place, "delta": fragment}

    def end(self) -> Iterator[WireEvent]:
        call, arguments = self._item, "".join(self._arguments)
        yield "response.function_call_arguments.done", {**self._place, "arguments": arguments}
        item = FunctionCallItem(call.id, "completed", call.call_id, call.name, arguments, call.namespace)
        yield _done(self._index, item)

    @property
    def _place(self) -> dict[str, object]:
        return {"item_id": self._item.id, "output_index": self._index}


class OpenCustomCall:
    """A call with a text of any form."""

    def __init__(self, index: int, call_id: str, name: str, namespace: str | None) -> None:
        self._index = index
        self._item = CustomCallItem(_new_id("ctc"), "in_progress", call_id, name, namespace=namespace or UNSET)
        self._input = FreeformInput()
        self._texts: list[str] = []

    def begin(self) -> Iterator[WireEvent]:
        yield _added(self._index, self._item)

    def add(self, fragment: str) -> Iterator[WireEvent]:
        yield from self._delta(self._input.feed(fragment))

    def end(self) -> Iterator[WireEvent]:
        yield from self._delta(self._input.finish())
        call, text = self._item, "".join(self._texts)
        yield "response.custom_tool_call_input.done", {**self._place, "input": text}
        item = CustomCallItem(call.id, "completed", call.call_id, call.name, text, call.namespace)
        yield _done(self._index, item)

    def _delta(self, text: str) -> Iterator[WireEvent]:
        if text:
            self._texts.append(text)
            yield "response.custom_tool_call_input.delta", {**self._place, "delta": text}

    @property
    def _place(self) -> dict[str, object]:
        return {"item_id": self._item.id, "output_index": self._index}


def _added(index: int, item: OutputItem) -> WireEvent:
    return "response.output_item.added", {"output_index": index, "item": item}


def _done(index: int, item: OutputItem) -> WireEvent:
    return "response.output_item.done", {"output_index": index, "item": item}


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid4().hex}"


def _chosen(entry: ChosenLogprob) -> ChosenToken:
    token, top = entry.token, [_logprob(alternative) for alternative in entry.top]
    return ChosenToken(token.text, token.logprob, list(token.utf8), top)


def _logprob(token: TokenLogprob) -> Logprob:
    return Logprob(token.text, token.logprob, list(token.utf8))
