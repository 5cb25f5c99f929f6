"""Reads a stream of OpenAI's responses as strictly as its own client's types and the order of its events allow."""

import json
from dataclasses import dataclass, field
from typing import Any, get_args

from openai.types.responses import Response, ResponseStreamEvent

KINDS = {get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(get_args(ResponseStreamEvent)[0])}
TERMINAL = ("response.completed", "response.incomplete", "response.failed")
FIELD_OF_DONE = {
    "response.output_text": "text",
    "response.reasoning_text": "text",
    "response.reasoning_summary_text": "text",
    "response.function_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
}
"""By event without `.delta` or `.done`: the field of `.done` that all deltas add up to."""


@dataclass
class ReadResponse:
    """What a stream said. `output` are the items that were done, `names` the events in their order."""

    names: list[str] = field(default_factory=list)
    begun: dict[str, Any] = field(default_factory=dict)
    final: dict[str, Any] = field(default_factory=dict)
    output: list[dict[str, Any]] = field(default_factory=list)
    comments: int = 0


def read_responses_stream(body: bytes) -> ReadResponse:
    """Fails on anything that OpenAI's stream would not hold; `response.in_progress` may come at any time."""
    stream = _Reader()
    for frame in body.decode().split("\n\n"):
        if frame.startswith(":"):
            stream.read.comments += 1
        elif frame:
            name, data = frame.split("\n")
            stream.take(name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
    return stream.finished()


def valid_response(response: dict[str, Any], status: str | None = None) -> dict[str, Any]:
    """The same, once the client's type accepts it."""
    Response.model_validate_json(json.dumps(response), strict=True)
    assert status in (None, response["status"])
    return response


class _Reader:
    def __init__(self) -> None:
        self.read = ReadResponse()
        self._open: dict[str, Any] | None = None
        self._items = 0
        self._said: dict[str, str] = {}
        self._parts: list[str] = []

    def take(self, name: str, event: dict[str, Any]) -> None:
        read = self.read
        assert not read.final, f"{name} after the end"
        assert event["type"] == name
        KINDS[name].model_validate_json(json.dumps(event), strict=True)
        assert event["sequence_number"] == len(read.names)
        read.names.append(name)
        if len(read.names) <= 2:
            assert name == ("response.created", "response.in_progress")[len(read.names) - 1]
            read.begun = event["response"]
        if "response" in event:
            self._response(name, event["response"])
        elif name == "response.output_item.added":
            self._added(event)
        elif name == "response.output_item.done":
            self._done(event)
        else:
            self._within(name, event)

    def finished(self) -> ReadResponse:
        assert self.read.final, "no end"
        return self.read

    def _response(self, name: str, response: dict[str, Any]) -> None:
        if name in TERMINAL:
            assert response["output"] == self.read.output
            assert name == f"response.{response['status']}"
            settings = {k: v for k, v in response.items() if k in self.read.begun}
            moving = ("status", "output", "usage", "error", "incomplete_details", "completed_at")
            assert settings | {key: self.read.begun[key] for key in moving} == self.read.begun
            self.read.final = response
        else:
            assert response["status"] == "in_progress"
            assert response["output"] == []

    def _added(self, event: dict[str, Any]) -> None:
        assert self._open is None, "an item within another"
        assert event["output_index"] == self._items
        self._items += 1
        self._open = event["item"]
        self._said, self._parts = {}, []

    def _within(self, name: str, event: dict[str, Any]) -> None:
        assert self._open
        assert (event["item_id"], event["output_index"]) == (self._open["id"], self._items - 1)
        kind, _, step = name.rpartition(".")
        if step == "added":
            self._parts.append(kind)
            assert event["part"]["text"] == ""
        elif step == "delta":
            assert event["delta"] or event.get("logprobs")
            self._said[kind] = self._said.get(kind, "") + event["delta"]
        elif kind in FIELD_OF_DONE:
            assert event[FIELD_OF_DONE[kind]] == self._said.get(kind, "")
        else:
            self._parts.remove(kind)
            text = "response.reasoning_summary_text" if "summary" in kind else f"response.{event['part']['type']}"
            assert event["part"]["text"] == self._said.get(text, "")

    def _done(self, event: dict[str, Any]) -> None:
        assert self._open
        assert self._parts == []
        item = event["item"]
        assert event["output_index"] == self._items - 1
        assert {key: item[key] for key in ("id", "type")} == {key: self._open[key] for key in ("id", "type")}
        assert self._open["status"] == "in_progress"
        assert item["status"] in ("completed", "incomplete")
        texts = set(self._said.values())
        held = [part["text"] for part in (*item.get("content", ()), *item.get("summary", ()))]
        held += [item[key] for key in ("arguments", "input") if key in item]
        assert {text for text in held if text} == {text for text in texts if text}
        self.read.output.append(item)
        self._open = None
