"""Choosing the next token of every row of a batch. Runs on the MLX thread.

A row's choice depends on its own logits, settings, seed and position, never on its neighbours: a random row
takes the token whose logit plus Gumbel noise is largest (which draws from the softmax), and the noise of each
token comes from seed and position. Rounding that differs with the size of the batch then matters no more than
for a greedy row: in a near tie only.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import mlx.core as mx

from gateway.engine.token_stream import TokenScores
from gateway.generation.request import Sampling

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

    def noise(self, vocabulary: int) -> mx.array:
        """Gumbel noise for every token, which depends on the seed and the position alone."""
        digest = blake2b(f"{self._seed}:{self._position}".encode(), digest_size=8).digest()
        return mx.random.gumbel((vocabulary,), key=mx.random.key(int.from_bytes(digest, "big")))


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
    scaled, noisy = _scaled_and_noisy(logits, rows)
    if any(row.sampling.min_p > 0 for row in rows):
        probabilities = mx.softmax(scaled, axis=-1)
        likely = probabilities >= _column(rows, "min_p") * mx.max(probabilities, axis=-1, keepdims=True)
        noisy = mx.where(likely, noisy, -mx.inf)
    return mx.argmax(noisy, axis=-1).astype(mx.uint32)


def _draw_sorted(logits: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    """With top-k or top-p: sorts the vocabulary once and keeps a head of it that always holds the likeliest token."""
    scaled, noisy = _scaled_and_noisy(logits, rows)
    order = mx.argsort(-scaled, axis=-1)
    probabilities = mx.take_along_axis(mx.softmax(scaled, axis=-1), order, axis=-1)
    vocabulary = logits.shape[-1]
    rank = mx.arange(vocabulary)
    top_k = mx.array([[min(row.sampling.top_k or vocabulary, vocabulary)] for row in rows])
    kept = (rank < top_k) & (probabilities >= _column(rows, "min_p") * probabilities[:, :1])
    mass = mx.where(kept, probabilities, 0.0)
    mass_before = mx.cumsum(mass, axis=-1) - mass
    nucleus = mass_before < _column(rows, "top_p") * mx.sum(mass, axis=-1, keepdims=True)
    noisy = mx.take_along_axis(noisy, order, axis=-1)
    noisy = mx.where((kept & nucleus) | (rank == 0), noisy, -mx.inf)
    picked = mx.argmax(noisy, axis=-1, keepdims=True)
    return mx.take_along_axis(order, picked, axis=-1)[:, 0].astype(mx.uint32)


def _scaled_and_noisy(logits: mx.array, rows: Sequence[RowSampling]) -> tuple[mx.array, mx.array]:
    """Logits over temperature, and the same with each row's noise added."""
    scaled = logits.astype(mx.float32) / _column(rows, "temperature")
    return scaled, scaled + mx.stack([row.noise(logits.shape[-1]) for row in rows])


def _column(rows: Sequence[RowSampling], setting: str) -> mx.array:
    return mx.array([[getattr(row.sampling, setting)] for row in rows])


def _bias_vector(logit_bias: dict[int, float], vocabulary: int) -> mx.array | None:
    if not logit_bias:
        return None
    bias = mx.zeros((vocabulary,))
    bias[mx.array(list(logit_bias))] = mx.array(list(logit_bias.values()))
    return bias
