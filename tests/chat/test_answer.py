"""Detokenising and stop strings together, with the demo model's tokenizer."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from gateway.chat.answer import Answer
from gateway.chat.detokenizer import Detokenizer
from gateway.chat.output_parser import CallArguments, CallBegan, Piece, PlainParser, Said
from gateway.chat.token_texts import TokenTexts
from gateway.chat.tool_calls.hermes import Hermes
from gateway.engine.token_stream import GeneratedToken, TokenScores
from gateway.generation.events import FinishReason, TextDelta, ToolArguments

END_TOKEN = 2


@pytest.fixture(scope="session")
def tokenizer(demo_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(demo_folder / "tokenizer.json"))


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.feed(token) for token in ids), detokenizer.finish()]


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_pieces_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=40))
def test_any_ids_make_the_text_they_decode_to(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Also those that are no valid UTF-8 together, which a model with a high temperature writes."""
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_character_is_held_back_until_it_is_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🦜", add_special_tokens=False).ids
    assert len(ids) > 1
    assert pieces(tokenizer, ids) == [""] * (len(ids) - 1) + ["🦜", ""]
    assert pieces(tokenizer, ids[:1]) == ["", "\ufffd"]


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_the_bytes_of_tokens_are_the_bytes_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    texts = TokenTexts(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    utf8 = b"".join(texts.utf8(token) for token in ids)
    # Not always `text`: this model's vocabulary lacks a few bytes, such as U+0016's.
    assert utf8.decode(errors="replace") == tokenizer.decode(ids, skip_special_tokens=False)


@pytest.fixture(scope="session")
def sentencepiece() -> Tokenizer:
    """Like Llama 2's and Gemma's: spaces as U+2581, and a token for each byte."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁Hello", "▁world", "▁", "a", "é", "▁é"]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(1, 262) | st.integers(257, 262), max_size=20))
def test_byte_tokens_that_make_no_character_lose_nothing_else(sentencepiece: Tokenizer, ids: list[int]) -> None:
    once = sentencepiece.decode(ids)
    streamed = "".join(pieces(sentencepiece, ids))
    assert streamed == once or "\ufffd" in once
    for word in ("Hello", "world", "é"):  # whole tokens, whatever bytes are around them
        assert streamed.count(word) >= ids.count(sentencepiece.get_vocab().get(f"▁{word}", 0))


def test_sentencepiece_tokens_keep_their_spaces_and_bytes(sentencepiece: Tokenizer) -> None:
    texts = TokenTexts(sentencepiece)
    hello, first_byte = (sentencepiece.get_vocab()[piece] for piece in ("▁Hello", "<0xC3>"))
    assert (texts.text(hello), texts.utf8(hello)) == (" Hello", b" Hello")
    assert (texts.text(first_byte), texts.utf8(first_byte)) == ("\ufffd", b"\xc3")
    assert texts.utf8(99_999) == b""


def plain_answer(tokenizer: Tokenizer, stops: tuple[str, ...]) -> Answer:
    return Answer(0, Detokenizer(tokenizer), TokenTexts(tokenizer), stops, PlainParser())


def feed(answer: Answer, ids: list[int], finish: str | None) -> tuple[str, list[str]]:
    """Text and logprob tokens of an answer that takes after every token."""
    text, tokens = "", []
    for index, token in enumerate(ids):
        last = index == len(ids) - 1
        answer.feed(GeneratedToken(0, token, TokenScores(-1.0, ()), finish if last else None))  # type: ignore[arg-type]
        for delta in answer.take():
            assert isinstance(delta, TextDelta)
            text += delta.text
            tokens += [chosen.token.text for chosen in delta.logprobs]
        if answer.finish_reason:
            break
    return text, tokens


def test_an_end_token_adds_no_text(tokenizer: Tokenizer) -> None:
    answer = plain_answer(tokenizer, ())
    ids = tokenizer.encode("Hello there", add_special_tokens=False).ids
    assert feed(answer, [*ids, END_TOKEN], "stop") == ("Hello there", ["Hello", " there"])
    assert answer.finish_reason == "stop"


def test_a_stop_string_cuts_text_and_logprobs_alike(tokenizer: Tokenizer) -> None:
    answer = plain_answer(tokenizer, ("three",))
    ids = tokenizer.encode("one two three four", add_special_tokens=False).ids
    text, tokens = feed(answer, ids, "length")
    assert text == "one two "
    assert answer.finish_reason == "stop"
    assert tokens == ["one", " two", " three"]  # the space before the stop string is the third token's


def test_the_beginning_of_a_stop_string_is_text_when_the_answer_ends(tokenizer: Tokenizer) -> None:
    answer = plain_answer(tokenizer, ("five six",))
    text, tokens = feed(answer, tokenizer.encode("four five", add_special_tokens=False).ids, "length")
    assert text == "four five"
    assert tokens == ["four", " five"]
    assert answer.finish_reason == "length"


@pytest.mark.parametrize(
    ("text", "finish", "reason", "arguments"),
    [
        ('{"name": "f", "arguments": {"a": 1}}</tool_call>', "stop", "tool_calls", '{"a": 1}'),
        ('{"name": "f", "arguments": {"a": 1}}</tool_call>', "length", "length", '{"a": 1}'),
        ('{"name": "f", "arguments": {"a": 1', "stop", "length", '{"a": 1'),
        ('{"name": "f", "arguments": {"a": 1', "length", "length", '{"a": 1'),
        ('{"name": "f", "arguments": {"a": NaN}}</tool_call>', "stop", "length", '{"a": NaN}'),
        ('{"name": "f", "arguments": [1]}</tool_call>', "stop", "length", "[1]"),
        ('{"name": "f", "arguments": ', "stop", "tool_calls", "{}"),
        ('{"name": "f", "arguments": ', "length", "length", ""),
    ],
)
def test_a_call_that_is_not_whole_is_not_passed_off_as_one(
    tokenizer: Tokenizer, text: str, finish: FinishReason, reason: FinishReason, arguments: str
) -> None:
    answer = Answer(0, Detokenizer(tokenizer), TokenTexts(tokenizer), (), Hermes().parser(()))
    for token in tokenizer.encode(f"<tool_call>{text}", add_special_tokens=False).ids:
        answer.feed(GeneratedToken(0, token))
    answer.feed(GeneratedToken(0, END_TOKEN, finish="stop" if finish == "stop" else "length"))
    assert answer.finish_reason == reason
    assert [call.arguments for call in answer.calls] == [arguments]
    sent = "".join(delta.text for delta in answer.take() if isinstance(delta, ToolArguments))
    assert sent == arguments


class CallThenText(PlainParser):
    """Whatever is fed, first a whole call and then the text."""

    def feed(self, text: str) -> list[Piece]:
        return [CallBegan("read"), CallArguments("{}"), Said(text)]


def test_a_stop_string_behind_a_call_ends_a_turn_that_calls(tokenizer: Tokenizer) -> None:
    answer = Answer(0, Detokenizer(tokenizer), TokenTexts(tokenizer), ("three",), CallThenText())
    for token in tokenizer.encode("three", add_special_tokens=False).ids:
        answer.feed(GeneratedToken(0, token))
    assert (answer.finish_reason, answer.stop_string, answer.ended_by_model) == ("tool_calls", "three", False)
    assert [call.name for call in answer.calls] == ["read"]
