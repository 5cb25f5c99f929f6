"""Answers whose beginning the conversation gives: they go on with it, and nothing of it is said again."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.chat.answer_grammar import answer_shape
from gateway.chat.output_format import OutputFormat, output_format
from gateway.chat.output_parser import OutputParser, Said
from gateway.chat.prompt import Prompt, PromptBuilder
from gateway.chat.reasoning import KNOWN_MARKS
from gateway.chat.tool_calls.command_r import CommandR
from gateway.chat.tool_calls.harmony import Harmony
from gateway.chat.tool_calls.hermes import Hermes
from gateway.chat.tool_calls.llama3_json import Llama3Json
from gateway.chat.tool_calls.table import DIALECTS
from gateway.errors import UnsupportedParameter
from gateway.generation.request import Conversation, Grammar, Message, Tool, ToolChoice
from tests.chat.prompt_builders import QWEN3, THREADS, builder_with_template

TOOL = Tool("read")
ASKED = Conversation((Message("user", "Hi"),), (TOOL,), begun=Message("assistant", "Hel"))


def said(parser: OutputParser, pieces: list[str]) -> str:
    read = [piece for text in pieces for piece in parser.feed(text)] + parser.finish()
    return "".join(piece.text for piece in read if isinstance(piece, Said))


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: type(dialect).__name__)
@given(begun=st.sampled_from(["Hel", "{", "[", "Hel <", '{"a"', " a", ""]), cut=st.integers(0, 12))
def test_only_what_follows_is_said(dialect: object, begun: str, cut: int) -> None:
    output = OutputFormat(KNOWN_MARKS[0], dialect)  # type: ignore[arg-type]
    text = "lo, a: 1 world."
    assert said(output.parser((TOOL,), "", begun=begun), [text[:cut], text[cut:]]) == text


def test_calls_behind_the_words_are_calls() -> None:
    parser = OutputFormat(None, Hermes()).parser((TOOL,), "", begun="I look.")
    pieces = parser.feed('\n<tool_call>\n{"name": "read", "arguments": {"a": 1}}\n</tool_call>') + parser.finish()
    assert [type(piece).__name__ for piece in pieces] == ["CallBegan", "CallArguments"]


@pytest.mark.parametrize(
    ("output", "prompt_end", "reasoned", "before"),
    [
        (OutputFormat(KNOWN_MARKS[0]), "assistant\n", "", ""),
        (OutputFormat(KNOWN_MARKS[0]), "assistant\n<think>\n", "", "\n</think>\n\n"),
        (OutputFormat(KNOWN_MARKS[0]), "assistant\n", "Hm.", "<think>\nHm.\n</think>\n\n"),
        (OutputFormat(KNOWN_MARKS[0]), "assistant\n<think>\n\n</think>\n\n", "Hm.", ""),
        (OutputFormat(None, Harmony()), "<|start|>assistant", "", "<|channel|>final<|message|>"),
        (OutputFormat(None, CommandR()), "<|CHATBOT_TOKEN|><|START_RESPONSE|>", "", ""),
    ],
)
def test_what_stands_before_the_words(output: OutputFormat, prompt_end: str, reasoned: str, before: str) -> None:
    assert output.before_words(prompt_end, reasoned) == before


@pytest.fixture(scope="module")
def qwen3(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PromptBuilder:
    plain = builder_with_template(demo_folder, tmp_path_factory.mktemp("qwen3") / "model", QWEN3)
    return PromptBuilder(plain._tokenizer, plain._limit, THREADS, output_format(QWEN3))


async def test_the_prompt_ends_with_the_words(qwen3: PromptBuilder) -> None:
    before = await qwen3.compose(replace(ASKED, begun=None, tools=()))
    going_on: Prompt = await qwen3.compose(replace(ASKED, tools=()), with_message_ends=True)
    assert going_on.ids[: len(before.ids)] == before.ids
    assert qwen3._tokenizer.decode(going_on.ids[len(before.ids) :]) == "Hel"
    assert (going_on.place, going_on.end) == (before.place, before.end)
    assert going_on.message_ends


def test_a_form_would_begin_anew() -> None:
    with pytest.raises(UnsupportedParameter, match="begin anew"):
        answer_shape(OutputFormat(), ASKED, Grammar("json_object"), "")


def test_words_that_open_a_call_are_refused() -> None:
    with pytest.raises(UnsupportedParameter, match="<tool_call>"):
        answer_shape(OutputFormat(None, Hermes()), replace(ASKED, begun=Message("assistant", "<tool_call>{")), None, "")


def test_calls_that_begin_an_answer_cannot_be_forced_behind_its_words() -> None:
    output = OutputFormat(None, Llama3Json())
    assert answer_shape(output, ASKED, None, "") is None
    with pytest.raises(UnsupportedParameter, match="beginning of its answer"):
        answer_shape(output, replace(ASKED, tool_choice=ToolChoice("required")), None, "")
