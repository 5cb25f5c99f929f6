"""Prompts for gaps, with a small tokenizer for each family's marks."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from gateway.chat.fill_in import KNOWN_MARKS, FillInEncoder, FillInMarks, fill_in_marks
from gateway.chat.prompt import PromptBuilder
from gateway.engine.text_limit import TextLimit, longest_token_bytes
from gateway.errors import ContextLengthExceeded
from gateway.generation.request import FillIn

FAMILIES = {
    "Qwen2.5-Coder": "<|fim_prefix|>PRE<|fim_suffix|>SUF<|fim_middle|>",
    "StarCoder": "<fim_prefix>PRE<fim_suffix>SUF<fim_middle>",
    "SantaCoder": "<fim-prefix>PRE<fim-suffix>SUF<fim-middle>",
    "DeepSeek-Coder": "<｜fim▁begin｜>PRE<｜fim▁hole｜>SUF<｜fim▁end｜>",
    "CodeLlama": "▁<PRE>PRE▁<SUF>SUF▁<MID>",
    "Seed-Coder": "<[fim-suffix]>SUF<[fim-prefix]>PRE<[fim-middle]>",
    "GLM-4": "<|code_prefix|>PRE<|code_suffix|>SUF<|code_middle|>",
    "Codestral": "[SUFFIX]SUF[PREFIX]PRE",
}


def byte_level(marks: FillInMarks, *, special: bool = True) -> Tokenizer:
    """A token for every byte, `<s>` before every text, and the marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: id_ for id_, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = [*marks.names, *marks.ends]
    tokenizer.add_tokens([AddedToken(name, special=special, normalized=False) for name in names])
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def known(name: str) -> FillInMarks:
    return next(marks for marks in KNOWN_MARKS if name in marks.names)


def encode(tokenizer: Tokenizer, prefix: str, suffix: str) -> list[int]:
    marks = fill_in_marks(tokenizer)
    assert marks
    return FillInEncoder(tokenizer, marks).encode(prefix, suffix)


@pytest.mark.parametrize("prompt", FAMILIES.values(), ids=FAMILIES)
def test_each_family_has_its_marks_and_its_order(prompt: str) -> None:
    marks = next(marks for marks in KNOWN_MARKS if all(name in prompt for name in marks.names))
    tokenizer = byte_level(marks)
    ids = encode(tokenizer, "PRE", "SUF")
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>" + prompt
    assert all([tokenizer.id_to_token(token) for token in ids].count(name) == 1 for name in marks.names)
    ends = FillInEncoder(tokenizer, marks).ends
    assert {tokenizer.id_to_token(token) for token in ends} == {*marks.names, *marks.ends}


def test_every_kind_of_marks_is_shown_above() -> None:
    assert all(
        any(all(name in prompt for name in marks.names) for prompt in FAMILIES.values()) for marks in KNOWN_MARKS
    )


def test_a_model_without_marks_has_none() -> None:
    assert fill_in_marks(byte_level(FillInMarks("<repo>", "<file>"))) is None
    assert fill_in_marks(byte_level(FillInMarks("<fim_prefix>", "<fim_suffix>"))) is None, "the middle is missing"


@pytest.mark.parametrize("special", [True, False])
@given(
    pieces=st.lists(
        st.sampled_from(["<fim_prefix>", "<fim_middle>", "<file_sep>", "<s>", "<", "fim_", "é", " x", "\n"])
    )
)
def test_no_text_becomes_a_mark(special: bool, pieces: list[str]) -> None:
    """Whether a tokenizer calls its marks special or, as Qwen's does, not."""
    tokenizer = byte_level(known("<fim_prefix>"), special=special)
    text = "".join(pieces)
    ids = encode(tokenizer, text, text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == f"<s><fim_prefix>{text}<fim_suffix>{text}<fim_middle>"
    added = tokenizer.get_added_tokens_decoder()
    assert sum(token in added for token in ids) == 4


async def test_a_gap_that_no_context_holds_is_refused_without_counting() -> None:
    wrapper = SimpleNamespace(backend_tokenizer=byte_level(known("<fim_prefix>")))
    with ThreadPoolExecutor(1) as threads:
        builder = PromptBuilder(wrapper, TextLimit(100, longest_token_bytes(wrapper.backend_tokenizer)), threads)
        with pytest.raises(ContextLengthExceeded, match="at least") as refused:
            await builder.fill_in(FillIn("a" * 1000, "b" * 1000))
        assert refused.value.param == "prompt"
        assert (await builder.fill_in(FillIn("a" * 40, "b" * 40))).ids


def test_a_suffix_gets_no_space_of_the_tokenizers_own() -> None:
    """As in CodeLlama's own code: the prefix has the space that begins every text, the suffix goes on with its line."""
    marks = known("▁<PRE>")
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁b"]
    model = models.BPE(
        {piece: id_ for id_, piece in enumerate(pieces)},
        [("▁", "a"), ("▁", "b")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in (*marks.names, *marks.ends)])
    tokens = [tokenizer.id_to_token(token) for token in encode(tokenizer, "a b", "b a")]
    assert tokens == ["▁<PRE>", "▁a", "▁b", "▁<SUF>", "b", "▁a", "▁<MID>"]
    told = [tokenizer.id_to_token(token) for token in encode(tokenizer, "a <SUF>", "")]
    assert told.count("▁<SUF>") == 1
