"""mlx-lm's continuous batching behind the few verbs the gateway needs. Runs on the MLX thread.

The only file that knows `BatchGenerator`: its classes change between minor versions, to which the dependency is pinned.
Source: mlx_lm/generate.py, 0.32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.generate import (
    BatchGenerator,
    GenerationBatch,
    PromptProcessingBatch,
    StopSequences,
    greedy_sampler,
)

from gateway.engine.sampling import RowSampling, read_scores, sample, score
from gateway.engine.token_stream import TokenScores
from gateway.generation.events import FinishReason


@dataclass(frozen=True, slots=True)
class RowToken:
    """The token a step gave one row."""

    row: int
    token: int
    scores: TokenScores | None
    finish: FinishReason | None


PREFILL_ROWS = 8
"""Prompts computed together (mlx-lm's default)."""

SMALLEST_CHUNK_TOKENS = 32
"""Of one prompt; with fewer, the cost of a call outweighs its work."""


class Batch:
    """Rows that share forward passes; rows join and leave between steps."""

    def __init__(self, model: Any, max_rows: int, prefill_chunk_tokens: int) -> None:
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._prefilling: set[int] = set()
        self._generator = _SamplingGenerator(
            model, completion_batch_size=max_rows, prefill_batch_size=min(PREFILL_ROWS, max_rows)
        )

    def insert(self, prompt: Sequence[int], max_tokens: int, end_tokens: frozenset[int], sampling: RowSampling) -> int:
        """Adds a row and returns its number. Its prompt is computed by the coming steps."""
        (row,) = self._generator.insert(
            [list(prompt)],
            max_tokens=[max_tokens],
            samplers=[sampling],
            stop_sequences=[StopSequences([[token] for token in sorted(end_tokens)])],
        )
        self._prefilling.add(row)
        return int(row)

    def remove(self, rows: Sequence[int]) -> None:
        """Frees rows at whatever stage they are; unknown numbers are ignored."""
        with mx.stream(self._generator.stream):
            self._generator.remove(list(rows))
        self._prefilling.difference_update(rows)

    def step(self) -> list[RowToken]:
        """One decode step for the rows that have started, and one chunk of the prompts of those that have not.

        The chunk is `prefill_chunk_tokens` for all prompts together (but not too few of each), so that it
        stalls the others no longer when many come at once.
        """
        prompts = min(PREFILL_ROWS, len(self._prefilling)) or 1
        self._generator.prefill_step_size = max(SMALLEST_CHUNK_TOKENS, self._prefill_chunk_tokens // prompts)
        _, responses = self._generator.next()
        self._prefilling.difference_update(response.uid for response in responses)
        return [
            RowToken(response.uid, response.token, response.logprobs, response.finish_reason) for response in responses
        ]

    def close(self) -> None:
        self._generator.close()


class _SamplingGenerator(BatchGenerator):  # type: ignore[misc]
    """A `BatchGenerator` whose rows are `RowSampling`s, sampled together.

    Upstream builds its two stages in the constructor with its own classes; they are still empty when replaced.
    """

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        self._prompt_batch = _PromptStage.empty(model, greedy_sampler, prefill_step_size=self.prefill_step_size)
        self._generation_batch = _DecodeStage.empty(model, greedy_sampler)


class _PromptStage(PromptProcessingBatch):  # type: ignore[misc]
    """Differs from upstream only in the class it hands finished prompts to."""

    uids: list[int]
    prompt_cache: list[Any]
    tokens: list[list[int]]
    samplers: list[RowSampling]
    logits_processors: list[Any]
    max_tokens: list[int]
    stop_sequences: list[StopSequences]

    def generate(self, tokens: list[list[int]]) -> "_DecodeStage":
        if any(len(row) > 1 for row in tokens):
            self.prompt([row[:-1] for row in tokens])
        decode = _DecodeStage(
            self.model,
            self.uids,
            mx.array([row[-1] for row in tokens]),
            self.prompt_cache,
            self.tokens,
            self.samplers,
            self.fallback_sampler,
            self.logits_processors,
            self.stop_sequences,
            self.max_tokens,
        )
        self.uids, self.prompt_cache, self.tokens = [], [], []
        self.samplers, self.logits_processors, self.max_tokens, self.stop_sequences = [], [], [], []
        return decode


class _DecodeStage(GenerationBatch):  # type: ignore[misc]
    """Samples all rows at once and computes log-probabilities only for rows that asked.

    `_next_logprobs` holds, for each row, None or the arrays of `sampling.score`; upstream only moves these
    entries about when rows join and leave.
    """

    tokens: list[list[int]]
    samplers: list[RowSampling]
    _next_tokens: mx.array
    _next_logprobs: list[tuple[mx.array, ...] | None]

    def _step(self) -> tuple[list[int], list[TokenScores | None]]:
        self._current_tokens, self._current_logprobs = self._next_tokens, self._next_logprobs
        inputs, scores = self._current_tokens, self._current_logprobs

        logits = self.model(inputs[:, None], cache=self.prompt_cache)[:, -1, :]
        rows = self.samplers
        for index, row in enumerate(rows):
            row.advance(inputs[index])
        self._next_tokens = sample(logits, rows)
        self._next_logprobs = [
            None if row.top_logprobs is None else score(logits[i], self._next_tokens[i], row.top_logprobs)
            for i, row in enumerate(rows)
        ]
        # The next tokens are computed while the caller delivers these.
        mx.async_eval(self._next_tokens, [arrays for arrays in self._next_logprobs if arrays])  # type: ignore[no-untyped-call]

        tokens: list[int] = inputs.tolist()  # type: ignore[assignment]
        for history, token in zip(self.tokens, tokens, strict=True):
            history.append(token)
        return tokens, [read_scores(arrays) if arrays else None for arrays in scores or [None] * len(rows)]
