"""What the caches of a model's rows cost in memory, learned from the caches the model itself makes.

Arithmetic, once measured. A cache grows in steps and never shrinks below what it holds:

- A row that is computed alone holds `tokens` rounded up to a step (256), if it is computed in chunks that divide the
  step or are multiples of it.
- Rows in a batch share a rectangle, as long as the longest row. mlx-lm's grows by a step from wherever it stands when
  it is full, so it may hold up to a step less one token more than `longest`; the gateway's own never more than that.
- A window layer keeps its window and all but one token of the last chunk that was computed.

Source: mlx_lm/models/cache.py, 0.32.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    make_prompt_cache,
)

PROBE_TOKENS = 512
"""By which caches of an unknown kind are grown to see what a token costs."""

MOST_TOKENS = 2**24
"""The answer to "how many fit" of a model whose caches do not grow."""

COPIES = 2
"""Rectangles are replaced layer by layer: besides the new one, a layer's old array and its padded copy exist."""


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What one row costs in `layers` equal caches, each: `constant_bytes`, and `token_bytes` for every token held.

    `window` is the most tokens a cache ever holds; None for as many as there are.
    """

    token_bytes: int
    constant_bytes: int = 0
    window: int | None = None
    step: int = 1
    layers: int = 1

    def bytes_for(self, tokens: int) -> int:
        """Of one row in one cache that has room for `tokens`."""
        held = tokens if self.window is None else min(tokens, self.window)
        return self.constant_bytes + self.token_bytes * held


@dataclass(frozen=True, slots=True)
class KvLayout:
    """All caches of one model, equal ones together."""

    layers: tuple[LayerCost, ...]

    @staticmethod
    def measure(
        model: Any, chunk_tokens: int, make_caches: Callable[[Any], list[Any]] = make_prompt_cache
    ) -> "KvLayout":
        """Runs `model` on a token or two and reads its caches; on the MLX thread.

        `chunk_tokens` is the longest chunk of one prompt that will ever be computed in one pass. Caches of a kind not
        known here are run on `PROBE_TOKENS` more, and assumed to go on growing as they did.
        """
        caches = make_caches(model)
        _run(model, caches, 1)
        leaves = [leaf for cache in caches for leaf in _leaves(cache)]
        costs = [_known_cost(leaf, chunk_tokens) for leaf in leaves]
        if None in costs:
            before = [_array_bytes(leaf) for leaf in leaves]
            _run(model, caches, PROBE_TOKENS)
            grown = [_grown_cost(was, _array_bytes(leaf)) for was, leaf in zip(before, leaves, strict=True)]
            costs = [cost or probed for cost, probed in zip(costs, grown, strict=True)]
        merged = Counter(cost for cost in costs if cost)
        return KvLayout(tuple(replace(cost, layers=count) for cost, count in merged.items()))

    def row_bytes(self, tokens: int) -> int:
        """Of one row computed alone; exact, but for up to a step of tokens in each window layer."""
        if tokens <= 0:
            return 0
        return sum(cost.layers * cost.bytes_for(_room_alone(tokens, cost)) for cost in self.layers)

    def batch_bytes(self, rows: int, longest: int) -> int:
        """The most that a batch of `rows` takes, the longest of which has `longest` tokens."""
        if rows <= 0 or longest <= 0:
            return 0
        return rows * sum(cost.layers * cost.bytes_for(longest + cost.step - 1) for cost in self.layers)

    def needed_bytes(self, rows: int, longest: int, prompts: Iterable[int] = ()) -> int:
        """The most that `rows` take until all have ended, the longest with `longest` tokens.

        `rows` counts those whose prompts are still computed: their places in the rectangle must be free when they
        join. `prompts` gives the tokens of each prompt being computed, whose own cache exists beside that place until
        the rectangle holds a copy. Prompts computed in a rectangle of their own are all as long as the longest.
        """
        largest_layer = max((cost.bytes_for(longest + cost.step - 1) for cost in self.layers), default=0)
        alone = sum(self.row_bytes(tokens) for tokens in prompts)
        return self.batch_bytes(rows, longest) + alone + COPIES * max(0, rows) * largest_layer

    def tokens_that_fit(
        self,
        available_bytes: int,
        rows: int,
        at_most: int = MOST_TOKENS,
        beside: Callable[[int], int] = lambda longest: 0,
    ) -> int:
        """The longest that the rows of one request may be, up to `at_most`, whatever part is their prompt; 0 if none.

        `beside` gives what else such a batch costs, such as work space; it must not fall with the length.
        """
        least, most = 0, at_most
        while least < most:
            longest = (least + most + 1) // 2
            if self.needed_bytes(rows, longest, [longest]) + beside(longest) <= available_bytes:
                least = longest
            else:
                most = longest - 1
        return least

    def describe(self) -> str:
        """For the log: `30 layers with 1536 bytes a token; 4 layers with 512 bytes a token, 1151 tokens at most`."""
        return "; ".join(_describe(cost) for cost in self.layers) or "no caches"


def _known_cost(cache: Any, chunk_tokens: int) -> LayerCost | None:
    if getattr(cache, "keys", ...) is None:  # the model left it empty
        return None
    match cache:
        case KVCache() | RotatingKVCache() | ChunkedKVCache():
            token_bytes = (cache.keys.nbytes + cache.values.nbytes) // cache.keys.shape[2]
        case QuantizedKVCache():
            token_bytes = sum(array.nbytes for array in (*cache.keys, *cache.values)) // cache.keys[0].shape[2]
        case ArraysCache():
            return LayerCost(token_bytes=0, constant_bytes=_array_bytes(cache))
        case _:
            return None
    match cache:
        case RotatingKVCache():
            return LayerCost(token_bytes, window=cache.max_size + chunk_tokens - 1, step=cache.step)
        case ChunkedKVCache():  # trimmed before a pass, then grown by that pass's chunk in whole steps
            return LayerCost(token_bytes, window=cache.chunk_size + chunk_tokens + cache.step - 1, step=cache.step)
        case _:
            return LayerCost(token_bytes, step=cache.step)


def _grown_cost(bytes_before: int, bytes_after: int) -> LayerCost:
    """More than it can be, if it grows evenly: all of what it holds now is taken as the price of the first token."""
    return LayerCost(token_bytes=-(-max(0, bytes_after - bytes_before) // PROBE_TOKENS), constant_bytes=bytes_after)


def _room_alone(tokens: int, cost: LayerCost) -> int:
    if cost.window is not None:  # grows by what it must, but for a chunk of one token by a step
        return tokens + cost.step - 1
    return -(-tokens // cost.step) * cost.step


def _run(model: Any, caches: list[Any], tokens: int) -> None:
    logits = model(mx.zeros((1, tokens), dtype=mx.int32), cache=caches)
    mx.eval(logits, [_arrays(cache) for cache in caches])


def _leaves(cache: Any) -> Iterable[Any]:
    if isinstance(cache, CacheList):
        for inner in cache.caches:
            yield from _leaves(inner)
    elif cache is not None:
        yield cache


def _arrays(cache: Any) -> list[mx.array]:
    if cache is None:
        return []
    state: list[tuple[str, Any]] = tree_flatten(cache.state)  # type: ignore[assignment]
    return [array for _, array in state if isinstance(array, mx.array)]


def _array_bytes(cache: Any) -> int:
    return sum(array.nbytes for array in _arrays(cache))


def _describe(cost: LayerCost) -> str:
    parts = []
    if cost.token_bytes:
        most = f", {cost.window} tokens at most" if cost.window is not None else ""
        parts.append(f"{cost.token_bytes} bytes a token{most}")
    if cost.constant_bytes or not parts:
        parts.append(f"{cost.constant_bytes} bytes of state")
    return f"{cost.layers} layers with {' and '.join(parts)}"
