"""Nemotron: `<TOOLCALL>[{"name": "read_file", "arguments": {"path": "a.txt"}}]</TOOLCALL>`."""

from gateway.chat.tool_calls.json_calls import MarkedJson


class Nemotron(MarkedJson):
    opening = "<TOOLCALL>"
    closing = "</TOOLCALL>"
