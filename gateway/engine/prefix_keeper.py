"""Takes what was computed for prompts and answers out of the engine's caches and gives it to the prefix cache.

Belongs to the MLX thread. Nothing here may cost a request its answer: a failure is logged and switches the keeping off.
"""

import logging
from collections.abc import Callable, Collection, Mapping

from gateway.engine.prefill import Prompt
from gateway.engine.row import Row
from gateway.engine.row_caches import RowCaches
from gateway.prefix_cache.extent import EXTENT_TOKENS, Part, Standing
from gateway.prefix_cache.prefix_cache import PrefixCache

log = logging.getLogger(__name__)

ALL = frozenset(Part)
BETWEEN_STOPS = frozenset({Part.FULL, Part.WINDOW})
"""A state is kept only where it may be needed: each may take a hundred megabytes."""


class PrefixKeeper:
    def __init__(self, caches: Mapping[str, PrefixCache]) -> None:
        """`caches` by adapter; nothing is kept where there is none."""
        self._caches = caches

    def prompt_advanced(self, prompt: Prompt, caches: RowCaches, index: int) -> None:
        """A chunk of a prompt was computed; it is row `index` of `caches`."""
        if prompt.left == 0 or prompt.at_stop:
            self._keep_prompt(prompt, caches, index, ALL)
        elif prompt.computed - prompt.standing.cursor.tokens >= EXTENT_TOKENS:
            self._keep_prompt(prompt, caches, index, BETWEEN_STOPS)

    def prompt_leaves(self, prompt: Prompt, caches: RowCaches, index: int) -> None:
        """Keeps all of a prompt that is computed by now, though nobody waits for its answer any more."""
        self._keep_prompt(prompt, caches, index, ALL)

    def row_leaves(self, row: Row, caches: RowCaches, index: int) -> None:
        """Keeps what an answer added to its prompt; `index` is its place in `caches`."""

        def keep(cache: PrefixCache) -> None:
            row.standing = _keep(cache, row.standing, row.tokens, caches, index, ALL)
            cache.ended(row.standing, row.tokens)

        if not row.broken:
            self._try(keep, row.adapter)

    def _keep_prompt(self, prompt: Prompt, caches: RowCaches, index: int, parts: Collection[Part]) -> None:
        def keep(cache: PrefixCache) -> None:
            prompt.standing = _keep(cache, prompt.standing, prompt.tokens, caches, index, parts)

        self._try(keep, prompt.adapter)

    def _try(self, keep: Callable[[PrefixCache], None], adapter: str) -> None:
        if (cache := self._caches.get(adapter)) is None:
            return
        try:
            keep(cache)
        except Exception:
            log.exception("what was computed cannot be kept; from now on this model keeps nothing more")
            self._caches = {}


def _keep(
    cache: PrefixCache, standing: Standing, tokens: list[int], caches: RowCaches, index: int, parts: Collection[Part]
) -> Standing:
    start, end = standing.cursor.tokens, caches.lengths[index]
    if end <= start:
        return standing
    pieces = {part: piece for part, piece in caches.export(index, start).items() if part in parts}
    return cache.keep(standing, tokens[start:end], pieces)
