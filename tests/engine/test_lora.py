"""Rows with different adapters in one batch, against models that have the same adapters merged into their weights."""

import copy
from collections import deque
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module
from mlx.nn.layers.quantized import quantize
from mlx_lm.models.cache import make_prompt_cache

from gateway.engine.batch import Batch
from gateway.engine.lora import AdaptedModel
from gateway.engine.prefill import Prompt
from gateway.errors import AdapterUnfit
from gateway.generation.adapter import BASE, Adapter
from tests.engine.adapters import linear_paths, merged, read_adapter, write_adapter
from tests.engine.architectures import build
from tests.engine.test_batch import Tokens, prompt, row

TOLERANCE = 1e-4
"""Of logits in float32, against the largest of them: x @ (W + A B) and x @ W + (x @ A) @ B round differently."""

ATTENTION = ("q_proj", "v_proj")


@pytest.fixture(params=["llama", "qwen3", "gemma3_text", "falcon_h1"])
def model(request: pytest.FixtureRequest) -> Any:
    return copy.deepcopy(build(str(request.param), mx.float32))


@pytest.fixture
def llama() -> Any:
    return copy.deepcopy(build("llama", mx.float32))


def adapters_of(model: Any, folder: Path) -> dict[str, Adapter]:
    """One of rank 4 for every linear layer, one of rank 8 in PEFT's format for attention only."""
    write_adapter(folder / "wide", linear_paths(model), rank=4, seed=1)
    write_adapter(folder / "peft", linear_paths(model, ATTENTION), rank=8, seed=2, peft=True)
    return {name: read_adapter(folder / name, name) for name in ("wide", "peft")}


def adapted(model: Any, adapters: dict[str, Adapter]) -> AdaptedModel:
    both = AdaptedModel(model)
    for adapter in adapters.values():
        both.add(adapter)
    return both


def logits(model: Any, ids: list[int]) -> mx.array:
    computed: mx.array = model(mx.array([ids]), cache=make_prompt_cache(model))
    return computed[0]


def distance(one: mx.array, other: mx.array) -> float:
    largest: float = (mx.abs(one - other).max() / mx.abs(other).max()).item()  # type: ignore[assignment]
    return largest


def test_mixed_rows_have_the_logits_of_the_merged_models(model: Any, tmp_path: Path) -> None:
    references = {BASE: copy.deepcopy(model)}
    adapters = adapters_of(model, tmp_path)
    references |= {name: merged(model, adapter) for name, adapter in adapters.items()}
    both = adapted(model, adapters)
    rows = ["peft", "wide", BASE, "wide", "peft"]
    ids = prompt(9)
    mixed = both(mx.array([ids] * len(rows)), None, rows)
    for name, computed in zip(rows, mixed, strict=True):
        expected = references[name](mx.array([ids]))[0]
        assert distance(computed, expected) < TOLERANCE
    assert distance(mixed[0], mixed[2]) > 0.01
    assert distance(mixed[1], mixed[2]) > 0.01


def test_without_adapters_the_base_is_computed_bit_for_bit(model: Any, tmp_path: Path) -> None:
    untouched = copy.deepcopy(model)
    both = adapted(model, adapters_of(model, tmp_path))
    ids = mx.array([prompt(9), prompt(9, 1)])
    both(ids, None, ["wide", "peft"])
    assert mx.array_equal(both(ids, None, [BASE, BASE]), untouched(ids))


def test_a_batch_of_mixed_rows_gives_the_tokens_of_the_merged_models(model: Any, tmp_path: Path) -> None:
    """Prompts computed together where the caches allow it, rows that join and leave, drafts and all."""
    references = {BASE: copy.deepcopy(model)}
    adapters = adapters_of(model, tmp_path)
    references |= {name: merged(model, adapter) for name, adapter in adapters.items()}
    batch, tokens = Batch(model), Tokens()
    deque(batch.adapted.add_in_slices(list(adapters.values())))
    work = [("wide", 30, 12), (BASE, 7, 20), ("peft", 17, 6), ("wide", 3, 9), ("peft", 40, 15)]
    rows = [row(prompt(length), count, adapter=name) for name, length, count in work]
    prompts = [Prompt(i, [one], prompt(work[i][1]), adapter=work[i][0]) for i, one in enumerate(rows)]
    groups = [prompts[:3], prompts[3:]] if batch.prompts_together else [[one] for one in prompts]
    for group in groups:
        batch.join_ready(batch.add(group))
        for _ in range(3):
            tokens.step(batch)
    tokens.run(batch)
    for one, (name, length, count) in zip(rows, work, strict=True):
        alone, reference = Tokens(), Batch(references[name])
        lonely = row(prompt(length), count)
        reference.join_ready(reference.add([Prompt(1, [lonely], prompt(length))]))
        alone.run(reference)
        assert tokens[id(one)] == alone[id(lonely)]


def test_a_quantised_base_keeps_its_weights_and_gets_the_same_updates(llama: Any, tmp_path: Path) -> None:
    quantize(llama, group_size=32, bits=8)
    adapters = adapters_of(llama, tmp_path)
    references = {name: merged(llama, adapter) for name, adapter in adapters.items()}
    both = adapted(llama, adapters)
    rows = ["wide", "peft"]
    ids = prompt(9)
    for name, computed in zip(rows, both(mx.array([ids] * 2), None, rows), strict=True):
        assert distance(computed, references[name](mx.array([ids]))[0]) < 1e-3


def test_an_adapter_is_computed_in_the_bases_type(tmp_path: Path) -> None:
    model = copy.deepcopy(build("llama", mx.bfloat16))
    both = adapted(model, adapters_of(model, tmp_path))
    assert both(mx.array([prompt(9)] * 2), None, ["wide", "peft"]).dtype == mx.bfloat16


def test_layers_are_found_whatever_stands_before_their_number(llama: Any, tmp_path: Path) -> None:
    paths = linear_paths(llama, ATTENTION)
    write_adapter(tmp_path / "a", {f"language_model.{path}": size for path, size in paths.items()}, 4, 1, peft=True)
    write_adapter(tmp_path / "b", paths, 4, 1, peft=True)
    both = adapted(llama, {name: read_adapter(tmp_path / name, name) for name in "ab"})
    one, other = both(mx.array([prompt(9)] * 2), None, ["a", "b"])
    assert distance(one, other) < TOLERANCE


def test_every_byte_of_adapters_is_told(llama: Any, tmp_path: Path) -> None:
    """Once for themselves, and once for those of a pass side by side."""
    adapters = adapters_of(llama, tmp_path)
    both = AdaptedModel(llama)
    assert both.nbytes == 0
    both.add(adapters["wide"])
    wide = sum(4 * update.rank * (update.inputs + update.outputs) for update in adapters["wide"].updates)
    assert both.nbytes == wide
    both.add(adapters["peft"])
    peft = sum(4 * update.rank * (update.inputs + update.outputs) for update in adapters["peft"].updates)
    assert both.nbytes == 2 * (wide + peft)


def unfit(model: Any, adapter: Adapter) -> str:
    before = copy.deepcopy(model)
    both = AdaptedModel(model)
    with pytest.raises(AdapterUnfit) as raised:
        both.add(adapter)
    with pytest.raises(AdapterUnfit):
        both.check(adapter.name)
    ids = mx.array([prompt(9)])
    assert mx.array_equal(model(ids), before(ids))
    return str(raised.value)


def test_an_adapter_of_another_model_is_refused_with_the_layer(llama: Any, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", {"model.layers.7.self_attn.q_proj": (64, 128)}, 4, 1)
    assert "has no layer model.layers.7.self_attn.q_proj" in unfit(llama, read_adapter(tmp_path / "a", "a"))


def test_an_adapter_of_other_dimensions_is_refused_with_both(llama: Any, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", {"model.layers.1.self_attn.q_proj": (32, 128)}, 4, 1)
    assert "takes 32 to 128 features, the base's 64 to 128" in unfit(llama, read_adapter(tmp_path / "a", "a"))


def test_an_adapter_of_embeddings_is_refused(llama: Any, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", {"model.embed_tokens": (50, 64)}, 4, 1)
    assert "model.embed_tokens is a Embedding" in unfit(llama, read_adapter(tmp_path / "a", "a"))


def test_weights_that_are_no_numbers_are_refused(llama: Any, tmp_path: Path) -> None:
    paths = linear_paths(llama, ATTENTION)
    write_adapter(tmp_path / "a", paths, 4, 1, strength=float("nan"))
    assert "NaN" in unfit(llama, read_adapter(tmp_path / "a", "a"))


class TokensInOneLine(Module):
    """A layer that is given all rows' tokens one after the other, or, `mixed`, those of each place together."""

    def __init__(self, inner: Any, *, mixed: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inner = inner
        self._mixed = mixed

    def __call__(self, x: mx.array) -> mx.array:
        line = (x.swapaxes(0, 1) if self._mixed else x).reshape(-1, x.shape[-1])
        y: mx.array = self.inner(line)
        if self._mixed:
            return y.reshape(x.shape[1], x.shape[0], -1).swapaxes(0, 1)
        return y.reshape(*x.shape[:-1], -1)


def test_rows_keep_their_adapters_where_a_layer_gets_all_tokens_in_one_line(llama: Any, tmp_path: Path) -> None:
    adapters = adapters_of(llama, tmp_path)
    ids = mx.array([prompt(9), prompt(9, 1)])
    expected = adapted(copy.deepcopy(llama), adapters)(ids, None, ["wide", "peft"])
    for layer in llama.layers:
        layer.self_attn.q_proj = TokensInOneLine(layer.self_attn.q_proj, mixed=False)
    for name in adapters:
        moved = {
            f"{path}.inner" if "q_proj" in path else path: size
            for path, size in linear_paths(copy.deepcopy(build("llama", mx.float32))).items()
            if name == "wide" or path.endswith(ATTENTION)
        }
        folder = tmp_path / f"moved-{name}"
        write_adapter(folder, moved, 4 if name == "wide" else 8, 1 if name == "wide" else 2, peft=name == "peft")
        adapters[name] = read_adapter(folder, name)
    assert distance(adapted(llama, adapters)(ids, None, ["wide", "peft"]), expected) < TOLERANCE


def test_a_layer_that_mixes_rows_can_have_no_adapters(llama: Any, tmp_path: Path) -> None:
    for layer in llama.layers:
        layer.self_attn.q_proj = TokensInOneLine(layer.self_attn.q_proj, mixed=True)
    paths = linear_paths(llama, ["q_proj.inner"])
    write_adapter(tmp_path / "a", paths, 4, 1)
    assert "mixes rows" in unfit(llama, read_adapter(tmp_path / "a", "a"))


def test_one_that_does_not_suit_leaves_the_others(llama: Any, tmp_path: Path) -> None:
    adapters = adapters_of(llama, tmp_path)
    write_adapter(tmp_path / "bad", {"model.layers.7.self_attn.q_proj": (64, 128)}, 4, 1)
    both = AdaptedModel(llama)
    deque(both.add_in_slices([adapters["wide"], read_adapter(tmp_path / "bad", "bad"), adapters["peft"]]))
    both.check("wide")
    both.check("peft")
    with pytest.raises(AdapterUnfit, match="has no layer"):
        both.check("bad")
