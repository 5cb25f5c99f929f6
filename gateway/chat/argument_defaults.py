"""Arguments that a client fills in where the model said nothing: the defaults of the tool's schema.

Measured of Claude Code: it sends a call back with every default in its place, so the same call gets more arguments than
were generated.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gateway.generation.request import Tool, ToolCall


def without_defaults(calls: Sequence[ToolCall], tools: Sequence[Tool]) -> tuple[ToolCall, ...]:
    """The calls without the arguments that say what the tool's schema takes for granted; others are as they were."""
    schemas = {tool.name: tool.parameters for tool in tools}
    return tuple(_without(call, _defaults(schemas.get(call.name, "{}"))) for call in calls)


def _without(call: ToolCall, defaults: dict[str, Any]) -> ToolCall:
    arguments = _object(call.arguments) if defaults else {}
    said = {name: value for name, value in arguments.items() if name not in defaults or value != defaults[name]}
    return call if len(said) == len(arguments) else replace(call, arguments=json.dumps(said))


def _defaults(parameters: str) -> dict[str, Any]:
    properties = _object(parameters).get("properties")
    if not isinstance(properties, dict):
        return {}
    return {
        name: schema["default"]
        for name, schema in properties.items()
        if isinstance(schema, dict) and "default" in schema
    }


def _object(text: str) -> dict[str, Any]:
    """{} for what is no JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
