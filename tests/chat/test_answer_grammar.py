"""What an answer must look like, by what is asked; and that a grammar of it takes and leaves the right answers."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.chat.answer_grammar import answer_shape
from gateway.chat.output_format import OutputFormat
from gateway.chat.output_parser import CallArguments, CallBegan
from gateway.chat.reasoning import ReasoningMarks
from gateway.chat.tool_calls.dialect import ToolDialect
from gateway.chat.tool_calls.frame import Frame
from gateway.chat.tool_calls.gemma4 import Gemma4
from gateway.chat.tool_calls.harmony import Harmony
from gateway.chat.tool_calls.hermes import Hermes
from gateway.chat.tool_calls.lfm2 import Lfm2
from gateway.chat.tool_calls.llama3_json import Llama3Json
from gateway.engine.grammar_compiler import GrammarCompiler
from gateway.errors import UnsupportedParameter
from gateway.generation.grammar import Shape
from gateway.generation.request import Conversation, Grammar, Message, Thinking, Tool, ToolChoice
from tests.chat.tool_calls.readings import fed
from tests.random_answers import END, SECOND_END

PARAMETERS = {
    "type": "object",
    "properties": {"path": {"type": "string"}},
    "required": ["path"],
    "additionalProperties": False,
}
TOOLS = tuple(Tool(name, parameters=json.dumps(PARAMETERS)) for name in ("read", "list"))
THINK = ReasoningMarks("<think>", "</think>")
ASK = (Message("user", "Hello"),)
FORM = Grammar("choice", '["yes", "no"]')
UNOPENED, OPENED, CLOSED = "assistant\n", "assistant\n<think>\n", "assistant\n<think>\n\n</think>\n\n"


def call(name: str = "read", arguments: str = '{"path": "a"}') -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def shape(
    *,
    reasoning: ReasoningMarks | None = None,
    calls: ToolDialect | None = None,
    form: Grammar | None = None,
    prompt_end: str = UNOPENED,
    **asked: Any,
) -> Shape | None:
    output = OutputFormat(reasoning, calls or Hermes())
    return answer_shape(output, Conversation(ASK, **asked), form, prompt_end)


class Unwritten(Gemma4):
    """Calls that no grammar writes."""

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> None:
        return None


Takes = Callable[[Shape | None, str], bool]


@pytest.fixture(scope="module")
def takes(demo_folder: Path) -> Iterator[Takes]:
    """Whether a whole answer is allowed."""
    from gateway.engine.model_loader import load_text_side

    side = load_text_side(demo_folder)
    compiler = GrammarCompiler(side.tokenizer, side.vocabulary, frozenset({END, SECOND_END}))

    def takes(shape: Shape | None, text: str) -> bool:
        assert shape is not None
        draft = [*side.tokenizer.encode(text, add_special_tokens=False), END]
        return compiler.compile(shape).start().masks_along(draft)[0] == len(draft)

    yield takes
    compiler.close()


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"reasoning": THINK},
        {"reasoning": THINK, "prompt_end": OPENED},
        {"reasoning": THINK, "prompt_end": CLOSED, "thinking": Thinking(enabled=False)},
        {"reasoning": THINK, "thinking": Thinking(enabled=True)},
        {"thinking": Thinking(enabled=False, budget_tokens=0)},
        {"calls": Unwritten(), "tools": TOOLS},
    ],
)
def test_an_answer_that_may_be_anything_needs_no_grammar(asked: dict[str, Any]) -> None:
    assert shape(**asked) is None


def test_the_same_request_asks_for_an_equal_shape() -> None:
    first, second = (shape(tools=TOOLS, reasoning=THINK) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)


def test_required_calls_are_calls_and_nothing_else(takes: Takes) -> None:
    asked = shape(tools=TOOLS, tool_choice=ToolChoice("required"))
    assert takes(asked, call())
    assert takes(asked, f"{call('list')}\n{call('read')}")
    for wrong in ("Hello", "", call("write"), call(arguments="{}"), f"Hello {call()}", f"{call()} Hello", call()[:-1]):
        assert not takes(asked, wrong), wrong


def test_one_call_only_where_no_parallel_ones_are_wished(takes: Takes) -> None:
    for mode in ("required", "auto"):
        asked = shape(tools=TOOLS, tool_choice=ToolChoice(mode), parallel_tool_calls=False)
        assert takes(asked, call())
        assert not takes(asked, f"{call()}\n{call()}")
        assert takes(asked, "Hello") == (mode == "auto")


@pytest.mark.parametrize("mode", ["required", "auto"])
def test_only_allowed_tools_are_called(takes: Takes, mode: Any) -> None:
    asked = shape(tools=TOOLS, tool_choice=ToolChoice(mode, ("list",)))
    assert takes(asked, call("list"))
    assert not takes(asked, call("read"))


def test_a_model_that_may_choose_writes_what_it_likes_and_right_calls(takes: Takes) -> None:
    asked = shape(tools=TOOLS)
    for right in (
        "",
        "Hello <b> & {} </tool_call>",
        call(),
        f"I look.\n{call()}\n{call('list')} Done: <tool_",
        "<tool>",
    ):
        assert takes(asked, right), right
    for wrong in (call("write"), f"I look: {call(arguments='{}')}", "<tool_call>", f"{call()} and <tool_call>then"):
        assert not takes(asked, wrong), wrong


def test_where_calls_are_unwanted_none_is_opened(takes: Takes) -> None:
    asked = shape(tools=TOOLS, tool_choice=ToolChoice("none"))
    assert takes(asked, "Hello <tool_ call>")
    assert not takes(asked, call())
    assert not takes(asked, "Hello <tool_call>")


def test_a_call_that_only_begins_an_answer(takes: Takes) -> None:
    bare = '{"name": "read", "parameters": {"path": "a"}}'
    asked = shape(calls=Llama3Json(), tools=TOOLS)
    assert takes(asked, bare)
    assert takes(asked, f"{bare}; {bare}")
    assert takes(asked, f"For example: {bare[:-3]}")
    assert not takes(asked, bare.replace("path", "name"))
    assert not takes(shape(calls=Llama3Json(), tools=TOOLS, tool_choice=ToolChoice("none")), bare)


def test_harmony_may_reason_before_a_call_that_is_asked_for(takes: Takes) -> None:
    asked = shape(calls=Harmony(), tools=TOOLS, tool_choice=ToolChoice("required"))
    commentary = '<|channel|>commentary to=functions.read <|constrain|>json<|message|>{"path": "a"}'
    thought = "<|channel|>analysis<|message|>I should look.<|end|><|start|>assistant"
    assert takes(asked, commentary)
    assert takes(asked, thought + commentary)
    assert not takes(asked, thought)
    assert not takes(asked, commentary.replace("path", "name"))


def test_a_form_and_tools_are_one_or_the_other(takes: Takes) -> None:
    asked = shape(tools=TOOLS, form=FORM)
    for right in ("yes", "no", call()):
        assert takes(asked, right), right
    for wrong in ("maybe", f"yes {call()}"):
        assert not takes(asked, wrong), wrong
    assert not takes(shape(tools=TOOLS, form=FORM, tool_choice=ToolChoice("none")), call())
    assert not takes(shape(tools=TOOLS, form=FORM, tool_choice=ToolChoice("required")), "yes")


def test_a_json_form_beside_tools_whose_calls_begin_as_it_does(takes: Takes) -> None:
    form = Grammar("json_schema", json.dumps({"type": "object", "properties": {"name": {"type": "integer"}}}))
    asked = shape(calls=Llama3Json(), tools=TOOLS, form=form)
    assert takes(asked, '{"name": 3}')
    assert takes(asked, '{"name": "read", "parameters": {"path": "a"}}')
    assert takes(asked, '{"path": "a"}')
    for wrong in ('{"name": "read"}', '{"name": "read", "parameters": {}}', '{"name": "write", "parameters": {}}'):
        assert not takes(asked, wrong), wrong


def test_references_of_a_schema_hold_where_a_whole_call_is_json(takes: Takes) -> None:
    schema = {
        "$defs": {"mode": {"enum": ["a"]}},
        "properties": {"mode": {"$ref": "#/$defs/mode"}},
        "required": ["mode"],
    }
    tools = (Tool("read", parameters=json.dumps(schema)),)
    asked = shape(calls=Llama3Json(), tools=tools, form=Grammar("json_schema", '{"type": "array"}'))
    assert takes(asked, '{"name": "read", "parameters": {"mode": "a"}}')
    assert not takes(asked, '{"name": "read", "parameters": {"mode": "b"}}')


def test_forms_and_calls_stand_behind_the_reasoning(takes: Takes) -> None:
    thought = "I <b>think</b> of <tool_call> yes.</think>"
    for behind, asked in (
        ("yes", {"form": FORM}),
        (call(), {"tools": TOOLS, "tool_choice": ToolChoice("required")}),
        (f"Well: {call()}", {"tools": TOOLS}),
    ):
        opened = shape(reasoning=THINK, prompt_end=OPENED, **asked)
        for space in ("", "\n", "\n\n"):
            assert takes(opened, f"{thought}{space}{behind}")
        assert not takes(opened, behind)
        unopened = shape(reasoning=THINK, **asked)
        assert takes(unopened, f"<think>{thought}\n\n{behind}")
        assert takes(unopened, behind)
        assert not takes(unopened, f"<think>{thought[:-1]}{behind}")
        closed = shape(reasoning=THINK, prompt_end=CLOSED, **asked)
        assert takes(closed, behind)


def test_reasoning_that_is_unwanted_does_not_begin(takes: Takes) -> None:
    for thinking in (Thinking(enabled=False), Thinking(budget_tokens=0)):
        unopened = shape(reasoning=THINK, thinking=thinking)
        assert takes(unopened, "Hello, <think> is a mark.")
        assert not takes(unopened, "<think>Hm.</think>Hello")
        assert not takes(unopened, "\n<think>Hm.</think>Hello")
        assert not takes(shape(reasoning=THINK, thinking=thinking, form=FORM), "<think></think>yes")
        opened = shape(reasoning=THINK, thinking=thinking, prompt_end=OPENED)
        assert takes(opened, "</think>\n\nHello")
        assert not takes(opened, "Hm.</think>Hello")


def test_reasoning_ends_with_its_budget(takes: Takes) -> None:
    for prompt_end, opening in ((OPENED, ""), (UNOPENED, "<think>")):
        asked = shape(reasoning=THINK, thinking=Thinking(budget_tokens=4), prompt_end=prompt_end, form=FORM)
        assert takes(asked, f"{opening}one two three four</think>yes")
        assert takes(asked, f"{opening}one two</think>yes")
        assert not takes(asked, f"{opening}one two three four five</think>yes")


def test_what_no_grammar_can_write_is_not_promised() -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        shape(calls=Unwritten(), tools=TOOLS, tool_choice=ToolChoice("required"))
    assert caught.value.param == "tool_choice"


IM_START, REPO_NAME = "<|im_start|>", "<repo_name>"  # special tokens of the demo model
COMPOSED = ReasoningMarks(f"{IM_START}thought", "<file_sep>", (IM_START, "<file_sep>"))


class Framing(Unwritten):
    """A dialect whose marks are special tokens of the demo model."""

    opening = REPO_NAME
    closing = IM_START


@pytest.mark.parametrize("thinking", [Thinking(enabled=False), Thinking(budget_tokens=4)])
def test_calls_of_special_tokens_remain_where_reasoning_has_limits(takes: Takes, thinking: Thinking) -> None:
    for prompt_end, before in ((UNOPENED, ""), (OPENED, "</think>\n\n")):
        asked = shape(reasoning=THINK, calls=Framing(), tools=TOOLS, thinking=thinking, prompt_end=prompt_end)
        assert takes(asked, f"{before}I look. {REPO_NAME}call:read{{}}{IM_START}")
        assert takes(asked, f"{before}I look.")
        assert not takes(asked, f"{before}I look. <file_sep>")


def test_marks_of_more_than_one_token(takes: Takes) -> None:
    asked = shape(reasoning=COMPOSED, calls=Framing(), thinking=Thinking(budget_tokens=4))
    assert takes(asked, f"{IM_START}thought one two<file_sep>yes")
    assert takes(asked, f"{IM_START}thought one two three four<file_sep>yes")
    assert not takes(asked, f"{IM_START}thought one two three four five six seven<file_sep>yes")
    unwanted = shape(reasoning=COMPOSED, calls=Framing(), thinking=Thinking(enabled=False))
    assert takes(unwanted, f"yes {IM_START}though <|")
    assert takes(unwanted, f"{IM_START}")
    assert not takes(unwanted, f"{IM_START}thought one<file_sep>yes")
    opened = shape(reasoning=COMPOSED, thinking=Thinking(enabled=False), prompt_end=f"{IM_START}thought")
    assert takes(opened, "<file_sep>yes")
    assert not takes(opened, "yes")


class FramedCalls(Lfm2):
    """The same with a frame around every answer, and calls that a grammar writes."""

    frame = Frame("<|channel|>final<|message|>")
    opening, closing = Framing.opening, Framing.closing


def test_calls_that_no_grammar_writes_are_not_opened_where_they_are_unwanted(takes: Takes) -> None:
    asked = shape(calls=Framing(), tools=TOOLS, tool_choice=ToolChoice("none"))
    assert takes(asked, f"I look.{IM_START}")
    assert not takes(asked, f"I look.{REPO_NAME}call:read{{}}{IM_START}")
    assert shape(calls=Framing(), tools=TOOLS, tool_choice=ToolChoice("none"), form=FORM) == FORM


def test_a_strict_tool_whose_calls_no_grammar_writes_is_refused() -> None:
    strict = replace(TOOLS[0], strict=True, param="tools[0].function.parameters")
    with pytest.raises(UnsupportedParameter, match="strict") as caught:
        shape(calls=Unwritten(), tools=(strict,))
    assert caught.value.param == strict.param
    assert shape(calls=Unwritten(), tools=(strict,), tool_choice=ToolChoice("none")) is not None


def test_calls_in_framed_answers_are_right(takes: Takes) -> None:
    asked = shape(calls=FramedCalls(), tools=TOOLS)
    assert takes(asked, f'I look.{IM_START} Then{REPO_NAME}[read(path="a")]{IM_START} Done.')
    assert not takes(asked, f'I look.{REPO_NAME}[write(path="a")]{IM_START}')


class ShortHarmony(Harmony):
    """With the demo model's special tokens for some of its marks."""

    channel, opening = IM_START, REPO_NAME
    special_tokens = (IM_START, REPO_NAME)
    call_begins = (f"{IM_START}commentary to=",)


def test_calls_in_channels(takes: Takes) -> None:
    calls = ShortHarmony()

    def written(name: str) -> str:
        head = f"{calls.channel}commentary to=functions.{name} {calls.constrain}json{calls.opening}"
        return f'{thought}{head}{{"path": "a"}}{calls.closing}'

    thought = f"{calls.channel}analysis{calls.opening}Hm.<|end|><|start|>assistant"
    said = f"{thought}{calls.channel}commentary{calls.opening}I look."
    asked = shape(calls=calls, tools=TOOLS)
    assert takes(asked, said)
    assert takes(asked, written("read"))
    assert not takes(asked, written("write"))
    unwanted = shape(calls=calls, tools=TOOLS, tool_choice=ToolChoice("none"))
    assert takes(unwanted, said)
    assert not takes(unwanted, written("read"))


THOUGHT = f"{IM_START}analysis{REPO_NAME}Hm.<|end|><|start|>assistant"


class ShortFrame(ShortHarmony):
    frame = Frame(
        f"{IM_START}final{REPO_NAME}",
        thought=ReasoningMarks(f"{IM_START}analysis{REPO_NAME}", "<|end|><|start|>assistant", (IM_START, REPO_NAME)),
    )


@pytest.mark.parametrize("tools", [(), TOOLS])
def test_a_form_is_the_words_of_a_framed_answer(takes: Takes, tools: tuple[Tool, ...]) -> None:
    asked = shape(calls=ShortFrame(), tools=tools, form=FORM)
    final = f"{IM_START}final{REPO_NAME}yes"
    assert takes(asked, final)
    assert takes(asked, THOUGHT + final)
    assert not takes(asked, "yes")
    assert not takes(asked, f"{IM_START}final{REPO_NAME}I am")
    assert not takes(asked, THOUGHT + THOUGHT + final)


def test_a_frame_with_an_end_is_closed(takes: Takes) -> None:
    class Closed(ShortHarmony):
        frame = Frame(IM_START, REPO_NAME)

    assert takes(shape(calls=Closed(), form=FORM), f"{IM_START}yes{REPO_NAME}")
    assert not takes(shape(calls=Closed(), form=FORM), f"{IM_START}yes")
    assert takes(shape(calls=Closed(), form=FORM, prompt_end=f"Answer:{IM_START}"), f"yes{REPO_NAME}")


def test_framed_reasoning_has_its_budget(takes: Takes) -> None:
    limited = shape(calls=ShortFrame(), thinking=Thinking(budget_tokens=3))
    words = f"{IM_START}final{REPO_NAME}Yes."
    assert takes(limited, THOUGHT + words)
    assert takes(limited, words)
    assert not takes(limited, THOUGHT.replace("Hm.", "one two three four five six") + words)
    assert not takes(limited, THOUGHT + THOUGHT + words)
    unwanted = shape(calls=ShortFrame(), thinking=Thinking(enabled=False))
    assert takes(unwanted, words)
    assert not takes(unwanted, THOUGHT + words)
    assert shape(calls=ShortFrame()) is None


def test_a_forced_call_may_be_thought_about(takes: Takes) -> None:
    forced = shape(calls=ShortFrame(), tools=TOOLS, tool_choice=ToolChoice("required"))
    call = f'{IM_START}commentary to=functions.read <|constrain|>json{REPO_NAME}{{"path": "a"}}'
    assert takes(forced, call)
    assert takes(forced, THOUGHT + call)
    assert not takes(forced, f"{THOUGHT}{IM_START}final{REPO_NAME}Yes.")


def test_calls_after_the_first_are_left_out_where_one_is_wished() -> None:
    text = "A<|tool_call>call:read{path:1}<tool_call|><|tool_call>call:list{path:2}<tool_call|>"
    output = OutputFormat(None, Gemma4())
    for parallel, names in ((True, ["read", "list"]), (False, ["read"])):
        pieces = fed(output.parser(TOOLS, "", parallel=parallel), text)
        assert [piece.name for piece in pieces if isinstance(piece, CallBegan)] == names
        assert sum(isinstance(piece, CallArguments) for piece in pieces) == len(names)
