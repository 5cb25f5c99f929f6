"""The text for a custom tool, out of the JSON in which a model calls it: `{"input": "*** Begin Patch\\n..."}`."""

import json
import re

OPENING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
PLAIN = re.compile(r'[^"\\]+')
ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # two halves of one character
    r"|u[0-9a-fA-F]{4}|[^u])",
    re.DOTALL,
)
HALF = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z")
SURROGATE = re.compile("[\ud800-\udfff]")


class FreeformInput:
    """`feed` fragments of the JSON, then `finish`; both give what is certain of the text and was not given yet.

    Other JSON than this is taken for what it may mean: an object's text under `input` or its only text, a string's
    text, and else the JSON itself.
    """

    def __init__(self) -> None:
        self._held = ""
        self._opened = False
        self._closed = False

    def feed(self, fragment: str) -> str:
        self._held += fragment
        if not self._opened and (opening := OPENING.match(self._held)):
            self._opened = True
            self._held = self._held[opening.end() :]
        return self._decoded() if self._opened and not self._closed else ""

    def finish(self) -> str:
        return "" if self._opened else _meant_by(self._held)

    def _decoded(self) -> str:
        texts = []
        at = 0
        while at < len(self._held):
            if self._held[at] == '"':
                self._closed = True
                break
            if plain := PLAIN.match(self._held, at):
                texts.append(plain[0])
                at = plain.end()
                continue
            escape = ESCAPE.match(self._held, at)
            if escape is None or HALF.match(self._held, at):
                break  # the rest of it is yet to come
            texts.append(_unescaped(escape[0]))
            at = escape.end()
        self._held = self._held[at:]
        return "".join(texts)


def _unescaped(escape: str) -> str:
    try:
        return _without_halves(json.loads(f'"{escape}"', strict=False))
    except ValueError:
        return escape  # no escape of JSON's


def _meant_by(arguments: str) -> str:
    try:
        value = json.loads(arguments, strict=False)
    except (ValueError, RecursionError):
        return arguments
    if isinstance(value, dict):
        only = next(iter(value.values())) if len(value) == 1 else None
        value = value.get("input", only)
    return _without_halves(value) if isinstance(value, str) else arguments


def _without_halves(text: str) -> str:
    """Half of a surrogate pair is no character."""
    return SURROGATE.sub("\ufffd", text)
