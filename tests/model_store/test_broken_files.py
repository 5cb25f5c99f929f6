"""Files that are no model end in a typed error that says what is wrong, and leave nothing in the store."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ModelFilesInvalid
from gateway.model_store.gguf_architectures import architecture_of
from gateway.model_store.gguf_metadata import GgufMetadata
from gateway.model_store.import_gguf import import_gguf
from gateway.model_store.store import ModelStore

from .tiny_gguf import HIDDEN, TOKENS, Tensors, tiny_metadata, tiny_tensors, write_gguf

Report = Callable[[float, str], None]


def refusal_of(file: Path, root: Path, report: Report) -> str:
    """What the store says about `file`; checks that it keeps nothing of it."""
    with pytest.raises(ModelFilesInvalid) as refused:
        ModelStore(root).locate(str(file), report)
    assert list((root / "models").iterdir()) == []
    assert list((root / "incoming").iterdir()) == []
    assert str(refused.value).startswith(f"{file}: ")
    return str(refused.value)


@pytest.mark.parametrize("kept", [0.0, 0.00005, 0.0003, 0.01, 0.05, 0.12, 0.2, 0.6, 0.99999])
def test_a_truncated_file_is_refused(kept: float, tmp_path: Path, silent: Report) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * kept)])
    assert "cannot be read as GGUF" in refusal_of(file, tmp_path / "store", silent)


@pytest.mark.parametrize("content", [b"\0" * 5000, b"not a model\n" * 500, bytes(range(256)) * 40])
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path, silent: Report) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    assert "cannot be read as GGUF" in refusal_of(file, tmp_path / "store", silent)


# a name in the file, how far behind its end a lie is told, and the lie, little-endian
LIES = {
    "number of metadata": (b"GGUF", 12, 1 << 40, 8),
    "number of tensors": (b"GGUF", 4, 1 << 63, 8),
    "length of a name": (b"token_embd.weight", -25, 1 << 62, 8),
    "number of dimensions": (b"token_embd.weight", 0, 200, 4),
    "length of a dimension": (b"token_embd.weight", 4, 1 << 62, 8),
    "type of a tensor": (b"token_embd.weight", 20, 99, 4),
    "offset of a tensor": (b"token_embd.weight", 24, 1 << 62, 8),
    "type of a value": (b"tokenizer.ggml.tokens", 0, 77, 4),
    "length of a list": (b"tokenizer.ggml.tokens", 8, 1 << 62, 8),
    "a longer list": (b"tokenizer.ggml.tokens", 8, 1 << 20, 8),
    "type of a list": (b"tokenizer.ggml.tokens", 4, 9, 4),
    "length of a string": (b"general.license", 4, 1 << 40, 8),
    "no dimensions": (b"token_embd.weight", 0, 0, 4),
    "an empty dimension": (b"token_embd.weight", 4, 0, 8),
    "a dimension of half a block": (b"token_embd.weight", 4, 48, 8),
    "a version to come": (b"GGUF", 0, 4, 4),
    "big-endian": (b"GGUF", 0, 3 << 24, 4),
    "a name given twice": (b"blk.", 0, ord("1"), 1),
}


@pytest.mark.parametrize("field", LIES)
def test_a_lie_in_the_file_is_found(field: str, tmp_path: Path, silent: Report) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    name, distance, lie, size_bytes = LIES[field]
    content = bytearray(file.read_bytes())
    start = content.index(name) + len(name) + distance
    content[start : start + size_bytes] = lie.to_bytes(size_bytes, "little")
    file.write_bytes(content)
    with pytest.raises(ModelFilesInvalid, match="cannot be read as GGUF"):
        import_gguf(file, tmp_path / "imported", silent)


def test_what_the_child_refuses_is_told_in_its_words(tmp_path: Path, silent: Report) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", {"general.architecture": "mamba"})
    assert "architecture is 'mamba'; only GGUFs of these can be imported: gemma, gemma2, gemma3, granite" in refusal_of(
        file, tmp_path / "store", silent
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"llama.block_count": None}, "no llama.block_count"),
        ({"llama.block_count": 0}, "from 1 to 1024, not 0"),
        ({"llama.block_count": 4_000_000_000}, "not 4000000000"),
        ({"llama.block_count": "two"}, "not 'two'"),
        ({"llama.block_count": True}, "not True"),
        ({"llama.attention.head_count": [4, 4]}, "not [4, 4]"),
        ({"llama.attention.head_count_kv": 3}, "cannot share 3"),
        ({"llama.attention.head_count_kv": 8}, "from 1 to 4"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, "no llama.attention.layer_norm_rms_epsilon"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "not nan"),
        ({"llama.rope.freq_base": float("inf")}, "not inf"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count differs"),
        ({"llama.attention.value_length": 8}, "value_length differs"),
        ({"llama.rope.scaling.type": "yarn"}, "rope scaling is 'yarn'"),
        ({"llama.rope.scaling.type": "linear"}, "no llama.rope.scaling.factor"),
        ({"llama.expert_count": 8}, "llama.expert_count"),
        ({"tokenizer.ggml.tokens": None}, "no tokenizer.ggml.tokens"),
    ],
)
def test_metadata_that_makes_no_llama_is_refused(changes: dict[str, object], told: str, tmp_path: Path) -> None:
    values = {key: value for key, value in (tiny_metadata() | changes).items() if value is not None}
    metadata = GgufMetadata(tmp_path / "tiny.gguf", values)
    with pytest.raises(ModelFilesInvalid) as refused:
        architecture_of(metadata).read_shape(metadata)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("architecture", "changes", "told"),
    [
        ("gemma3", {"gemma3.attention.sliding_window": None}, "no gemma3.attention.sliding_window"),
        ("gemma3", {"gemma3.attention.sliding_window_pattern": 6}, "2 layers are fewer than the 6"),
        ("gemma3", {"gemma3.attention.sliding_window_pattern": 0}, "from 1 to 1024, not 0"),
        ("gemma3", {"gemma3.rope.freq_base_swa": float("nan")}, "not nan"),
        ("gemma3", {"gemma3.final_logit_softcapping": 30.0}, "gemma3.final_logit_softcapping"),
        ("qwen2", {"qwen2.attention.key_length": 32}, "4 heads of 32 do not make up its width 64"),
        ("qwen2", {"qwen2.attention.sliding_window": 8}, "qwen2.attention.sliding_window"),
        ("qwen3", {"qwen3.rope.scaling.type": "yarn"}, "rope scaling is 'yarn'"),
    ],
)
def test_variants_of_an_architecture_are_refused(
    architecture: str, changes: dict[str, object], told: str, tmp_path: Path, silent: Report
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", changes, architecture=architecture)
    with pytest.raises(ModelFilesInvalid) as refused:
        import_gguf(file, tmp_path / "imported", silent)
    assert told in str(refused.value)


def test_tensors_that_share_bytes_cannot_make_a_small_file_large(tmp_path: Path, silent: Report) -> None:
    content = bytearray(write_gguf(tmp_path / "tiny.gguf").read_bytes())
    # every name of a tensor is followed by dimensions, their lengths, a type and an offset: all offsets become 0
    for name in tiny_tensors():
        at = content.index(name.encode()) + len(name)
        dimensions = int.from_bytes(content[at : at + 4], "little")
        offset = at + 4 + 8 * dimensions + 4
        content[offset : offset + 8] = bytes(8)
    start = content.index(b"blk.1.ffn_down.weight")
    sharing = tmp_path / "sharing.gguf"
    sharing.write_bytes(content[: start + 4096 + (len(TOKENS) * HIDDEN // 32) * 34])
    with pytest.raises(ModelFilesInvalid, match="its tensors claim"):
        import_gguf(sharing, tmp_path / "imported", silent)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_spoiled_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, spoilers: list[tuple[int, bytes]]
) -> None:
    """Nothing but ModelFilesInvalid, wherever the bytes are."""
    folder = tmp_path_factory.mktemp("spoiled")
    content = bytearray(write_gguf(folder / "whole.gguf").read_bytes())
    for at, spoiler in spoilers:
        start = at % (len(content) - len(spoiler))
        content[start : start + len(spoiler)] = spoiler
    (folder / "spoiled.gguf").write_bytes(content)
    with suppress(ModelFilesInvalid):
        import_gguf(folder / "spoiled.gguf", folder / "imported", lambda _fraction, _doing: None)
    shutil.rmtree(folder)


def test_a_kind_of_tensor_that_holds_no_weights_is_refused(tmp_path: Path, silent: Report) -> None:
    content = bytearray(write_gguf(tmp_path / "tiny.gguf").read_bytes())
    kind = content.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    assert content[kind] == GGMLQuantizationType.F32
    content[kind] = GGMLQuantizationType.I32
    (tmp_path / "integers.gguf").write_bytes(content)
    with pytest.raises(ModelFilesInvalid, match=r"output_norm.weight is stored as I32"):
        import_gguf(tmp_path / "integers.gguf", tmp_path / "imported", silent)


def rope_factors(tensors: Tensors) -> None:
    tensors["rope_factors_long.weight"] = (np.ones(8, np.float32), GGMLQuantizationType.F32)


def a_bias(tensors: Tensors) -> None:
    tensors["blk.0.attn_q.bias"] = (np.ones(HIDDEN, np.float32), GGMLQuantizationType.F32)


def a_missing_layer(tensors: Tensors) -> None:
    del tensors["blk.1.ffn_down.weight"]


def a_short_matrix(tensors: Tensors) -> None:
    tensors["blk.1.ffn_down.weight"] = tensors["blk.1.attn_v.weight"]


def a_short_norm(tensors: Tensors) -> None:
    tensors["output_norm.weight"] = (np.ones(32, np.float32), GGMLQuantizationType.F32)


def not_a_number(tensors: Tensors) -> None:
    tensors["output_norm.weight"] = (np.full(HIDDEN, np.nan, np.float32), GGMLQuantizationType.F32)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (rope_factors, "does not understand: rope_factors_long.weight"),
        (a_bias, "does not understand: blk.0.attn_q.bias"),
        (a_missing_layer, "blk.1.ffn_down.weight should have the shape (64, 96) and has none"),
        (a_short_matrix, "blk.1.ffn_down.weight should have the shape (64, 96)"),
        (a_short_norm, "output_norm.weight should have the shape (64,)"),
        (not_a_number, "output_norm.weight holds numbers that are not finite"),
    ],
)
def test_tensors_that_make_no_llama_are_refused(
    spoil: Callable[[Tensors], None], told: str, tmp_path: Path, silent: Report
) -> None:
    tensors = tiny_tensors()
    spoil(tensors)
    file = write_gguf(tmp_path / "tiny.gguf", tensors=tensors)
    with pytest.raises(ModelFilesInvalid) as refused:
        import_gguf(file, tmp_path / "imported", silent)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (None, "config.json cannot be read"),
        (b"", "not JSON"),
        (b'{"model_type": ', "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'["llama"]', "holds a list, not an object"),
        (b'{"model_type": "llama"}', "no model*.safetensors"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(config: bytes | None, told: str, tmp_path: Path, silent: Report) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_bytes(config)
    with pytest.raises(ModelFilesInvalid) as refused:
        ModelStore(tmp_path / "store").locate(str(folder), silent)
    assert told in str(refused.value)
    assert refused.value.path == folder
