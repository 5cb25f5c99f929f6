"""Causes of misses, on the texts that agents send."""

from dataclasses import replace

import pytest

from gateway.prefix_cache.explain import Lookup, MissCause, explain

IN_THE_MIDDLE = Lookup(prompt_tokens=9000, matched=4000, restored=4000, previous=8000, own=True)
"""A session's prompt departs from its previous one."""


def cause(lookup: Lookup) -> MissCause:
    return explain(lookup).cause


def departing(before: str, prompt: str, cached: str) -> Lookup:
    return replace(IN_THE_MIDDLE, before=before, prompt=prompt, cached=cached)


# --- values that change by themselves

CHANGED_VALUES = {
    "claude code, date": ("<env>\nPlatform: linux\nToday's date: 2026-10-0", "6\n</env>", "5\n</env>"),
    "opencode, date": ("  Platform: linux\n  Today's date: ", "Tue Oct 06 2026\n</env>", "Mon Oct 05 2026\n</env>"),
    "codex, date": ("<current_date>2026-", "11-01</current_date>", "10-31</current_date>"),
    "cline, time": (
        "# Current Time\n10/5/2026, 3:0",
        "5:09 PM (Europe/Berlin, UTC+2:00)",
        "4:58 PM (Europe/Berlin, UTC+2:00)",
    ),
    "roo, time stamp": (
        "# Current Time\nCurrent time in ISO 8601 UTC format: 2026-10-05T14:5",
        "8:01.007Z\nUser time zone",
        "7:21.123Z\nUser time zone",
    ),
    "roo, cost": (
        "# Current Cost\n$0.",
        "14\n\n# Current Mode\n<slug>code</slug>",
        "12\n\n# Current Mode\n<slug>code</slug>",
    ),
    "cline, context": (
        "# Context Window Usage\n1",
        "12,400 / 200K tokens used (56%)",
        "05,000 / 200K tokens used (52%)",
    ),
    "written out": ("You are a helpful assistant. It is ", "Tuesday, 6 October 2026.", "Monday, 5 October 2026."),
    "month first": ("Knowledge cutoff: 2026-06\nCurrent date: October ", "6th, 2026", "5th, 2026"),
    "weekday": ("Today is ", "Tuesday.", "Monday."),
    "seconds since 1970": ('{"now": 17', "91234567}", "91230000}"),
    "random id": ("Request 3f2b8c1", "e-5717-4562-b3fc-2c963f66afa6", "d-0911-4cde-a0f1-9d1c6b3a2f10"),
}


@pytest.mark.parametrize("texts", CHANGED_VALUES.values(), ids=CHANGED_VALUES)
def test_a_value_changed(texts: tuple[str, str, str]) -> None:
    assert cause(departing(*texts)) is MissCause.DATE_OR_TIME
    assert cause(replace(departing(*texts), previous=None, own=False)) is MissCause.DATE_OR_TIME  # a new session, too


GIT = "gitStatus: This is the git status at the start of the conversation.\nCurrent branch: main\n\nStatus:\n"


def test_the_repository_changed() -> None:
    assert cause(departing(GIT, " M src/app.py\n", "(clean)\n\nRecent commits:")) is MissCause.DATE_OR_TIME
    assert (
        cause(departing(f"{GIT}(clean)\n\nRecent commits:\n", "9f3c2aa Fix", "1b7e0d4 Add")) is MissCause.DATE_OR_TIME
    )
    found = explain(departing(f"{GIT} M src/a", "pp.py\n", "uth.py\n"))
    assert "The state of the repository changed" in found.sentence


def test_anything_in_the_environment_details_changes() -> None:
    open_block = "</task>\n<environment_details>\n# VSCode Visible Files\nsrc/"
    assert cause(departing(open_block, "a.py\n", "b.py\n")) is MissCause.DATE_OR_TIME
    closed = f"{open_block}a.py\n</environment_details>\nNow rename "
    assert cause(departing(closed, "this.", "that.")) is MissCause.HISTORY_EDITED


@pytest.mark.parametrize(
    ("before", "prompt", "cached"),
    [
        ("The release of 2026-10-05 is out. Please ", "summarise it", "translate it"),
        ("Meet me ", "on Monday", "at the station"),
        ("def total(x):\n    return x * ", "2", "3"),
        ("error at app.py:12:3", "0: undefined name", "1: undefined name"),
    ],
)
def test_other_edits_are_not_taken_for_changed_values(before: str, prompt: str, cached: str) -> None:
    assert cause(departing(before, prompt, cached)) is MissCause.HISTORY_EDITED


# --- tools

TOOL = (
    '{"type": "function", "function": {"name": "read_file", "description": "Read a file.", "parameters": '
    '{"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}}'
)


def test_the_list_of_tools_changed() -> None:
    other = TOOL.replace("read_file", "browser").replace("Read a file", "Open a page")
    assert cause(departing(f"<tools>\n{TOOL}\n", f"{TOOL}\n", f"{other}\n")) is MissCause.TOOLS_CHANGED
    place = TOOL.index("read_file")
    assert cause(departing(TOOL[:place], TOOL[place:], other[place:])) is MissCause.TOOLS_CHANGED


def test_a_tool_was_added_at_the_end() -> None:
    end = "</tools>\n\nFor each function call, return a json object"
    assert cause(departing(f"{TOOL}\n", f"{TOOL}\n</tools>", end)) is MissCause.TOOLS_CHANGED
    assert cause(departing(f"{TOOL}\n", end, f"{TOOL}\n</tools>")) is MissCause.TOOLS_CHANGED


def test_tools_in_the_syntax_of_gpt_oss() -> None:
    before = "# Tools\n\n## functions\n\nnamespace functions {\n\ntype read = (_: {\npath: string,\n}) => any;\n\n"
    found = cause(departing(before, "type browse = (_: {url: string}) => any;\n", "type shell = (_: {}) => any;\n"))
    assert found is MissCause.TOOLS_CHANGED


def test_a_tools_call_is_not_a_list_of_tools() -> None:
    before = '<tool_call>\n{"name": "write_file", "arguments": {"path": "a.json", "description": "'
    assert cause(departing(before, 'x", "required": true}}', 'y", "required": true}}')) is MissCause.HISTORY_EDITED


# --- reasoning


@pytest.mark.parametrize(
    ("before", "prompt", "cached"),
    [
        ("<|im_start|>assistant\n", "Here is the file.<|im_end|>", "<think>\nThe user wants"),
        ("<|im_start|>assistant\n<think>", "\n\n</think>\n\nHere is", "\nThe user wants me to"),
        ("<|im_start|>assistant\n<think>\n", "</think>\n\nHere is", "The user wants me to"),
        ("<|start|>assistant<|channel|>", "final<|message|>Done.", "analysis<|message|>The user"),
        ("[/INST]", "Done.", "[THINK]The user"),
    ],
)
def test_thoughts_were_left_out(before: str, prompt: str, cached: str) -> None:
    assert cause(departing(before, prompt, cached)) is MissCause.REASONING_STRIPPED


def test_other_thoughts_are_an_edit() -> None:
    assert cause(departing("<think>\nThe user ", "wants", "needs")) is MissCause.HISTORY_EDITED
    assert cause(departing("</think>\n\nHere ", "is", "comes")) is MissCause.HISTORY_EDITED


# --- what the numbers say

PLAIN = replace(IN_THE_MIDDLE, before="Please ", prompt="write", cached="read")


def test_all_was_reused() -> None:
    assert cause(replace(PLAIN, matched=8999, restored=8999)) is MissCause.NONE


def test_a_conversation_goes_on() -> None:
    going_on = replace(PLAIN, matched=7996, restored=7990)
    assert cause(going_on) is MissCause.NEW_CONTENT
    assert cause(replace(going_on, matched=8000, cached="")) is MissCause.NEW_CONTENT


def test_what_a_session_has_of_its_own_decides_between_edit_and_eviction() -> None:
    assert cause(PLAIN) is MissCause.HISTORY_EDITED
    assert cause(replace(PLAIN, evicted=True)) is MissCause.EVICTED
    assert cause(replace(PLAIN, cached="")) is MissCause.EVICTED
    assert cause(replace(PLAIN, own=False)) is MissCause.EVICTED  # another session goes on otherwise there


def test_first_requests() -> None:
    first = replace(PLAIN, previous=None, own=False)
    assert cause(first) is MissCause.FIRST_REQUEST
    assert cause(replace(first, other_model=True)) is MissCause.OTHER_MODEL
    empty = Lookup(9000, 0, 0, empty=True, previous=8000)
    assert cause(empty) is MissCause.FIRST_REQUEST
    assert cause(replace(empty, other_model=True)) is MissCause.OTHER_MODEL
    assert cause(replace(PLAIN, matched=12, restored=0)) is MissCause.FIRST_REQUEST  # such as a title


def test_all_is_known_but_there_is_no_checkpoint() -> None:
    assert cause(replace(PLAIN, matched=8999, restored=4000)) is MissCause.NO_CHECKPOINT


# --- the sentence


def test_the_sentence_has_the_numbers_and_both_texts() -> None:
    found = explain(departing("<env>\nDate: 2026-10-0", "6\n</env>\nAnd so on and on and on", "5\n</env>\nAnd"))
    assert found.sentence == (
        "4,000 of 9,000 prompt tokens were reused. A date changed: after 4,000 tokens, at “<env> Date: 2026-10-0”, "
        "“5 </env> And” became “6 </env> And so on and on and ”."
    )


def test_the_sentence_says_if_more_was_known_than_could_be_used() -> None:
    assert explain(replace(PLAIN, restored=3000)).sentence.endswith(
        " 1,000 more were known, but the last place that this model can go on from is before them."
    )
