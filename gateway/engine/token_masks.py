"""Keeping the next token of constrained rows within their grammars. Runs on the MLX thread."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from gateway.engine.constraint import Words

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_BOUNDS_OF_BYTE = np.where(_BITS == 1, np.float32(np.inf), np.float32(-np.inf))
"""For each byte of a mask, what its eight tokens' logits are limited to."""


def apply_masks(logits: mx.array, slots: Sequence[int], masks: Sequence[Words]) -> mx.array:
    """`logits` (rows, width) with all tokens but the allowed ones at -inf in the rows `slots`; other rows as they are.

    A mask has one bit for a token, the lowest of the first word for token 0; tokens beyond it are not allowed.
    The bits are unpacked by table and applied as a minimum: mlx's `where` alone takes five times as long on a CPU
    (8 rows of 49152: 0.3 ms against 1.7).
    """
    if not slots:
        return logits
    rows, width = logits.shape
    bounds = np.full((rows, width), np.inf, dtype=np.float32)
    for slot, mask in zip(slots, masks, strict=True):
        of_mask = np.take(_BOUNDS_OF_BYTE, mask.astype("<u4", copy=False).view(np.uint8), axis=0).reshape(-1)[:width]
        bounds[slot, : of_mask.size] = of_mask
        bounds[slot, of_mask.size :] = -np.inf
    return mx.minimum(logits, mx.array(bounds).astype(logits.dtype))
