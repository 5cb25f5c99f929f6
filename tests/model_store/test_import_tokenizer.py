"""The rebuilt tokenizer against an encoder written from the description of byte-level BPE."""

import json
from functools import cache
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.utils import load_tokenizer
from tokenizers import Tokenizer

from gateway.errors import ModelFilesInvalid
from gateway.model_store.gguf_architectures import architecture_of
from gateway.model_store.gguf_metadata import GgufMetadata
from gateway.model_store.gguf_tokenizer import GgufTokenizer, read_tokenizer
from gateway.model_store.sources import demo_gguf
from gateway.model_store.store import StoredModel

from .reference_bpe import PATTERNS, ReferenceBpe
from .tiny_gguf import tiny_metadata

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  leading and trailing  ",
    "don't can't WE'LL I'm they've you'd it's O'Re",
    "1234567890 3.14159 1,000,000 ½ ² Ⅳ ٣٤٥",
    "def f(x: int) -> str:\n    return f'{x!r}'\n\n\nclass A:\n\tpass\n",
    "for (int i = 0; i < n; ++i) { sum += a[i]; }  // done",
    "tabs\t\t\tand\r\nwindows\r\n\r\nlines \n \n  \n",
    "naïve café Ünïcödé ß ﬁ",
    "日本語のテキストと中文字符，还有한국어",
    "مرحبا بالعالم שלום עולם",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 emoji 👍🏽",
    "e\u0301 combining, \u200bzero width, \u00a0no-break\u3000ideographic",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|><|im_end|><|endoftext|> <|im_start <|im_end|",
    "\x00\x01\x04\x06\x13\x7f control bytes",
    "https://example.com/a?b=c&d=%20#frag",
    "SELECT * FROM t WHERE a='b' -- x",
    "a" * 300,
    " " * 77 + "x" + "\n" * 33,
]
# by Python's tables, so that characters newer than one of the libraries do not count
ASSIGNED_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn", "Co"]), max_size=60)
TRICKY_TEXT = st.text(st.sampled_from(list(" \t\n\r'sSltreLL1²٣aé日🙂.-_<|>\u00a0\u0085\u2028\x1c\x04")), max_size=40)


def tokenizer_of(metadata: GgufMetadata) -> GgufTokenizer:
    architecture = architecture_of(metadata)
    return read_tokenizer(metadata, architecture, architecture.read_shape(metadata))


@cache
def demo_vocabulary() -> tuple[list[str], list[int], list[str]]:
    fields = gguf.GGUFReader(demo_gguf()).fields
    tokens, types, merges = (fields[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "merges"))
    return tokens.contents(), types.contents(), merges.contents()


@cache
def both_encoders(pre: str) -> tuple[Tokenizer, ReferenceBpe]:
    """The demo model's vocabulary cut in the way of `pre`."""
    tokens, types, merges = demo_vocabulary()
    changes = {
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.pre": pre,
    }
    metadata = GgufMetadata(Path("demo.gguf"), tiny_metadata() | changes)
    rebuilt = tokenizer_of(metadata).tokenizer_json()
    return Tokenizer.from_str(rebuilt), ReferenceBpe(tokens, types, merges, pre)


@pytest.mark.parametrize("pre", sorted(PATTERNS))
@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_the_reference(text: str, pre: str) -> None:
    rebuilt, reference = both_encoders(pre)
    if rebuilt.normalizer is not None:
        text = rebuilt.normalizer.normalize_str(text)
    assert rebuilt.encode(text).ids == reference.encode(text)


@settings(deadline=None, max_examples=400)
@given(st.one_of(ASSIGNED_TEXT, TRICKY_TEXT))
def test_ids_equal_the_reference_for_any_text(text: str) -> None:
    rebuilt, reference = both_encoders("smollm")
    assert rebuilt.encode(text).ids == reference.encode(text)


@pytest.mark.parametrize(
    ("pre", "digits", "words"),
    [
        ("smollm", ["1", "2"], ["w", "or", "d"]),
        ("gpt-2", ["12"], ["w", "or", "d"]),
        ("qwen2", ["1", "2"], ["w", "or", "d"]),
        ("llama-bpe", ["12"], ["word"]),
    ],
)
def test_each_way_cuts_digits_and_words_differently(
    pre: str, digits: list[str], words: list[str], tmp_path: Path
) -> None:
    """With a vocabulary in which it shows: the demo model's has no token of two digits."""
    tiny = tiny_metadata()
    tokens = [*tiny["tokenizer.ggml.tokens"], "12", "word"]
    changes = {
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [*tiny["tokenizer.ggml.token_type"], 1, 1],
        "tokenizer.ggml.merges": [*tiny["tokenizer.ggml.merges"], "1 2"],  # none makes "word"
        "tokenizer.ggml.add_bos_token": False,
    }
    metadata = GgufMetadata(tmp_path, tiny | changes)
    rebuilt = Tokenizer.from_str(tokenizer_of(metadata).tokenizer_json())
    assert rebuilt.encode("12").tokens == digits
    assert rebuilt.encode("word").tokens == words


def test_the_imported_folder_gives_the_same_ids_and_text(demo_model: StoredModel) -> None:
    tokenizer = load_tokenizer(demo_model.folder)
    _, reference = both_encoders("smollm")
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == reference.encode(text)
        if "\x04" not in text:  # the model has no token for some control bytes
            assert tokenizer.decode(ids) == text


def test_the_chat_template_and_special_tokens_arrive(demo_model: StoredModel) -> None:
    tokenizer = load_tokenizer(demo_model.folder)
    _, reference = both_encoders("smollm")
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi 12"}]

    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)

    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi 12<|im_end|>\n<|im_start|>assistant\n"
    assert ids == reference.encode(text)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.unk_token == "<|endoftext|>"
    assert tokenizer.model_max_length == 8192
    assert json.loads((demo_model.folder / "generation_config.json").read_text())["eos_token_id"] == [2]


def test_a_model_that_wants_bos_gets_it(tmp_path: Path) -> None:
    metadata = GgufMetadata(tmp_path, tiny_metadata() | {"tokenizer.ggml.add_bos_token": True})
    rebuilt = Tokenizer.from_str(tokenizer_of(metadata).tokenizer_json())
    assert rebuilt.encode("hello").tokens == ["<|im_start|>", "hello"]


def test_an_end_of_turn_token_ends_an_answer_too(tmp_path: Path) -> None:
    metadata = GgufMetadata(tmp_path, tiny_metadata() | {"tokenizer.ggml.eot_token_id": 0})
    assert tokenizer_of(metadata).stop_ids == [0, 2]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokenizer.ggml.model": "bert"}, "tokenizer model is 'bert'"),
        ({"tokenizer.ggml.pre": "default"}, "pre-tokenizer is 'default'"),
        ({"tokenizer.ggml.add_eos_token": True}, "add_eos_token"),
        ({"tokenizer.ggml.merges": ["h e", "he zzz"]}, "'he zzz'"),
        ({"tokenizer.ggml.merges": ["he"]}, "'he'"),
        ({"tokenizer.ggml.eos_token_id": 1 << 20}, "eos_token_id must be an integer from 0 to"),
        ({"tokenizer.ggml.token_type": [3, 1]}, "2 token types"),
        ({"tokenizer.ggml.token_type": [9] * len(tiny_metadata()["tokenizer.ggml.tokens"])}, "types [9]"),
        ({"tokenizer.ggml.tokens": ["a"] * 265}, "the same token twice"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "must be a list of strings"),
    ],
)
def test_a_tokenizer_that_cannot_be_rebuilt_is_refused(changes: dict[str, object], told: str, tmp_path: Path) -> None:
    metadata = GgufMetadata(tmp_path, tiny_metadata() | changes)
    with pytest.raises(ModelFilesInvalid) as refused:
        tokenizer_of(metadata)
    assert told in str(refused.value)
