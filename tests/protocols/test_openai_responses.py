"""The responses request's shapes: what is understood, and which field an error names."""

from typing import Any

import msgspec
import pytest

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
from gateway.protocols.openai_responses import (
    ignored,
    ignored_tools,
    offered,
    parse_responses_request,
    to_text_request,
)
from gateway.protocols.responses_items import sealed_reasoning
from gateway.protocols.responses_tools import FREEFORM_PARAMETERS

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
READ: dict[str, Any] = {"type": "function", "name": "read", "description": "Reads", "parameters": SCHEMA}
PATCH: dict[str, Any] = {"type": "custom", "name": "apply_patch", "description": "Patches"}
FILES: dict[str, Any] = {"type": "namespace", "name": "mcp__files__", "description": "Files", "tools": [READ]}
AGENTS: dict[str, Any] = {"type": "namespace", "name": "agents", "description": "Agents", "tools": [READ, PATCH]}


def body(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "m", "input": "Hello"} | fields)


def understood(**fields: Any) -> TextRequest:
    request = parse_responses_request(body(**fields))
    return to_text_request(request, offered(request))


def conversation(**fields: Any) -> Conversation:
    prompt = understood(**fields).prompt
    assert isinstance(prompt, Conversation)
    return prompt


def messages(*items: Any) -> tuple[Message, ...]:
    return conversation(input=items).messages


def test_the_least_request_has_openais_defaults() -> None:
    assert understood() == TextRequest("m", Conversation((Message("user", "Hello"),)))
    assert conversation().param == "input"


def test_null_means_absent_everywhere() -> None:
    names = ["instructions", "stream", "max_output_tokens", "top_logprobs", "include", "tools", "tool_choice", "text"]
    names += ["parallel_tool_calls", "reasoning", "truncation", "prompt_cache_key", "metadata", "store", "background"]
    names += ["previous_response_id", "conversation", "prompt", "temperature", "top_p", "stream_options"]
    assert understood(**dict.fromkeys(names)) == understood()


def test_settings_arrive() -> None:
    request = understood(temperature=0.5, top_p=0.9, max_output_tokens=7, parallel_tool_calls=False, seed=3)
    assert request.sampling == Sampling(temperature=0.5, top_p=0.9, seed=3)
    assert request.max_tokens == 7
    assert isinstance(request.prompt, Conversation)
    assert not request.prompt.parallel_tool_calls


@pytest.mark.parametrize(
    ("fields", "top"),
    [
        ({}, None),
        ({"top_logprobs": 0}, None),
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 4}, 4),
        ({"top_logprobs": 4}, 4),
    ],
)
def test_logprobs_are_asked_for_in_two_ways(fields: dict[str, Any], top: int | None) -> None:
    assert understood(**fields).top_logprobs == top


@pytest.mark.parametrize(
    ("text", "grammar"),
    [
        ({}, None),
        ({"verbosity": "low"}, None),
        ({"format": {"type": "text"}}, None),
        ({"format": {"type": "json_object"}}, Grammar("json_object")),
        (
            {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": {"type": "null"}}},
            Grammar("json_schema", '{"type":"null"}'),
        ),
    ],
)
def test_every_text_format(text: dict[str, Any], grammar: Grammar | None) -> None:
    assert understood(text=text).grammar == grammar


@pytest.mark.parametrize(
    ("reasoning", "thinking"),
    [
        ({}, Thinking()),
        ({"summary": "auto"}, Thinking()),
        ({"effort": "none"}, Thinking(False)),
        ({"effort": "minimal", "summary": None}, Thinking(effort="minimal")),
    ],
)
def test_every_wish_about_reasoning(reasoning: dict[str, Any], thinking: Thinking) -> None:
    assert conversation(reasoning=reasoning).thinking == thinking


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"role": "user", "content": "a"}, Message("user", "a")),
        ({"type": "message", "role": "developer", "content": "a"}, Message("system", "a")),
        ({"role": "system", "content": [{"type": "input_text", "text": "a"}]}, Message("system", "a")),
        ({"role": "user", "content": [{"type": "text", "text": "a"}]}, Message("user", "a")),
        (
            {
                "type": "message",
                "id": "msg_1",
                "status": "completed",
                "phase": "final_answer",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}],
            },
            Message("assistant", "a"),
        ),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]}, Message("assistant", "No")),
        (
            {"type": "function_call", "call_id": "1", "name": "read", "arguments": '{"path": 1}'},
            Message("assistant", "", (ToolCall("1", "read", '{"path": 1}'),)),
        ),
        (
            {"type": "function_call", "call_id": "1", "name": "read", "namespace": "mcp__files__", "arguments": "{}"},
            Message("assistant", "", (ToolCall("1", "mcp__files__read", "{}"),)),
        ),
        (
            {"type": "custom_tool_call", "call_id": "1", "name": "apply_patch", "input": '*** "a"\n'},
            Message("assistant", "", (ToolCall("1", "apply_patch", '{"input":"*** \\"a\\"\\n"}'),)),
        ),
        (
            {"type": "function_call_output", "call_id": "1", "output": "a"},
            Message("tool", "a", tool_call_id="1"),
        ),
        (
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "a"}]},
            Message("tool", "a", tool_call_id="1"),
        ),
        (
            {"type": "function_call_output", "call_id": "1", "output": {"success": True}},
            Message("tool", '{"success":true}', tool_call_id="1"),
        ),
        (
            {"type": "custom_tool_call_output", "call_id": "1", "output": "a"},
            Message("tool", "a", tool_call_id="1"),
        ),
        (
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "So"}]},
            Message("assistant", "", reasoning="So"),
        ),
        (
            {
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "So"}],
                "content": [{"type": "reasoning_text", "text": "So it is"}],
                "encrypted_content": "gAAAAB-another-server's",
            },
            Message("assistant", "", reasoning="So it is"),
        ),
        (
            {"type": "reasoning", "summary": [], "content": None, "encrypted_content": sealed_reasoning("Sø")},
            Message("assistant", "", reasoning="Sø"),
        ),
    ],
)
def test_item_shapes(item: dict[str, Any], message: Message) -> None:
    assert messages(item) == (message,)


def test_instructions_come_first() -> None:
    assert conversation(instructions="Be brief").messages == (Message("system", "Be brief"), Message("user", "Hello"))


def test_the_items_of_one_answer_are_one_message() -> None:
    def call(number: int) -> dict[str, Any]:
        return {"type": "function_call", "call_id": str(number), "name": "read", "arguments": "{}"}

    def output(number: int) -> dict[str, Any]:
        return {"type": "function_call_output", "call_id": str(number), "output": "a"}

    assert messages(
        {"role": "user", "content": "Hello"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "So"}]},
        {"role": "assistant", "content": "I look"},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search"}},
        call(1),
        call(2),
        output(1),
        output(2),
        {"role": "assistant", "content": "It is"},
        {"role": "assistant", "content": "And more"},
        call(3),
    ) == (
        Message("user", "Hello"),
        Message("assistant", "I look", (ToolCall("1", "read", "{}"), ToolCall("2", "read", "{}")), reasoning="So"),
        Message("tool", "a", tool_call_id="1"),
        Message("tool", "a", tool_call_id="2"),
        Message("assistant", "It is"),
        Message("assistant", "And more", (ToolCall("3", "read", "{}"),)),
    )


def test_every_kind_of_tool_is_offered_as_a_function() -> None:
    schema = msgspec.json.encode(SCHEMA).decode()
    grammar = PATCH | {"format": {"type": "grammar", "syntax": "lark", "definition": "start: /a/"}}
    plain = {"type": "custom", "name": "plain"}
    tools = [READ | {"strict": True}, {"type": "web_search"}, grammar, plain, FILES, AGENTS]
    assert conversation(tools=tools).tools == (
        Tool("read", "Reads", schema, True),
        Tool("apply_patch", "Patches\n\nThe input must match this lark grammar:\nstart: /a/", FREEFORM_PARAMETERS),
        Tool("plain", "", FREEFORM_PARAMETERS),
        Tool("mcp__files__read", "Reads", schema),
        Tool("agents__read", "Reads", schema),
        Tool("agents__apply_patch", "Patches", FREEFORM_PARAMETERS),
    )


def test_the_input_may_add_tools() -> None:
    items = [
        {"type": "additional_tools", "role": "developer", "tools": [FILES]},
        {"role": "user", "content": "a"},
        {"type": "tool_search_output", "call_id": "1", "tools": [READ, FILES]},
    ]
    assert [tool.name for tool in conversation(input=items).tools] == ["mcp__files__read", "read"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "read"}, ToolChoice("required", ("read",))),
        ({"type": "function", "name": "write"}, ToolChoice("required", ("mcp__files__write",))),
        (
            {"type": "function", "name": "read", "namespace": "mcp__files__"},
            ToolChoice("required", ("mcp__files__read",)),
        ),
        ({"type": "function", "name": "mcp__files__read"}, ToolChoice("required", ("mcp__files__read",))),
        ({"type": "custom", "name": "apply_patch"}, ToolChoice("required", ("apply_patch",))),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "custom", "name": "apply_patch"}, {"type": "web_search"}],
            },
            ToolChoice("required", ("apply_patch",)),
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "mcp__files__"}]},
            ToolChoice("auto", ("mcp__files__read", "mcp__files__write")),
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}, ToolChoice("none")),
    ],
)
def test_every_way_to_choose_among_tools(choice: Any, expected: ToolChoice) -> None:
    files = FILES | {"tools": [READ, READ | {"name": "write"}]}
    assert conversation(tools=[READ, PATCH, files], tool_choice=choice).tool_choice == expected


def test_lists_of_tools_that_others_run_are_not_read() -> None:
    listed = {"type": "mcp_list_tools", "server_label": "x", "tools": [{"name": "a", "input_schema": {}}, 3]}
    assert conversation(input=[listed, {"role": "user", "content": "Hello"}]).tools == ()


def test_a_tool_without_a_type_is_a_function_and_sent_back_as_one() -> None:
    untyped = {name: value for name, value in READ.items() if name != "type"}
    assert conversation(tools=[untyped]).tools == conversation(tools=[READ]).tools
    added = {"type": "additional_tools", "role": "developer", "tools": [untyped]}
    assert conversation(input=[added, {"role": "user", "content": "a"}]).tools == conversation(tools=[READ]).tools
    request = parse_responses_request(body(tools=[untyped]))
    assert msgspec.to_builtins(request.tools) == [READ]


def test_a_cache_key_names_a_session_of_its_own() -> None:
    assert understood(prompt_cache_key="a").origin.session != understood(prompt_cache_key="b").origin.session


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"input": 3}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "wizard", "content": "a"}]}, "input[0].role"),
        ({"input": [{"type": "message", "content": "a"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "arguments": "{}"}]}, "input[0].name"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [READ, READ]}, "tools[1]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"input": [{"type": "additional_tools", "tools": [READ | {"name": 3}]}]}, "input[0].tools[0].name"),
        ({"input": [{"type": "additional_tools", "tools": 3}]}, "input[0].tools"),
        ({"tools": [{"type": "namespace", "name": "a"}]}, "tools[0]"),
        ({"tools": [FILES, READ | {"name": "mcp__files__read"}]}, "tools[1]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [READ], "tool_choice": {"type": "function", "name": "write"}}, "tool_choice"),
        ({"tools": [READ], "tool_choice": {"type": "web_search_preview"}}, "tool_choice"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "mcp"}]}},
            "tool_choice.tools",
        ),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"truncation": "some"}, "truncation"),
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
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "local_shell_call", "call_id": "1", "action": {}}]}, "input[0].type"),
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0].type"),
        ({"input": [{}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]},
            "input[0].content[0]",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "1", "output": [{"type": "input_image"}]}]},
            "input[0].output[0]",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        understood(**fields)
    assert caught.value.param == param


def test_what_has_no_effect_is_known() -> None:
    fields: dict[str, Any] = {
        "store": True,
        "truncation": "auto",
        "text": {"verbosity": "low"},
        "stream_options": {"include_obfuscation": True},
        "user": "u",
        "include": ["message.output_text.logprobs", "web_search_call.action.sources"],
        "service_tier": "flex",
        "tools": [{"type": "web_search"}, {"type": "mcp", "server_label": "a"}, READ, AGENTS],
    }
    sent = body(**fields)
    request = parse_responses_request(sent)
    names = [
        "include[1].web_search_call.action.sources",
        "service_tier",
        "store",
        "stream_options.include_obfuscation",
        "text.verbosity",
        "truncation",
        "user",
    ]
    assert ignored(sent, request) == names
    assert ignored_tools(request) == ["mcp", "web_search"]


def test_what_is_done_as_asked_needs_no_warning() -> None:
    sent = body(store=False, truncation="disabled", background=False, include=["reasoning.encrypted_content"])
    assert ignored(sent, parse_responses_request(sent)) == []
