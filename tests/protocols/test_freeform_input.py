"""The text for a custom tool, however its JSON is written and cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.freeform_input import FreeformInput

TEXT = st.text(st.characters(codec="utf-8"))


def read(pieces: list[str]) -> str:
    freeform = FreeformInput()
    return "".join([*map(freeform.feed, pieces), freeform.finish()])


@given(text=TEXT, ascii_only=st.booleans(), data=st.data())
def test_any_text_in_any_pieces(text: str, ascii_only: bool, data: st.DataObject) -> None:
    written = json.dumps({"input": text}, ensure_ascii=ascii_only)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(written)))))
    pieces = [written[a:b] for a, b in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    assert read(pieces) == text


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (' {\n "input" :\t"a\\n\\u00e9\\ud83e\\udd9c" } ', "a\né🦜"),
        ('{"input": "half \\ud83e of it"}', "half \ufffd of it"),
        ('{"input": "half \\ud83e', "half "),
        ('{"input": "raw\nline \\d"}', "raw\nline \\d"),
        ('{"input": "a", "input": "b"}', "a"),
        ('{"note": "b", "input": "a"}', "a"),
        ('{"patch": "a"}', "a"),
        ('"a"', "a"),
        ('{"a": "b", "c": "d"}', '{"a": "b", "c": "d"}'),
        ('{"input": 3}', '{"input": 3}'),
        ("[1]", "[1]"),
        ("*** Begin Patch", "*** Begin Patch"),
        ("", ""),
    ],
)
def test_what_models_write_instead(written: str, text: str) -> None:
    assert read([written]) == text
    assert read(list(written)) == text


def test_text_comes_as_it_is_certain() -> None:
    freeform = FreeformInput()
    assert [freeform.feed(piece) for piece in ('{"in', 'put":"a', "b\\", "n", "\\ud83e", "\\udd9c", '"}')] == [
        "",
        "a",
        "b",
        "\n",
        "",
        "🦜",
        "",
    ]
