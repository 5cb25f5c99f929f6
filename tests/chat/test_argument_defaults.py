import json

import pytest

from gateway.chat.argument_defaults import without_defaults
from gateway.generation.request import Tool, ToolCall

EDIT = Tool(
    "Edit",
    parameters=json.dumps(
        {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "replace_all": {"type": "boolean", "default": False},
                "lines": {"default": [1, 2]},
                "anything": True,
            },
        }
    ),
)


def call(arguments: str, name: str = "Edit") -> ToolCall:
    return ToolCall("call_1", name, arguments)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ('{"replace_all": false, "path": "a"}', {"path": "a"}),
        ('{"path": "a", "lines": [1, 2], "replace_all": true}', {"path": "a", "replace_all": True}),
        ('{"replace_all": false}', {}),
    ],
)
def test_what_is_taken_for_granted_is_left_out(sent: str, said: dict[str, object]) -> None:
    (left,) = without_defaults([call(sent)], [EDIT])
    assert json.loads(left.arguments) == said
    assert (left.id, left.name) == ("call_1", "Edit")


@pytest.mark.parametrize(
    "kept",
    [
        call('{"path":  "a"}'),
        call('{"lines": [2, 1]}'),
        call('{"replace_all": null}'),
        call('{"replace_all": false}', name="Write"),
        call("{cut"),
        call("[1]"),
        call("[" * 100_000),
        call(""),
    ],
)
def test_all_else_stays_as_it_was(kept: ToolCall) -> None:
    assert without_defaults([kept], [EDIT]) == (kept,)


@pytest.mark.parametrize("parameters", ["{}", "[]", "no JSON", '{"properties": 1}', '{"properties": {"a": 1}}'])
def test_a_schema_without_defaults(parameters: str) -> None:
    calls = (call('{"a": 1}'),)
    assert without_defaults(calls, [Tool("Edit", parameters=parameters)]) == calls
