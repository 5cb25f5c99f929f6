"""Choosing the next token of every row of a batch. Runs on the MLX thread.

A row's choice depends on its own logits, settings, seed and position, never on its neighbours: each random row
draws one uniform number from (seed, position) and inverts its own cumulative distribution.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import mlx.core as mx

from gateway.engine.token_stream import TokenScores
from gateway.generation.request import Sampling

# A multiple of 2**-23 times a float32 total is always below that total, so the inversion never runs past the end.
UNIFORM_BITS = 23

# Dividing logits by less than this overflows float32; the largest logit would win anyway.
SMALLEST_TEMPERATURE = 1e-5


class RowSampling:
    """One row's settings and what its next choice depends on. Owned by the MLX thread."""

    def __init__(
        self, sampling: Sampling, seed: int, prompt: Sequence[int], vocabulary: int, top_logprobs: int | None
    ) -> None:
        self.sampling = sampling
        self.top_logprobs = top_logprobs
        self._seed = seed
        self._position = 0
        self._bias = _bias_vector(sampling.logit_bias, vocabulary)
        self._generated: mx.array | None = None
        self._seen: mx.array | None = None
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._generated = mx.zeros((vocabulary,))
        if sampling.repetition_penalty != 1.0:
            self._seen = mx.zeros((vocabulary,), dtype=mx.bool_)
            self._seen[mx.array(list(prompt))] = True

    @property
    def adjusts_logits(self) -> bool:
        return self._bias is not None or self._generated is not None or self._seen is not None

    @property
    def is_greedy(self) -> bool:
        return self.sampling.temperature < SMALLEST_TEMPERATURE

    @property
    def needs_sorting(self) -> bool:
        return self.sampling.top_k > 0 or self.sampling.top_p < 1.0

    def advance(self, previous: mx.array) -> None:
        """Moves to the next position; `previous` (0-d, perhaps not computed yet) is the token before it."""
        if self._position > 0:
            if self._generated is not None:
                self._generated = self._generated.at[previous].add(1)
            if self._seen is not None:
                self._seen = mx.where(mx.arange(self._seen.size) == previous, True, self._seen)
        self._position += 1

    def adjust(self, logits: mx.array) -> mx.array:
        """Adds the bias and applies the penalties to one row's `logits` (vocabulary,)."""
        if self._bias is not None:
            logits = logits + self._bias
        if self._generated is not None:
            logits = logits - self.sampling.frequency_penalty * self._generated
            logits = logits - self.sampling.presence_penalty * (self._generated > 0)
        if self._seen is not None:
            penalty = self.sampling.repetition_penalty
            logits = mx.where(self._seen, mx.where(logits > 0, logits / penalty, logits * penalty), logits)
        return logits

    def uniform(self) -> float:
        """A number in [0, 1) that depends on the seed and the position alone."""
        message = f"{self._seed}:{self._position}".encode()
        digest = int.from_bytes(blake2b(message, digest_size=8).digest(), "big")
        return (digest >> (64 - UNIFORM_BITS)) / float(1 << UNIFORM_BITS)


def sample(logits: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    """The next token of each row: `logits` (rows, vocabulary) to token ids (rows,), not yet computed."""
    if any(row.adjusts_logits for row in rows):
        adjusted = [row.adjust(logits[i]) if row.adjusts_logits else logits[i] for i, row in enumerate(rows)]
        logits = mx.stack(adjusted)
    tokens = mx.argmax(logits, axis=-1).astype(mx.uint32)
    plain = [i for i, row in enumerate(rows) if not (row.is_greedy or row.needs_sorting)]
    sorting = [i for i, row in enumerate(rows) if row.needs_sorting and not row.is_greedy]
    for indices, draw in ((plain, _draw_plain), (sorting, _draw_sorted)):
        if indices:
            where = mx.array(indices)
            tokens[where] = draw(logits[where], [rows[i] for i in indices])
    return tokens


def score(logits: mx.array, token: mx.array, top: int) -> tuple[mx.array, ...]:
    """One row's log-probabilities, not yet computed: the chosen token's, then ids and values of the `top` likeliest.

    `logits` (vocabulary,) are the model's own, before bias, penalties and temperature.
    """
    logprobs = logits.astype(mx.float32) - mx.logsumexp(logits.astype(mx.float32))
    if not top:
        return (logprobs[token],)
    best = mx.argpartition(-logprobs, kth=top - 1)[:top]
    return logprobs[token], best, logprobs[best]


def read_scores(arrays: tuple[mx.array, ...]) -> TokenScores:
    """The computed result of `score` as plain numbers."""
    numbers: list[Any] = [array.tolist() for array in arrays]
    chosen, *best = numbers
    pairs = zip(*best, strict=True) if best else ()
    return TokenScores(chosen, tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))))


def _draw_plain(logits: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    probabilities = _probabilities(logits, rows)
    return _invert(_drop_unlikely(probabilities, mx.max(probabilities, axis=-1, keepdims=True), rows), rows)


def _draw_sorted(logits: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    """With top-k or top-p: sorts the vocabulary once and keeps a head of it that always holds the likeliest token."""
    order = mx.argsort(-logits, axis=-1)
    probabilities = _probabilities(mx.take_along_axis(logits, order, axis=-1), rows)
    probabilities = _drop_unlikely(probabilities, probabilities[:, :1], rows)
    vocabulary = logits.shape[-1]
    top_k = mx.array([[row.sampling.top_k or vocabulary] for row in rows])
    kept = mx.where(mx.arange(vocabulary) < top_k, probabilities, 0.0)
    top_p = mx.array([[row.sampling.top_p] for row in rows])
    mass_before = mx.cumsum(kept, axis=-1) - kept
    within = (mass_before < top_p * mx.sum(kept, axis=-1, keepdims=True)) | (mx.arange(vocabulary) == 0)
    picked = _invert(mx.where(within, kept, 0.0), rows)
    return mx.take_along_axis(order, picked[:, None], axis=-1)[:, 0].astype(mx.uint32)


def _probabilities(logits: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    temperature = mx.array([[row.sampling.temperature] for row in rows])
    return mx.softmax(logits.astype(mx.float32) / temperature, axis=-1)


def _drop_unlikely(probabilities: mx.array, largest: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    if not any(row.sampling.min_p > 0 for row in rows):
        return probabilities
    min_p = mx.array([[row.sampling.min_p] for row in rows])
    return mx.where(probabilities < min_p * largest, 0.0, probabilities)


def _invert(weights: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    """Draws an index per row with probability proportional to `weights` (rows, vocabulary)."""
    cumulative = mx.cumsum(weights, axis=-1)
    uniform = mx.array([[row.uniform()] for row in rows])
    return mx.argmax(cumulative > uniform * cumulative[:, -1:], axis=-1).astype(mx.uint32)


def _bias_vector(logit_bias: dict[int, float], vocabulary: int) -> mx.array | None:
    if not logit_bias:
        return None
    bias = mx.zeros((vocabulary,))
    bias[mx.array(list(logit_bias))] = mx.array(list(logit_bias.values()))
    return bias
