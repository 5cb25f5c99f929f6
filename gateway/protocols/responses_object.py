"""OpenAI's response object: an answer, how far it is, and the settings that it is made with.

Source: OpenAI API reference, "Responses", the response object.
"""

import time
from collections.abc import Sequence
from typing import Literal
from uuid import uuid4

from msgspec import Struct

from gateway.generation.events import Finished
from gateway.protocols.openai_responses import ReasoningField, ResponsesRequest, TextFormat
from gateway.protocols.responses_output import OutputItem
from gateway.protocols.responses_tools import ResponsesTool, ResponsesToolChoice


class InputTokensDetails(Struct, frozen=True):
    """`cache_write_tokens` are what a service charges for; this one charges nothing."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(Struct, frozen=True):
    reasoning_tokens: int


class Usage(Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(Struct, frozen=True):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class Failure(Struct, frozen=True):
    code: str
    message: str
    type: str
    param: str | None


class TextSettings(Struct, frozen=True):
    format: TextFormat


class Response(Struct, frozen=True, kw_only=True):
    """The object of one answer at one time, with the settings that it was made with."""

    id: str
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"] = "in_progress"
    error: Failure | None = None
    incomplete_details: IncompleteDetails | None = None
    output: Sequence[OutputItem] = ()
    usage: Usage | None = None
    model: str
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    prompt_cache_key: str | None
    reasoning: ReasoningField
    temperature: float
    text: TextSettings
    tool_choice: Literal["auto", "none", "required"] | ResponsesToolChoice
    tools: Sequence[ResponsesTool]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    previous_response_id: None = None
    background: Literal[False] = False
    store: Literal[False] = False
    object: Literal["response"] = "response"


def begun(request: ResponsesRequest) -> Response:
    """The response before it has any output. Tools that have no effect are not among its settings."""
    text = request.text.format if request.text and request.text.format else TextFormat("text")
    return Response(
        id=f"resp_{uuid4().hex}",
        created_at=int(time.time()),
        model=request.model,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        metadata=request.metadata or {},
        parallel_tool_calls=request.parallel_tool_calls is not False,
        prompt_cache_key=request.prompt_cache_key,
        reasoning=request.reasoning or ReasoningField(),
        temperature=1.0 if request.temperature is None else request.temperature,
        text=TextSettings(text),
        tool_choice=request.tool_choice or "auto",
        tools=[tool for tool in request.tools or () if tool.type in ("function", "custom", "namespace")],
        top_logprobs=request.top_logprobs or 0,
        top_p=1.0 if request.top_p is None else request.top_p,
    )


def usage(finished: Finished) -> Usage:
    return Usage(
        finished.prompt_tokens,
        InputTokensDetails(finished.cached_tokens),
        finished.completion_tokens,
        OutputTokensDetails(finished.reasoning_tokens),
        finished.prompt_tokens + finished.completion_tokens,
    )
