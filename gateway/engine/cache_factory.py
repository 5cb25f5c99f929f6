"""Makes the caches that suit one model. Runs on the MLX thread."""

from collections.abc import Iterable, Sequence
from typing import Any

from mlx_lm.models.cache import KVCache, QuantizedKVCache, RotatingKVCache, make_prompt_cache

from gateway.engine.aligned_caches import AlignedCaches, leaves, part_of
from gateway.engine.ragged_caches import QUANTIZED_GROUP, RaggedCaches
from gateway.engine.row_caches import RowCaches
from gateway.errors import ModelUnavailable
from gateway.prefix_cache.extent import Part
from gateway.prefix_cache.restore import Needs

CHECKPOINT_TOKENS = 1024
"""Between two states of a long prompt that are kept, whatever its messages; a state may take a hundred megabytes."""


class CacheFactory:
    """`ragged`: every layer attends to all earlier tokens. `batchable`: several rows can decode together.

    `needs` is what a row must be given to go on after a prefix; None if these caches cannot be taken apart.
    """

    def __init__(self, model: Any, kv_bits: int = 0) -> None:
        """`kv_bits` as in `RaggedCaches`. Raises `ModelUnavailable` for a model whose caches cannot be quantised."""
        self._model = model
        self._kv_bits = kv_bits
        kinds = make_prompt_cache(model)
        self._layers = len(kinds)
        self.ragged = all(type(kind) is KVCache for kind in kinds)
        self.batchable = all(hasattr(kind, "merge") for kind in kinds)
        self.needs = _needs(list(leaves(kinds)))
        if kv_bits and not self.ragged:
            raise ModelUnavailable(
                f"engine.kv_bits is {kv_bits}, but this model has layers with a window or a state, whose caches cannot "
                "be quantised. Set engine.kv_bits = 0."
            )

    def model_caches(self) -> list[Any]:
        """Caches of mlx-lm's own that cost what these cost."""
        if not self._kv_bits:
            caches: list[Any] = make_prompt_cache(self._model)
            return caches
        return [QuantizedKVCache(QUANTIZED_GROUP, self._kv_bits) for _ in range(self._layers)]

    def stops(self, prompt_tokens: int, message_ends: Iterable[int]) -> list[int]:
        """Places in a prompt where chunks must end, because what stands there shall be kept.

        Keys and values can be cut off anywhere; only states are worth nothing but where they were seen.
        """
        if self.needs is None or not self.needs.state:
            return []
        stops = {*range(CHECKPOINT_TOKENS, prompt_tokens, CHECKPOINT_TOKENS), *message_ends}
        return sorted(stop for stop in stops if 0 < stop < prompt_tokens)

    def for_prompts(self) -> RowCaches:
        """No rows yet; only ragged caches take more than one."""
        return self._ragged_caches() if self.ragged else AlignedCaches(make_prompt_cache(self._model))

    def for_decoding(self) -> RowCaches:
        """No rows yet; they are added from those of prompts."""
        return self._ragged_caches() if self.ragged else AlignedCaches([])

    def _ragged_caches(self) -> RaggedCaches:
        return RaggedCaches(self._layers, self._kv_bits)


def _needs(kinds: Sequence[Any]) -> Needs | None:
    parts = {part_of(kind) for kind in kinds}
    if None in parts:
        return None
    windows = [kind.max_size for kind in kinds if isinstance(kind, RotatingKVCache)]
    return Needs(window=max(windows, default=None), state=Part.STATE in parts)
