"""The messages request's shapes: what is understood, and which field an error names."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import (
    Conversation,
    Grammar,
    Message,
    Sampling,
    TextRequest,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)
from gateway.protocols.anthropic_messages import (
    parse_count_request,
    parse_messages_request,
    parts_without_effect,
    to_counted_request,
    to_text_request,
)

HELLO = {"role": "user", "content": "Hello"}
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOL: dict[str, Any] = {"name": "read_file", "description": "Reads", "input_schema": SCHEMA}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
CALL = {"type": "tool_use", "id": "call_1", "name": "read_file", "input": {"path": "a"}}
BILLING = "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch=36ee5;"


def encoded(**fields: Any) -> bytes:
    body = {"model": "m", "max_tokens": 9, "messages": [HELLO]} | fields
    return msgspec.json.encode({name: value for name, value in body.items() if value is not ...})


def understood(**fields: Any) -> TextRequest:
    return to_text_request(parse_messages_request(encoded(**fields)))


def conversation(**fields: Any) -> Conversation:
    prompt = understood(**fields).prompt
    assert isinstance(prompt, Conversation)
    return prompt


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words, "cache_control": {"type": "ephemeral"}}


def result(content: Any = ..., **fields: Any) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": "call_1", "content": content} | fields
    return {name: value for name, value in block.items() if value is not ...}


def test_the_least_request() -> None:
    assert understood() == TextRequest("m", Conversation((Message("user", "Hello"),)), Sampling(), 9)


def test_every_sampling_field_arrives() -> None:
    request = understood(temperature=0.5, top_p=0.9, top_k=40, stop_sequences=["a", "b"], max_tokens=7)
    assert request.sampling == Sampling(0.5, 0.9, 40)
    assert (request.max_tokens, request.stop) == (7, ("a", "b"))


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("Be brief", "Be brief"),
        ([text("Be"), text("brief")], "Be\nbrief"),
        ([text(BILLING), text("Be brief")], "Be brief"),
        (f"{BILLING}\nBe brief", "Be brief"),
        ([text("Send x-anthropic-billing-header: 1")], "Send x-anthropic-billing-header: 1"),
    ],
)
def test_the_system_prompt_comes_first_without_what_changes_in_it(system: Any, expected: str) -> None:
    assert conversation(system=system).messages == (Message("system", expected), Message("user", "Hello"))


@pytest.mark.parametrize("system", [None, "", [], [text("")], [text(BILLING)]])
def test_an_empty_system_prompt_is_none(system: Any) -> None:
    assert conversation(system=system).messages == (Message("user", "Hello"),)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "system", "content": "Now"}, [Message("system", "Now")]),
        ({"role": "system", "content": [text("Now")]}, [Message("system", "Now")]),
        ({"role": "user", "content": ""}, [Message("user", "")]),
        ({"role": "user", "content": []}, [Message("user", "")]),
        ({"role": "user", "content": [text("a"), text("b")]}, [Message("user", "a\nb")]),
        ({"role": "user", "content": [result("a")]}, [Message("tool", "a", tool_call_id="call_1")]),
        ({"role": "user", "content": [result()]}, [Message("tool", "", tool_call_id="call_1")]),
        ({"role": "user", "content": [result(None)]}, [Message("tool", "", tool_call_id="call_1")]),
        (
            {"role": "user", "content": [result([text("a"), text("b")])]},
            [Message("tool", "a\nb", tool_call_id="call_1")],
        ),
        (
            {"role": "user", "content": [result("no such file", is_error=True)]},
            [Message("tool", "Error: no such file", tool_call_id="call_1")],
        ),
        (
            {"role": "user", "content": [result([{"type": "tool_reference", "tool_name": "grep"}])]},
            [Message("tool", "The tool grep is available.", tool_call_id="call_1")],
        ),
        (
            {"role": "user", "content": [result("a"), text("So?"), result("b", tool_use_id="call_2"), text("And?")]},
            [
                Message("tool", "a", tool_call_id="call_1"),
                Message("tool", "b", tool_call_id="call_2"),
                Message("user", "So?\nAnd?"),
            ],
        ),
        (
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "First", "signature": ""},
                    {"type": "redacted_thinking", "data": "x"},
                    text("I read"),
                    CALL,
                    text(" it"),
                ],
            },
            [Message("assistant", "I read it", (ToolCall("call_1", "read_file", '{"path":"a"}'),), reasoning="First")],
        ),
        (
            {"role": "assistant", "content": [{"type": "server_tool_use", "id": "1", "name": "x", "input": {}}]},
            [Message("assistant", "")],
        ),
    ],
)
def test_message_shapes(message: dict[str, Any], expected: list[Message]) -> None:
    messages = conversation(messages=[HELLO, message, HELLO]).messages
    assert list(messages) == [Message("user", "Hello"), *expected, Message("user", "Hello")]


@given(st.lists(st.sampled_from([text("a"), text(""), result("b"), result([text("c")], is_error=True)]), max_size=6))
def test_every_block_of_a_user_arrives_once(blocks: list[dict[str, Any]]) -> None:
    messages = conversation(messages=[{"role": "user", "content": blocks}]).messages
    returned = [message.content for message in messages if message.role == "tool"]
    assert returned == ["Error: c" if "is_error" in b else "b" for b in blocks if b["type"] == "tool_result"]
    said = [message.content for message in messages if message.role == "user"]
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    assert said == (["\n".join(texts)] if texts or not returned else [])


def test_tools_keep_their_schemas() -> None:
    plain = {"type": "custom", "name": "now", "input_schema": {"type": "object"}, "strict": True}
    assert conversation(tools=[TOOL, SEARCH, plain]).tools == (
        Tool("read_file", "Reads", msgspec.json.encode(SCHEMA).decode()),
        Tool("now", "", '{"type":"object"}', strict=True),
    )


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        (None, ToolChoice(), True),
        ({"type": "auto"}, ToolChoice("auto"), True),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice("auto"), False),
        ({"type": "any"}, ToolChoice("required"), True),
        ({"type": "none"}, ToolChoice("none"), True),
        ({"type": "tool", "name": "read_file"}, ToolChoice("required", ("read_file",)), True),
    ],
)
def test_every_way_to_choose_among_tools(choice: Any, expected: ToolChoice, parallel: bool) -> None:
    asked = conversation(tools=[TOOL], tool_choice=choice)
    assert (asked.tool_choice, asked.parallel_tool_calls) == (expected, parallel)


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, Thinking()),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, Thinking(True, None, 2048)),
        ({"thinking": {"type": "disabled"}}, Thinking(False)),
        ({"thinking": {"type": "adaptive"}}, Thinking()),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}, Thinking(None, "high")),
    ],
)
def test_every_wish_about_reasoning(fields: dict[str, Any], thinking: Thinking) -> None:
    assert conversation(**fields).thinking == thinking


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"output_format": {"type": "json_schema", "schema": {"type": "null"}}}, "output_format"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "null"}}}}, "output_config.format"),
    ],
)
def test_every_way_to_ask_for_a_form(fields: dict[str, Any], param: str) -> None:
    grammar = understood(**fields).grammar
    assert grammar == Grammar("json_schema", '{"type":"null"}')
    assert grammar
    assert grammar.param == param


def test_what_is_counted_has_the_same_prompt_and_needs_no_limit() -> None:
    fields: dict[str, Any] = {"system": [text("Be brief")], "tools": [TOOL], "thinking": {"type": "disabled"}}
    counted = to_counted_request(parse_count_request(encoded(max_tokens=..., **fields)))
    assert counted.prompt == conversation(**fields)


def test_a_user_id_may_name_the_session() -> None:
    assert parse_messages_request(encoded(metadata={"user_id": "u1"})).session_hint == "u1"
    assert parse_messages_request(encoded(metadata={})).session_hint == ""
    assert parse_messages_request(encoded()).session_hint == ""


def test_what_has_no_effect_is_named() -> None:
    searched = {"type": "web_search_tool_result", "tool_use_id": "1", "content": {"error_code": "unavailable"}}
    assistant = {
        "role": "assistant",
        "content": [{"type": "mcp_tool_use", "id": "1", "name": "x", "input": {}}, searched],
    }
    fields: dict[str, Any] = {
        "tools": [TOOL | {"defer_loading": True}, SEARCH],
        "messages": [HELLO, assistant, {"role": "user", "content": [result("a")]}],
        "thinking": {"type": "adaptive", "display": "omitted"},
    }
    assert parts_without_effect(parse_messages_request(encoded(**fields))) == [
        "tools[1].web_search_20250305",
        "tools[0].defer_loading",
        "thinking.display",
        "messages[1].content[0].mcp_tool_use",
        "messages[1].content[1].web_search_tool_result",
    ]
    assert conversation(**fields).messages[1] == Message("assistant", "")
    assert parts_without_effect(parse_messages_request(encoded(tools=[TOOL]))) == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": ...}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"model": ...}, "model"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
            "messages[0].content[0].tool_use_id",
        ),
        ({"messages": [{"role": "user", "content": [result({})]}]}, "messages[0].content[0].content"),
        ({"messages": [{"role": "assistant", "content": [CALL | {"id": None}]}, HELLO]}, "messages[0].content[0].id"),
        (
            {"messages": [{"role": "assistant", "content": [CALL | {"input": 3}]}, HELLO]},
            "messages[0].content[0].input",
        ),
        ({"tools": [TOOL, TOOL]}, "tools[1]"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice"),
        ({"tools": [SEARCH], "tool_choice": {"type": "tool", "name": "web_search"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "sometimes"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"temperature": 1.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stop_sequences": "a"}, "stop_sequences"),
        ({"thinking": {"budget_tokens": 3}}, "thinking.type"),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
        (
            {
                "output_format": {"type": "json_schema", "schema": {}},
                "output_config": {"format": {"type": "json_schema", "schema": {}}},
            },
            "output_format",
        ),
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
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"messages": [HELLO, {"role": "assistant", "content": [CALL]}]}, "messages[1]"),
        ({"system": [IMAGE]}, "system[0]"),
        ({"messages": [{"role": "user", "content": [text("a"), IMAGE]}]}, "messages[0].content[1]"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [result([IMAGE])]}]}, "messages[0].content[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": [result("a")]}, HELLO]}, "messages[0].content[0]"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        understood(**fields)
    assert caught.value.param == param


def test_nothing_of_these_is_no_refusal() -> None:
    assert understood(mcp_servers=[], container=None, metadata=None, betas=["x"], context_management={}) == understood()


def test_a_last_message_of_the_assistants_begins_the_answer() -> None:
    begun = conversation(messages=[HELLO, {"role": "assistant", "content": "Well"}])
    assert begun == replace(conversation(messages=[HELLO]), begun=Message("assistant", "Well"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [HELLO, {"role": "assistant", "content": "Well "}]}, "messages[1]"),
        ({"messages": [{"role": "assistant", "content": "Well"}]}, "messages[0]"),
        (
            {
                "messages": [HELLO, {"role": "assistant", "content": "Well"}],
                "thinking": {"type": "enabled", "budget_tokens": 1024},
            },
            "thinking",
        ),
    ],
)
def test_what_begins_no_answer_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        understood(**fields)
    assert caught.value.param == param
