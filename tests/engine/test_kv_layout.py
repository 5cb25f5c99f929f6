"""What is predicted against the arrays that real caches hold."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import ConcatenateKVCache, KVCache, make_prompt_cache

from gateway.engine.kv_layout import KvLayout, LayerCost
from tests.engine.architectures import MODELS, SLIDING_WINDOW, build

CHUNK = 128
TOKEN_BYTES = 256
"""In one attention layer: keys and values of one head of 64 in bfloat16."""
MakeCaches = Callable[[Any], list[Any]]


def quantized_caches(model: Any) -> list[Any]:
    return [cache.to_quantized(group_size=64, bits=4) for cache in make_prompt_cache(model)]


def concatenated_caches(model: Any) -> list[Any]:
    """Of a kind that `KvLayout` does not know."""
    return [ConcatenateKVCache() for _ in model.layers]


class LastTokens(ConcatenateKVCache):  # type: ignore[misc]
    """Of an unknown kind too, and it stops growing long before the probe ends."""

    keys: mx.array
    values: mx.array

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        fetched: tuple[mx.array, mx.array] = super().update_and_fetch(keys, values)
        self.keys, self.values = self.keys[..., -100:, :], self.values[..., -100:, :]
        return fetched


def last_tokens_caches(model: Any) -> list[Any]:
    return [LastTokens() for _ in model.layers]


@pytest.fixture(scope="module", params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(model: Any, caches: list[Any], tokens: int, chunk: int, rows: int = 1) -> None:
    while tokens:
        width = min(chunk, tokens)
        mx.eval(model(mx.zeros((rows, width), dtype=mx.int32), cache=caches))
        mx.eval([cache.state for cache in caches])
        tokens -= width


def real_bytes(caches: list[Any]) -> int:
    """Of the arrays that grow with rows and tokens, not the few numbers per row beside them."""
    arrays: list[tuple[str, Any]] = tree_flatten([cache.state for cache in caches])  # type: ignore[assignment]
    return sum(array.nbytes for _, array in arrays if isinstance(array, mx.array) and array.ndim > 1)


def predicted_and_real(
    name: str, tokens: int, chunk: int, make_caches: MakeCaches = make_prompt_cache
) -> tuple[int, int]:
    model = build(name)
    caches = make_caches(model)
    run(model, caches, tokens, chunk)
    return KvLayout.measure(model, chunk, make_caches).row_bytes(tokens), real_bytes(caches)


@pytest.mark.parametrize(("tokens", "chunk"), [(1, CHUNK), (255, CHUNK), (257, CHUNK), (700, CHUNK), (700, 1024)])
def test_a_row_computed_alone(name: str, tokens: int, chunk: int) -> None:
    predicted, real = predicted_and_real(name, tokens, chunk)
    if name == "gemma3_text":
        assert real <= predicted <= real + 255 * TOKEN_BYTES, "up to a step of tokens in the window layer"
    else:
        assert predicted == real


def test_a_window_is_exact_after_a_whole_chunk() -> None:
    predicted, real = predicted_and_real("gemma3_text", 6 * CHUNK, CHUNK)
    assert predicted == real


@pytest.mark.parametrize("tokens", [1, 255, 257, 700])
def test_a_quantized_cache(tokens: int) -> None:
    predicted, real = predicted_and_real("llama", tokens, CHUNK, quantized_caches)
    assert predicted == real
    assert 3 * predicted < predicted_and_real("llama", tokens, CHUNK)[0]


@pytest.mark.parametrize("tokens", [1, 511, 1100])
def test_a_cache_of_an_unknown_kind_is_never_underestimated(tokens: int) -> None:
    predicted, real = predicted_and_real("llama", tokens, CHUNK, concatenated_caches)
    assert real <= predicted <= real + 2 * 513 * TOKEN_BYTES


def merged(model: Any, lengths: Sequence[int]) -> list[Any]:
    """A batch in mlx-lm's own caches."""
    alone = [make_prompt_cache(model) for _ in lengths]
    for caches, tokens in zip(alone, lengths, strict=True):
        run(model, caches, tokens, CHUNK)
    return [layers[0].merge(list(layers)) for layers in zip(*alone, strict=True)]


@pytest.mark.parametrize("lengths", [(1,), (700, 20), (256, 256)])
def test_a_batch_never_holds_more_than_predicted(name: str, lengths: Sequence[int]) -> None:
    model = build(name)
    batch, layout = merged(model, lengths), KvLayout.measure(model, CHUNK)
    for longest in range(max(lengths) + 1, max(lengths) + 4):
        run(model, batch, 1, 1, rows=len(lengths))
        real, predicted = real_bytes(batch), layout.batch_bytes(len(lengths), longest)
        a_step = sum(cost.layers * cost.token_bytes * 255 for cost in layout.layers)
        assert real <= predicted <= real + len(lengths) * a_step


def test_a_batch_keeps_its_odd_size_when_it_grows() -> None:
    """It is as tight as can be: a rectangle merged at 260 tokens holds 516 for 261."""
    model = build("llama")
    batch, layout = merged(model, (260, 3)), KvLayout.measure(model, CHUNK)
    run(model, batch, 1, 1, rows=2)
    assert real_bytes(batch) == layout.batch_bytes(2, 261)
    run(model, batch, 256, 64, rows=2)
    assert real_bytes(batch) <= layout.batch_bytes(2, 517)


def test_an_unknown_cache_that_soon_stops_growing_is_not_underestimated_before() -> None:
    predicted, real = predicted_and_real("llama", 100, CHUNK, last_tokens_caches)
    assert real <= predicted <= 2 * real


def test_windows_and_states_stop_growing() -> None:
    sliding, state = (KvLayout.measure(build(name), CHUNK) for name in ("gemma3_text", "mamba"))
    assert state.batch_bytes(3, 10) == state.batch_bytes(3, 100_000) > 0
    assert sliding.batch_bytes(1, 100_000) == TOKEN_BYTES * (SLIDING_WINDOW + CHUNK - 1 + 100_000 + 255)


def test_equal_layers_are_described_together() -> None:
    assert KvLayout.measure(build("llama"), CHUNK).describe() == "2 layers with 256 bytes a token"
    assert KvLayout.measure(build("gemma3_text"), CHUNK).describe() == (
        "1 layers with 256 bytes a token, 427 tokens at most; 1 layers with 256 bytes a token"
    )
    assert "bytes of state; 2 layers with 256 bytes a token" in KvLayout.measure(build("falcon_h1"), CHUNK).describe()


def test_a_cache_the_model_leaves_empty_costs_nothing() -> None:
    layout = KvLayout.measure(build("llama"), CHUNK, lambda model: [*make_prompt_cache(model), KVCache()])
    assert layout.row_bytes(1000) == KvLayout.measure(build("llama"), CHUNK).row_bytes(1000)


LAYOUT = KvLayout((LayerCost(token_bytes=100, step=256, layers=4), LayerCost(0, constant_bytes=5000)))


@pytest.mark.parametrize("rows", [1, 3])
def test_how_many_tokens_fit(rows: int) -> None:
    available = 3_000_000
    tokens = LAYOUT.tokens_that_fit(available, rows)
    assert LAYOUT.needed_bytes(rows, tokens, [tokens]) <= available
    assert LAYOUT.needed_bytes(rows, tokens + 1, [tokens + 1]) > available
    assert LAYOUT.tokens_that_fit(available, rows, beside=lambda longest: 400 * longest) < tokens
    assert LAYOUT.tokens_that_fit(available, rows, at_most=10) == 10
    assert LAYOUT.tokens_that_fit(4999, rows) == 0


def test_prompts_cost_their_own_caches_beside_their_places() -> None:
    assert LAYOUT.needed_bytes(2, 1000, [600, 10]) - LAYOUT.needed_bytes(2, 1000) == (
        LAYOUT.row_bytes(600) + LAYOUT.row_bytes(10)
    )
    assert LAYOUT.needed_bytes(0, 0) == LAYOUT.batch_bytes(0, 5) == LAYOUT.row_bytes(0) == 0
