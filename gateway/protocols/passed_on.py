"""Bodies that are passed on to and from another server: only the model's name is changed, all else stays as it is."""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import TypeVar

import msgspec
from msgspec import Raw

Value = TypeVar("Value")

MODEL_FIELD = b'"model"'
HOLDERS = ("response", "message")
"""Objects that hold a model's name: in events of OpenAI's responses, and of Anthropic's messages."""

CONVERSATION_STARTS = ("instructions", "system", "messages", "input", "prompt")
FIRST_TURNS = 2
FIRST_BYTES = 1024
"""Of a text that goes on, what it begins with."""


def body_fields(body: bytes) -> dict[str, Raw]:
    """Nothing for what is no JSON object."""
    try:
        return msgspec.json.decode(body, type=dict[str, Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def field_value(fields: Mapping[str, Raw], name: str, kind: type[Value]) -> Value | None:
    """None unless it is there and of that kind."""
    try:
        return msgspec.json.decode(fields[name], type=kind)
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def session_hint(fields: Mapping[str, Raw]) -> str:
    """What a body says of its conversation: the name it gives, else a digest of how the prompt begins."""
    metadata = field_value(fields, "metadata", dict[str, Raw]) or {}
    named = field_value(fields, "prompt_cache_key", str) or field_value(metadata, "user_id", str)
    if named:
        return named
    begin = b"\0".join(part for name in CONVERSATION_STARTS for part in _beginning(fields, name))
    return blake2b(begin, digest_size=8).hexdigest()


def with_model(body: bytes, model: str) -> bytes:
    """An answer that names `model`, wherever it names one."""
    if MODEL_FIELD not in body:
        return body
    fields = body_fields(body)
    changed: dict[str, object] = {}
    if "model" in fields:
        changed["model"] = model
    for holder in HOLDERS:
        inner = field_value(fields, holder, dict[str, Raw])
        if inner and "model" in inner:
            changed[holder] = {**inner, "model": model}
    return msgspec.json.encode({**fields, **changed}) if changed else body


def events_with_model(events: bytes, model: str) -> bytes:
    """The same of whole server-sent events."""
    if MODEL_FIELD not in events:
        return events
    return b"\n".join(_line_with_model(line, model) for line in events.split(b"\n"))


def _line_with_model(line: bytes, model: str) -> bytes:
    if not line.startswith(b"data:"):
        return line
    data = line.removeprefix(b"data:").strip()
    changed = with_model(data, model)
    return line if changed is data else line.replace(data, changed)


def _beginning(fields: Mapping[str, Raw], name: str) -> Iterator[bytes]:
    if name not in fields:
        return
    turns = field_value(fields, name, list[Raw])
    if turns is None:
        yield bytes(fields[name])[:FIRST_BYTES]
    else:
        yield from (bytes(turn) for turn in turns[:FIRST_TURNS])
