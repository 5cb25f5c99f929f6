"""Forty tools in the shapes that the tools of coding agents have, made so that any valid call is short."""

from typing import Any

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
PATH = {"type": "string", "minLength": 1, "maxLength": 12, "description": "The file, relative to the workspace."}
WORD = {"type": "string", "maxLength": 10}
COUNT = {"type": "integer", "minimum": 1, "maximum": 2000}


def parameters(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    closed = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return closed | more


SCHEMAS: dict[str, dict[str, Any]] = {
    "read_file": parameters({"path": PATH}, "path", **{"$schema": DRAFT_7}),
    "read_lines": parameters({"path": PATH, "offset": {"type": "integer", "minimum": 0}, "limit": COUNT}, "path"),
    "write_to_file": parameters({"path": PATH, "content": {"type": "string", "maxLength": 24}}, "path", "content"),
    "replace_in_file": parameters({"path": PATH, "old_string": WORD, "new_string": WORD}, "path", "old_string"),
    "edit": parameters({"filePath": PATH, "replaceAll": {"type": "boolean", "default": False}}, "filePath"),
    "multi_edit": parameters(
        {
            "path": PATH,
            "edits": {
                "type": "array",
                "items": parameters({"old": WORD, "new": WORD}, "old", "new"),
                "minItems": 1,
                "maxItems": 2,
            },
        },
        "path",
        "edits",
    ),
    "list_files": parameters({"path": PATH, "recursive": {"type": "boolean"}}, "path"),
    "search_files": parameters(
        {"path": PATH, "regex": WORD, "file_pattern": {"type": "string", "maxLength": 6}}, "path"
    ),
    "glob": parameters({"pattern": {"type": "string", "pattern": r"^\*\*?/[a-z]{1,4}\.(py|ts|md)$"}}, "pattern"),
    "grep": parameters(
        {
            "pattern": WORD,
            "output_mode": {"type": "string", "enum": ["content", "files_with_matches", "count"]},
            "-i": {"type": "boolean"},
            "head_limit": {"type": "number", "minimum": 0, "maximum": 100},
        },
        "pattern",
        "output_mode",
    ),
    "execute_command": parameters({"command": WORD, "requires_approval": {"type": "boolean"}}, "command"),
    "bash": parameters(
        {"command": WORD, "timeout": {"type": "integer", "exclusiveMinimum": 0, "maximum": 600}}, "command"
    ),
    "shell": parameters(
        {
            "command": {"type": "array", "items": WORD, "minItems": 1, "maxItems": 3},
            "workdir": {"anyOf": [PATH, {"type": "null"}]},
        },
        "command",
        "workdir",
    ),
    "apply_patch": parameters({"input": {"type": "string", "maxLength": 30}}, "input"),
    "update_plan": parameters(
        {
            "explanation": WORD,
            "plan": {
                "type": "array",
                "items": parameters(
                    {"step": WORD, "status": {"enum": ["pending", "in_progress", "completed"]}}, "step", "status"
                ),
                "minItems": 1,
                "maxItems": 2,
            },
        },
        "plan",
    ),
    "todo_write": parameters(
        {
            "todos": {
                "type": "array",
                "items": parameters(
                    {"content": WORD, "id": {"type": "string", "pattern": "^[0-9]{1,3}$"}}, "content", "id"
                ),
                "maxItems": 2,
            }
        },
        "todos",
        **{"$schema": DRAFT_7},
    ),
    "web_fetch": parameters({"url": {"type": "string", "format": "uri", "maxLength": 30}, "prompt": WORD}, "url"),
    "web_search": parameters({"query": WORD, "num_results": COUNT}, "query"),
    "ask_followup_question": parameters(
        {"question": WORD, "options": {"type": "array", "items": WORD, "minItems": 2, "maxItems": 3}},
        "question",
        "options",
    ),
    "attempt_completion": parameters(
        {"result": WORD, "command": {"type": ["string", "null"], "maxLength": 8}}, "result"
    ),
    "browser_action": parameters(
        {
            "action": {"enum": ["launch", "click", "type", "close"]},
            "coordinate": {
                "type": "array",
                "prefixItems": [COUNT, COUNT],
                "items": False,
                "minItems": 2,
                "maxItems": 2,
            },
        },
        "action",
    ),
    "use_mcp_tool": parameters(
        {
            "server_name": WORD,
            "arguments": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2},
        },
        "server_name",
        "arguments",
    ),
    "task": parameters({"description": WORD, "subagent_type": {"const": "general"}}, "description", "subagent_type"),
    "notebook_edit": parameters(
        {
            "notebook_path": PATH,
            "cell_type": {"type": "string", "enum": ["code", "markdown"]},
            "edit_mode": {"enum": ["replace", "insert", "delete"], "default": "replace"},
        },
        "notebook_path",
    ),
    "lsp": parameters(
        {"operation": {"oneOf": [{"const": "definition"}, {"const": "references"}]}, "line": COUNT}, "operation", "line"
    ),
    "set_timer": parameters({"at": {"type": "string", "format": "date-time"}}, "at"),
    "send_mail": parameters({"to": {"type": "string", "format": "email", "maxLength": 20}}, "to"),
    "lookup": parameters({"id": {"type": "string", "format": "uuid"}}, "id"),
    "labels": parameters(
        {
            "labels": {
                "type": "object",
                "propertyNames": {"type": "string", "enum": ["bug", "docs"]},
                "additionalProperties": {"type": "boolean"},
            }
        },
        "labels",
    ),
    "environment": parameters(
        {
            "env": {
                "type": "object",
                "propertyNames": {"pattern": "^[A-Z]{1,4}$"},
                "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9},
                "maxProperties": 2,
            }
        },
        "env",
    ),
    "memory": {
        "anyOf": [
            parameters({"command": {"const": "view"}, "path": PATH}, "command", "path"),
            parameters({"command": {"const": "delete"}, "path": PATH}, "command", "path"),
        ]
    },
    "calendar": parameters({"day": {"type": "string", "format": "date"}, "all_day": {"type": "boolean"}}, "day"),
    "resize": parameters(
        {"scale": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "width": COUNT | {"multipleOf": 8}}, "scale"
    ),
    "tree": {
        "$defs": {
            "node": parameters(
                {
                    "name": {"enum": ["src", "lib"]},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 1},
                },
                "name",
            ),
            "leaf": parameters({"name": WORD}, "name"),
        },
        **parameters({"root": {"$ref": "#/$defs/node"}}, "root"),
    },
    "query": parameters(
        {"filter": parameters({"all": parameters({"tag": WORD, "since": COUNT}, "tag")}, "all"), "limit": COUNT},
        "filter",
    ),
    "range": parameters({"start": COUNT, "end": {"anyOf": [COUNT, {"type": "null"}], "default": None}}, "start", "end"),
    "open_editor": parameters(
        {
            "path": PATH | {"format": "path"},
            "column": {"type": "integer", "format": "uint8", "minimum": 0, "maximum": 255},
        },
        "path",
    ),
    "set_mode": parameters(
        {"mode": {"type": "string", "enum": ["plan", "act"]}, "level": {"enum": [1, 2.5, None]}}, "mode", "level"
    ),
    "no_arguments": {"type": "object", "properties": {}, "additionalProperties": False},
    "no_type": {"properties": {"reason": WORD}, "required": ["reason"], "additionalProperties": False},
}


def tool(name: str) -> dict[str, Any]:
    """In the form of OpenAI's chat completions."""
    return {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": SCHEMAS[name]}}
