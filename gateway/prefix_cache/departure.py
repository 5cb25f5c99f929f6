"""What tells causes apart in the text where a prompt departs from what is cached: `before` stands in both, then one
goes on with `prompt`, the other with `cached`. Pure text; each is some dozens of tokens, cut off anywhere.
"""

import re
from typing import NamedTuple

MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
DAY = r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?"
CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?"


class Value(NamedTuple):
    """What people call a kind of value that changes by itself, and how it looks."""

    name: str
    pattern: re.Pattern[str]


def _value(name: str, pattern: str) -> Value:
    return Value(name, re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE))


CHANGING_VALUES = (
    _value("A time stamp", rf"\d{{4}}-\d\d-\d\d[T ]{CLOCK}(?: ?(?:Z|UTC|GMT|[+-]\d\d:?\d\d))?"),
    _value("A time stamp", r"1[6-9]\d{8}(?:\.\d+|\d{3})?"),  # seconds or milliseconds since 1970
    _value("A date", r"\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{2,4}"),
    _value("A date", rf"(?:{DAY},? )?(?:{MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}|\d{{1,2}}\.? {MONTH},? \d{{4}})"),
    _value("A date", DAY),
    _value("A time", rf"(?<!:){CLOCK} ?(?:[ap]\.?m\.?)?"),
    _value("A cost", r"[$€£]\s?\d+(?:[.,]\d+)?|\d+\.\d{2,} ?(?:USD|EUR)"),
    _value("A count of tokens", r"\d[\d.,]*[km]?(?: ?/ ?\d[\d.,]*[km]?)? tokens"),
    _value("A random id", r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    _value("A commit", r"(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,40}"),
)
"""A more telling kind first."""

GIT_STATUS = re.compile(r"git ?status|recent commits:|current branch:|(?:^|\n)status:", re.IGNORECASE)
GIT_LINE = re.compile(r"(?:[ MADRCU?!]{1,2} \S|[0-9a-f]{7,12} \S|\(clean\)|On branch |nothing to commit)")
ENVIRONMENT_OPENS, ENVIRONMENT_CLOSES = "<environment_details>", "</environment_details>"

TOOL_SCHEMA = re.compile(
    r'"(?:parameters|properties|input_?schema|required|enum|additionalProperties)"\s*:'
    r'|"type"\s*:\s*"(?:function|object|string|integer|number|boolean|array)"'
    r"|\) => any|<parameters>|# Tools\b|namespace functions",
    re.IGNORECASE,
)

THOUGHTS = r"(?:think|thinking|thought|reasoning|seed:think)"
REASONING_OPENS = re.compile(rf"<{THOUGHTS}>|\[THINK\]|◁think▷|<\|channel\|>analysis")
REASONING_CLOSES = re.compile(rf"</{THOUGHTS}>|\[/THINK\]|◁/think▷|<\|channel\|>final")
NEAR_CHARACTERS = 24


def changed_value(before: str, prompt: str, cached: str) -> str | None:
    """The kind of value that changed by itself in this place, such as a date; None if it is something else."""
    for name, pattern in CHANGING_VALUES:
        new, old = (_at(pattern, before, text) for text in (prompt, cached))
        if new and old and new != old:
            return name
    if before.rfind(ENVIRONMENT_OPENS) > before.rfind(ENVIRONMENT_CLOSES):
        return "The state of the client's environment"
    if GIT_STATUS.search(before) and any(GIT_LINE.match(_line(before, text)) for text in (prompt, cached)):
        return "The state of the repository"
    return None


def tools_differ(before: str, prompt: str, cached: str) -> bool:
    """Whether this place is in a list of tools or where one of both lists ends."""
    both_sides = all(len(TOOL_SCHEMA.findall(before + text)) >= 2 for text in (prompt, cached))
    return both_sides and any(TOOL_SCHEMA.search(text) for text in (prompt, cached))


def reasoning_missing(before: str, prompt: str, cached: str) -> bool:
    """Whether the model's thoughts are in `cached`, and not in `prompt`."""
    if _last(REASONING_OPENS, before) > _last(REASONING_CLOSES, before):
        return _begins_with(REASONING_CLOSES, prompt) and not _begins_with(REASONING_CLOSES, cached)
    return _reasoning_opens(before, cached) and not _reasoning_opens(before, prompt)


def _reasoning_opens(before: str, text: str) -> bool:
    """Whether thoughts begin in this place, or just behind it; their mark may begin before it."""
    place = len(before)
    marks = REASONING_OPENS.finditer(before + text[:NEAR_CHARACTERS])
    return any(mark.end() > place for mark in marks)


def _at(pattern: re.Pattern[str], before: str, text: str) -> str | None:
    """What the pattern finds that reaches over the place, or begins just behind it."""
    place = len(before)
    for found in pattern.finditer(before + text):
        if found.start() > place + 1:
            return None
        if found.end() > place:
            return found.group()
    return None


def _line(before: str, text: str) -> str:
    """The line that the place is in."""
    return before.rpartition("\n")[2] + text.partition("\n")[0]


def _last(pattern: re.Pattern[str], text: str) -> int:
    return max((found.start() for found in pattern.finditer(text)), default=-1)


def _begins_with(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.match(text.lstrip()) is not None
