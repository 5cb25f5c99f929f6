"""The chat request's shapes: what is understood, and which field an error names."""

from typing import Any

import msgspec
import pytest

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import (
    Conversation,
    Message,
    Sampling,
    TextRequest,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)
from gateway.protocols.openai_chat import parse_chat_request, to_text_request

HELLO = {"role": "user", "content": "Hello"}
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "read_file", "description": "Reads", "parameters": SCHEMA},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "read_file", "arguments": '{"path":"a"}'}}


def understood(**fields: Any) -> TextRequest:
    body = {"model": "m", "messages": [HELLO]} | fields
    return to_text_request(parse_chat_request(msgspec.json.encode(body)))


def conversation(**fields: Any) -> Conversation:
    prompt = understood(**fields).prompt
    assert isinstance(prompt, Conversation)
    return prompt


def test_the_least_request_has_openais_defaults() -> None:
    assert understood() == TextRequest("m", Conversation((Message("user", "Hello"),)), Sampling(), None, (), 1, None)


def test_every_sampling_field_arrives() -> None:
    request = understood(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        presence_penalty=0.1,
        frequency_penalty=-0.2,
        repetition_penalty=1.1,
        logit_bias={"15": -100, "16": 2.5},
        seed=-3,
        max_tokens=7,
        stop=["a", "b"],
        n=2,
        logprobs=True,
        top_logprobs=4,
    )
    assert request.sampling == Sampling(0.5, 0.9, 40, 0.05, 0.1, -0.2, 1.1, {15: -100, 16: 2.5}, -3)
    assert (request.max_tokens, request.stop, request.choices, request.top_logprobs) == (7, ("a", "b"), 2, 4)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_completion_tokens": 9}, 9),
        ({"max_tokens": 5, "max_completion_tokens": 9}, 5),
        ({"max_tokens": None}, None),
    ],
)
def test_both_names_of_the_limit_are_read(fields: dict[str, Any], expected: int | None) -> None:
    assert understood(**fields).max_tokens == expected


def test_tools_keep_their_schemas() -> None:
    plain = {"type": "function", "function": {"name": "now"}}
    expected = (
        Tool("read_file", "Reads", msgspec.json.encode(SCHEMA).decode()),
        Tool("now", "", '{"type":"object","properties":{}}'),
    )
    assert conversation(tools=[TOOL, plain]).tools == expected
    assert conversation(functions=[TOOL["function"], plain["function"]]).tools == expected
    assert conversation(tools=[TOOL], parallel_tool_calls=False).parallel_tool_calls is False
    strict = TOOL | {"function": TOOL["function"] | {"strict": True}}
    assert [tool.strict for tool in conversation(tools=[strict, plain]).tools] == [True, False]


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, ToolChoice()),
        ({"tool_choice": "auto"}, ToolChoice("auto")),
        ({"tool_choice": "none"}, ToolChoice("none")),
        ({"tool_choice": "required"}, ToolChoice("required")),
        (
            {"tool_choice": {"type": "function", "function": {"name": "read_file"}}},
            ToolChoice("required", ("read_file",)),
        ),
        ({"function_call": {"name": "read_file"}}, ToolChoice("required", ("read_file",))),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}}},
            ToolChoice("auto", ("read_file",)),
        ),
    ],
)
def test_every_way_to_choose_among_tools(fields: dict[str, Any], choice: ToolChoice) -> None:
    assert conversation(tools=[TOOL], **fields).tool_choice == choice


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, Thinking()),
        ({"reasoning_effort": "high"}, Thinking(effort="high")),
        ({"reasoning_effort": "none"}, Thinking(False)),
        ({"reasoning": {"effort": "low", "max_tokens": 9}}, Thinking(effort="low", budget_tokens=9)),
        ({"reasoning": {"enabled": False}}, Thinking(False)),
        ({"thinking": {"type": "enabled", "budget_tokens": 7}}, Thinking(True, None, 7)),
        ({"thinking": {"type": "disabled"}}, Thinking(False)),
        ({"thinking": {"type": "adaptive"}}, Thinking()),
        ({"enable_thinking": False, "thinking": {"type": "enabled"}}, Thinking(False)),
        ({"thinking_token_budget": 0}, Thinking(budget_tokens=0)),
    ],
)
def test_every_wish_about_reasoning(fields: dict[str, Any], thinking: Thinking) -> None:
    assert conversation(**fields).thinking == thinking


def test_null_means_absent_everywhere() -> None:
    names = ["stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "stop", "n"]
    names += ["frequency_penalty", "repetition_penalty", "logit_bias", "logprobs", "top_logprobs", "seed", "tools"]
    assert understood(**dict.fromkeys(names)) == understood()


@pytest.mark.parametrize(
    ("fields", "kind", "source"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", ""),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "null"}}}},
            "json_schema",
            '{"type":"null"}',
        ),
        ({"guided_json": {"type": "null"}}, "json_schema", '{"type":"null"}'),
        ({"guided_json": '{"type": "null"}'}, "json_schema", '{"type": "null"}'),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"guided_choice": ["a", "b"]}, "choice", '["a","b"]'),
        ({"guided_grammar": "start: /a/"}, "lark", "start: /a/"),
    ],
)
def test_every_way_to_ask_for_a_form_is_read(fields: dict[str, Any], kind: str, source: str) -> None:
    grammar = understood(**fields).grammar
    assert grammar
    assert (grammar.kind, grammar.source, grammar.param) == (kind, source, next(iter(fields)))


@pytest.mark.parametrize(
    ("asked", "kind", "source"),
    [
        ({"json": {"type": "null"}}, "json_schema", '{"type":"null"}'),
        ({"json": '{"type": "null"}'}, "json_schema", '{"type": "null"}'),
        ({"regex": "a+"}, "regex", "a+"),
        ({"choice": ["a", "b"], "regex": None}, "choice", '["a","b"]'),
        ({"grammar": "start: /a/", "json_object": False}, "lark", "start: /a/"),
        ({"json_object": True, "disable_any_whitespace": True}, "json_object", ""),
    ],
)
def test_structured_outputs_are_the_same_by_another_name(asked: dict[str, Any], kind: str, source: str) -> None:
    grammar = understood(structured_outputs=asked).grammar
    assert grammar
    assert (grammar.kind, grammar.source) == (kind, source)
    assert grammar.param == f"structured_outputs.{next(iter(asked))}"


def test_structured_outputs_of_nothing_ask_for_nothing() -> None:
    assert understood(structured_outputs={}) == understood(structured_outputs=None) == understood()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"guided_regex": "a", "structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"json": {}, "choice": ["b"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": "b"}}, "structured_outputs.choice"),
    ],
)
def test_a_form_that_is_not_clear_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        understood(**fields)
    assert caught.value.param == param


def test_a_text_response_format_asks_for_nothing() -> None:
    assert understood(response_format={"type": "text"}) == understood()


def test_a_cache_key_names_a_session_of_its_own() -> None:
    assert understood(prompt_cache_key="a").origin.session != understood(prompt_cache_key="b").origin.session


def test_unknown_fields_are_ignored() -> None:
    assert understood(store=True, metadata={"a": 1}, user="u", thinking={}) == understood()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "developer", "content": "Be brief"}, Message("system", "Be brief")),
        ({"role": "assistant", "content": None}, Message("assistant", "")),
        ({"role": "assistant"}, Message("assistant", "")),
        ({"role": "user", "content": ""}, Message("user", "")),
        ({"role": "user", "content": []}, Message("user", "")),
        ({"role": "user", "content": [{"type": "text", "text": "a"}]}, Message("user", "a")),
        (
            {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            Message("system", "a\nb"),
        ),
        (
            {"role": "assistant", "content": None, "reasoning_content": "So", "tool_calls": [CALL]},
            Message("assistant", "", (ToolCall("call_1", "read_file", '{"path":"a"}'),), reasoning="So"),
        ),
        (
            {"role": "assistant", "reasoning": "So", "function_call": {"name": "f", "arguments": {"a": 1}}},
            Message("assistant", "", (ToolCall("", "f", '{"a":1}'),), reasoning="So"),
        ),
        (
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "a"}]},
            Message("tool", "a", tool_call_id="call_1"),
        ),
        ({"role": "function", "name": "f", "content": "a"}, Message("tool", "a")),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]}, Message("assistant", "No")),
        ({"role": "user", "content": "nul \0 and \U0001f99c"}, Message("user", "nul \0 and \U0001f99c")),
    ],
)
def test_message_shapes(message: dict[str, Any], expected: Message) -> None:
    assert conversation(messages=[message]).messages == (expected,)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[0].tool_calls[0].function"),
        ({"tools": [TOOL, TOOL]}, "tools[1]"),
        ({"tools": [TOOL], "functions": [TOOL["function"]]}, "functions[0]"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "custom"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [TOOL["function"]], "function_call": {"name": "g"}}, "function_call"),
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [HELLO, {"role": "user", "content": 3}]}, "messages[1].content"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ["a", 3]}, "stop[1]"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias[...]"),
        ({"logprobs": "yes"}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ],
)
def test_an_error_names_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        understood(**fields)
    assert caught.value.param == param
    assert len(str(caught.value)) > 10


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        understood(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"[" * 100_000,
        b'{"model": "m", "messages": ' + b"[" * 100_000,
        b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        b'{"model": "m", "messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_chat_request(body)


def test_a_lone_surrogate_is_explained() -> None:
    with pytest.raises(InvalidRequest, match="surrogate pair"):
        parse_chat_request(b'{"model": "m", "messages": [{"role": "user", "content": "\\ud83d"}]}')
