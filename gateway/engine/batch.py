"""Everything one model computes at a time: the rows that decode, and the prompts on their way there.

Runs on the MLX thread. What is computed when is `generation_loop`'s business; this does it.
"""

import time
from collections.abc import Collection, Generator, Mapping, Sequence
from math import inf
from typing import Any

from gateway.engine.cache_factory import CacheFactory
from gateway.engine.decoding import DecodeGroup
from gateway.engine.lora import AdaptedModel
from gateway.engine.memory_ledger import ModelMemory
from gateway.engine.pace import Pace, Pass
from gateway.engine.prefill import Cohort, Prompt
from gateway.engine.prefix_keeper import PrefixKeeper
from gateway.engine.row import Row, RowOutcome
from gateway.engine.step_cost import chunk_tokens
from gateway.hardware.memory import read_memory
from gateway.prefix_cache.prefix_cache import PrefixCache

SLOWDOWN_BESIDE_PROMPTS = 1.2
"""Of a decode pass by drafts while prompts wait for their turn."""


CALIBRATION_TOKENS = 16


class Batch:
    """Prompts are added, become rows that decode, and leave when they end or are removed."""

    def __init__(
        self,
        model: Any,
        factory: CacheFactory | None = None,
        caches: Mapping[str, PrefixCache] | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Without a `factory` the model's caches are as mlx-lm makes them. `caches` are for the prefixes of each
        adapter, the model's own under `BASE`; more may be put there later, and where there is none, none is kept.
        `pace` is what was learned of the model before."""
        self.adapted = AdaptedModel(model)
        self.pace = pace or Pace()
        self.cohorts: list[Cohort] = []
        self._factory = factory or CacheFactory(model)
        self._keeper = PrefixKeeper({} if caches is None else caches)
        self.decoding = self._new_group()
        self._passes: list[Pass] = []
        self._last_passes: list[Pass] = []
        self._last_active_bytes = read_memory().active_bytes
        self._last_held_bytes = 0

    @property
    def most_rows(self) -> int | None:
        """How many rows this model's caches can hold together; None if that is no matter."""
        return None if self._factory.batchable else 1

    @property
    def prompts_together(self) -> bool:
        """Several prompts may be computed in one pass."""
        return self._factory.ragged

    def stops(self, tokens: Sequence[int], message_ends: Sequence[int]) -> list[int]:
        """Where a prompt's chunks must end."""
        return self._factory.stops(len(tokens), message_ends)

    def add(self, prompts: Sequence[Prompt], cohort: Cohort | None = None) -> Cohort:
        """Prompts that shall be computed together (several only where `prompts_together`), with a cohort or as one."""
        if cohort is None:
            cohort = Cohort(self._factory)
            self.cohorts.append(cohort)
        cohort.join(prompts)
        return cohort

    def decode(self) -> list[RowOutcome]:
        """One step of all rows that decode."""
        outcomes: list[RowOutcome] = []
        if self.decoding.rows:
            outcomes = self.decoding.step(SLOWDOWN_BESIDE_PROMPTS if self.cohorts else inf)
            if self.cohorts:  # a chunk comes next: what is known by then shall not wait for it
                outcomes += self.decoding.settle()
            if self.decoding.last_pass:
                self._passes.append(self.decoding.last_pass)
        return outcomes

    def prefill(self, cohort: Cohort, width: int) -> None:
        """Computes the next `width` tokens of a cohort's prompts."""
        chunk, seconds = self._compute(cohort, width)
        self.pace.chunk_done(chunk, seconds)
        self._passes.append(chunk)
        for index, prompt in enumerate(cohort.prompts):
            self._keeper.prompt_advanced(prompt, cohort.caches, index)
        # Room for the rows to come is made layer by layer meanwhile: all at once it is a stall (for 3,000 tokens
        # beside a short answer, 0.5 s and more).
        rows = len(self.decoding.rows) + sum(len(prompt.rows) for prompt in cohort.prompts)
        self.decoding.caches.grow(rows, cohort.longest, parts=1 + cohort.left // max(1, width))

    def join_ready(self, cohort: Cohort) -> None:
        """Prompts that are computed up to their last token become rows that decode."""
        ready = [prompt for prompt in cohort.prompts if not prompt.left]
        for prompt in ready:
            for row in prompt.rows:
                row.standing = prompt.standing
            self.decoding.join(cohort.caches, cohort.prompts.index(prompt), prompt.rows)
        self._drop(cohort, ready)

    def calibrate(self, tokens: int) -> Generator[float, float | None, None]:
        """`Slices`: computes chunks of some prompt, so that the first real ones are cut to a known cost.

        The very first passes are slow (kernels are compiled, memory is touched) and say nothing.
        """
        cohort = Cohort(self._factory)
        cohort.join([Prompt(0, [], [0] * (4 * max(tokens, CALIBRATION_TOKENS)))])
        for wanted in (CALIBRATION_TOKENS, CALIBRATION_TOKENS, CALIBRATION_TOKENS, tokens // 2, CALIBRATION_TOKENS):
            width = max(1, wanted)
            allowed_seconds = yield 1.0
            if cohort.context:
                width = chunk_tokens(
                    self.pace.cost, 1, cohort.context, width, allowed_seconds, fastest=width, smallest=1
                )
            chunk, seconds = self._compute(cohort, width)
            if chunk.before:
                self.pace.chunk_done(chunk, seconds)

    def observe_memory(self, memory: ModelMemory) -> None:
        """Lets the ledger learn what the latest passes took beyond what they hold. Call it once after each step.

        A pass may run during the step after the one that queued it, so what was seen is put down to the largest of
        both steps.
        """
        held = self.decoding.caches.nbytes + sum(cohort.caches.nbytes for cohort in self.cohorts)
        reading = read_memory()
        passes = self._last_passes + self._passes
        if passes:
            tokens, context = max(work.tokens for work in passes), max(work.context for work in passes)
            memory.observe_pass(
                tokens, context, reading.peak_bytes, self._last_active_bytes, max(0, held - self._last_held_bytes)
            )
        self._last_passes, self._passes = self._passes, []
        self._last_active_bytes, self._last_held_bytes = reading.active_bytes, held

    def remove(self, rows: Collection[Row]) -> None:
        """Frees rows at whatever stage they are; unknown ones are ignored."""
        self.decoding.remove(rows)
        for cohort in list(self.cohorts):
            for prompt in cohort.prompts:
                prompt.rows = [row for row in prompt.rows if row not in rows]
            gone = [prompt for prompt in cohort.prompts if not prompt.rows]
            for prompt in gone:
                self._keeper.prompt_leaves(prompt, cohort.caches, cohort.prompts.index(prompt))
            self._drop(cohort, gone)

    def drop(self, cohort: Cohort) -> None:
        """Forgets prompts that cannot be computed."""
        if cohort in self.cohorts:
            self.cohorts.remove(cohort)

    def drop_decoding(self) -> None:
        """Forgets the rows that decode; the prompts are not touched."""
        self.decoding = self._new_group()

    def _compute(self, cohort: Cohort, width: int) -> tuple[Pass, float]:
        """A chunk and the seconds it took."""
        started = time.perf_counter()
        return cohort.compute(self.adapted, width), time.perf_counter() - started

    def _new_group(self) -> DecodeGroup:
        return DecodeGroup(self.adapted, self._factory.for_decoding(), self.pace, self._keeper.row_leaves)

    def _drop(self, cohort: Cohort, prompts: Sequence[Prompt]) -> None:
        if len(prompts) == len(cohort.prompts):
            self.cohorts.remove(cohort)
        elif prompts:
            cohort.drop(prompts)
