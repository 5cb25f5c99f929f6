"""Prompts on their way into the batch, a chunk at a time. Runs on the MLX thread."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from gateway.engine.cache_factory import CacheFactory
from gateway.engine.lora import AdaptedModel
from gateway.engine.pace import Pass
from gateway.engine.row import Row
from gateway.engine.row_caches import RowCaches
from gateway.engine.sampling import score_tokens
from gateway.engine.token_stream import TokenScores
from gateway.generation.adapter import BASE
from gateway.prefix_cache.extent import UNKNOWN, Standing
from gateway.prefix_cache.row_state import NO_PREFIX, Prefix


@dataclass(eq=False, slots=True)
class Prompt:
    """One request's prompt, computed once for all its rows. The last token is left for their first decode step.

    Its first tokens may be there already, as `prefix`. `stops` (ascending) are places where a chunk must end, because
    what stands there shall be kept; `standing` tells how far that was done. With `top_logprobs`, `scores` are of its
    tokens but the first, as far as it is computed; it has no prefix then.
    """

    ticket: int
    rows: list[Row]
    tokens: list[int]
    prefix: Prefix = NO_PREFIX
    standing: Standing = UNKNOWN
    stops: Sequence[int] = ()
    computed: int = 0
    adapter: str = BASE
    top_logprobs: int | None = None
    scores: list[TokenScores] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.tokens) - 1 - self.computed

    @property
    def at_stop(self) -> bool:
        return self.computed in self.stops

    @property
    def until_stop(self) -> int:
        """Tokens to the next place where a chunk must end, or to the end."""
        following = bisect_right(self.stops, self.computed)
        return min(self.left, self.stops[following] - self.computed) if following < len(self.stops) else self.left


class Cohort:
    """Prompts that advance together; the shorter ones leave first, and others may join later.

    Its caches keep room for `size` prompts of `longest` tokens until the last has left.
    """

    def __init__(self, factory: CacheFactory) -> None:
        self.passed_over = 0  # chunks that others computed since its own last one
        self.prompts: list[Prompt] = []
        self.size = 0
        self.longest = 0
        self.caches: RowCaches = factory.for_prompts()

    def join(self, prompts: Sequence[Prompt]) -> None:
        """Adds prompts of which nothing is computed yet but their prefixes."""
        self.prompts += prompts
        self.size = max(self.size, len(self.prompts))
        self.longest = max(self.longest, *(len(prompt.tokens) for prompt in prompts))
        for prompt in prompts:
            self.caches.add_row(prompt.prefix, len(prompt.tokens) - prompt.prefix.tokens)
            if prompt.prefix.tokens:
                mx.eval(self.caches.arrays)
            prompt.computed, prompt.prefix = prompt.prefix.tokens, NO_PREFIX

    @property
    def context(self) -> int:
        """Tokens computed of each prompt."""
        return self.caches.longest

    @property
    def scoring(self) -> bool:
        """The logits of a whole chunk are needed."""
        return any(prompt.top_logprobs is not None for prompt in self.prompts)

    @property
    def left(self) -> int:
        """Tokens to compute of the longest prompt."""
        return max(prompt.left for prompt in self.prompts)

    def compute(self, model: AdaptedModel, width: int) -> Pass:
        """Computes the next `width` tokens of every prompt (fewer where fewer are left), and says what that was."""
        counts = [min(width, prompt.until_stop) for prompt in self.prompts]
        width = max(counts)
        inputs = [
            prompt.tokens[prompt.computed : prompt.computed + count] + [0] * (width - count)
            for prompt, count in zip(self.prompts, counts, strict=True)
        ]
        work = Pass(len(self.prompts), width, self.context)
        logits = model(mx.array(inputs), self.caches.layers, [prompt.adapter for prompt in self.prompts])
        self.caches.commit(counts)
        for index, (prompt, count) in enumerate(zip(self.prompts, counts, strict=True)):
            if prompt.top_logprobs is not None:
                following = prompt.tokens[prompt.computed + 1 : prompt.computed + 1 + count]
                prompt.scores += score_tokens(logits[index], following, prompt.top_logprobs)
            prompt.computed += count
        mx.eval(self.caches.arrays)
        return work

    def drop(self, prompts: Sequence[Prompt]) -> None:
        order = self.caches.remove([index for index, prompt in enumerate(self.prompts) if prompt in prompts])
        self.prompts = [self.prompts[index] for index in order]
