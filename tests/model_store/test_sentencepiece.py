"""The rebuilt sentencepiece tokenizer against an encoder written from the algorithm's description."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.utils import load_tokenizer
from tokenizers import Tokenizer

from gateway.chat.detokenizer import Detokenizer
from gateway.errors import ModelFilesInvalid
from gateway.model_store.gguf_metadata import GgufMetadata
from gateway.model_store.store import ModelStore, StoredModel

from .reference_sentencepiece import ReferenceSentencePiece
from .test_import_tokenizer import ASSIGNED_TEXT, TEXTS, TRICKY_TEXT, tokenizer_of
from .tiny_gguf import tiny_metadata

GEMMA_TEXTS = [
    *TEXTS,
    "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "<bos><eos><pad> <unk> <start_of_turn <0x41>",
    "\n" * 40 + "x\n\n \n",
    "\t\t\tindented\n    four\n        eight",
    "▁already ▁▁ marked",
    "<table><tr><td>cell</td></tr></table>",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𓀀 ꙮ \U000e0041",
]
SPECIAL, PIECES = (
    ["<unk>", "<s>", "</s>"],
    ["▁", "h", "e", "l", "o", "w", "r", "d", "he", "ll", "hell", "hello", "▁w", "or"],
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TINY_TOKENS = [*SPECIAL, *BYTES, *PIECES]


def tiny_sentencepiece() -> dict[str, Any]:
    return tiny_metadata() | {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": TINY_TOKENS,
        "tokenizer.ggml.scores": [0.0] * (3 + 256) + [-float(rank) for rank in range(len(PIECES))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(PIECES),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }


@cache
def tiny_encoders(space_prefix: bool) -> tuple[Tokenizer, ReferenceSentencePiece]:
    values = tiny_sentencepiece() | {"tokenizer.ggml.add_space_prefix": space_prefix}
    rebuilt = tokenizer_of(GgufMetadata(Path("tiny.gguf"), values)).tokenizer_json()
    tokens, scores, types = (values[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type"))
    return Tokenizer.from_str(rebuilt), ReferenceSentencePiece(tokens, scores, types, space_prefix)


@settings(deadline=None)
@given(st.lists(st.sampled_from([*"helowrd ", "  ", "<s>", "</s>", "é", "日", "hello"]), max_size=20).map("".join))
@pytest.mark.parametrize("space_prefix", [True, False])
def test_ids_equal_the_reference_with_and_without_a_space_put_first(space_prefix: bool, text: str) -> None:
    rebuilt, reference = tiny_encoders(space_prefix)
    assert rebuilt.encode(text, add_special_tokens=False).ids == reference.encode(text)


@pytest.mark.parametrize("space_prefix", [True, False])
def test_a_space_put_first_is_taken_away_again(space_prefix: bool) -> None:
    rebuilt, _ = tiny_encoders(space_prefix)
    encoded = rebuilt.encode("hello world é")
    assert encoded.tokens[:3] == (["<s>", "▁", "hello"] if space_prefix else ["<s>", "hello", "▁w"])
    assert rebuilt.decode(encoded.ids) == "hello world é"


def test_bos_is_put_first_unless_told_otherwise() -> None:
    values = tiny_sentencepiece()
    del values["tokenizer.ggml.add_bos_token"]
    assert tokenizer_of(GgufMetadata(Path("tiny.gguf"), values)).add_bos


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokenizer.ggml.scores": [0.0]}, "1 scores for"),
        ({"tokenizer.ggml.scores": None}, "no tokenizer.ggml.scores"),
        ({"tokenizer.ggml.scores": [0.0] * len(TINY_TOKENS)}, "leave open"),
        ({"tokenizer.ggml.scores": [*map(float, range(len(TINY_TOKENS) - 1)), float("nan")]}, "leave open"),
        ({"tokenizer.ggml.scores": [0] * len(TINY_TOKENS)}, "must be a list of numbers"),
        ({"tokenizer.ggml.tokens": [*TINY_TOKENS[:-1], "xyz"]}, "'xyz' cannot be made"),
        ({"tokenizer.ggml.tokens": [*TINY_TOKENS[:-1], "h" * 300]}, "cannot be made"),
        ({"tokenizer.ggml.token_type": [2, 3, 3] + [6] * 255 + [1] * (len(PIECES) + 1)}, "single bytes"),
        ({"tokenizer.ggml.remove_extra_whitespaces": True}, "remove_extra_whitespaces"),
        ({"tokenizer.ggml.precompiled_charsmap": [1, 2]}, "precompiled_charsmap"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused(changes: dict[str, object], told: str) -> None:
    values = {key: value for key, value in (tiny_sentencepiece() | changes).items() if value is not None}
    with pytest.raises(ModelFilesInvalid) as refused:
        tokenizer_of(GgufMetadata(Path("tiny.gguf"), values))
    assert told in str(refused.value)


@pytest.fixture(scope="module")
def gemma(gemma_store: Path, gemma_file: Path) -> StoredModel:
    return ModelStore(gemma_store).locate(str(gemma_file), lambda _fraction, _doing: None)


@pytest.fixture(scope="module")
def rebuilt(gemma: StoredModel) -> Tokenizer:
    return Tokenizer.from_file(str(gemma.folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def reference(gemma_file: Path) -> ReferenceSentencePiece:
    fields = gguf.GGUFReader(gemma_file).fields
    tokens, scores, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "scores", "token_type"))
    return ReferenceSentencePiece(tokens, scores, types, space_prefix=False)


@pytest.mark.slow
def test_gemmas_ids_equal_the_reference(rebuilt: Tokenizer, reference: ReferenceSentencePiece) -> None:
    for text in GEMMA_TEXTS:
        encoded = rebuilt.encode(text, add_special_tokens=False)
        assert encoded.ids == reference.encode(text), text
        assert rebuilt.encode(text).ids == [2, *encoded.ids]  # <bos>


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(text=st.one_of(ASSIGNED_TEXT, TRICKY_TEXT))
def test_gemmas_ids_equal_the_reference_for_any_text(
    text: str, rebuilt: Tokenizer, reference: ReferenceSentencePiece
) -> None:
    ids = rebuilt.encode(text, add_special_tokens=False).ids
    assert ids == reference.encode(text)
    plain = text.replace("▁", " ")  # sentencepiece writes a space so
    assert rebuilt.decode(ids, skip_special_tokens=False) == plain
    detokenizer = Detokenizer(rebuilt)
    assert "".join(map(detokenizer.feed, ids)) + detokenizer.finish() == plain


@pytest.mark.slow
def test_gemmas_special_tokens_arrive(gemma: StoredModel) -> None:
    tokenizer = load_tokenizer(gemma.folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<bos>", "<eos>", "<unk>")
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.model_max_length == 32768
    assert json.loads((gemma.folder / "generation_config.json").read_text())["eos_token_id"] == [1, 106]
