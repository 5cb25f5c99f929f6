"""Extents that start at the same place of the same sequence, by their tokens. Belongs to the MLX thread."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from gateway.prefix_cache.cached_extent import CachedExtent
from gateway.prefix_cache.extent import BLOCK_BYTES, EXTENT_TOKENS, TOKEN_BYTES

NEAREST = 8
"""On either side of a prompt's place among the siblings: those are looked at, so that thousands may start at once."""


class Siblings:
    """In byte order the longest common prefix with any tokens is found next to the place where these would stand."""

    def __init__(self) -> None:
        self._sorted: list[CachedExtent] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def __iter__(self) -> Iterator[CachedExtent]:
        return iter(self._sorted)

    def add(self, one: CachedExtent) -> None:
        insort(self._sorted, one, key=_tokens)

    def remove(self, one: CachedExtent) -> None:
        """`one` must be among them."""
        del self._sorted[bisect_left(self._sorted, one.extent.tokens, key=_tokens)]

    def sharing(self, tokens: bytes, at: int) -> Iterator[tuple[CachedExtent, int]]:
        """Those that begin like `tokens` does from byte `at` on, each with the bytes (whole tokens) it shares.

        The best is among them, and all if they are few.
        """
        near = self._sorted
        if len(near) > 2 * NEAREST:
            place = bisect_left(near, tokens[at : at + EXTENT_TOKENS * TOKEN_BYTES], key=_tokens)
            near = near[max(0, place - NEAREST) : place + NEAREST]
        for one in near:
            if shared := shared_bytes(one.extent.tokens, tokens, at):
                yield one, shared

    def beginnings(self, tokens: bytes) -> Iterator[CachedExtent]:
        """Those whose tokens are the first of `tokens`, but fewer; longest first."""
        place = bisect_left(self._sorted, tokens, key=_tokens)
        while place:
            one = self._sorted[place - 1]
            shared = shared_bytes(one.extent.tokens, tokens, 0)
            if shared == len(one.extent.tokens):
                yield one
                place -= 1
            else:  # no beginning longer than what is shared stands before this one
                place = bisect_right(self._sorted, tokens[:shared], key=_tokens, hi=place - 1)


def shared_bytes(some: bytes, others: bytes, at: int) -> int:
    """How many bytes at the beginning of `some` are those of `others` from `at` on, in whole tokens."""
    end = min(len(some), len(others) - at)
    equal, stride = 0, BLOCK_BYTES
    while equal < end:
        stride = min(stride, end - equal)
        if some[equal : equal + stride] == others[at + equal : at + equal + stride]:
            equal += stride
            stride *= 4
        elif stride <= TOKEN_BYTES:
            break
        else:  # the difference is within the stride
            end = equal + stride - TOKEN_BYTES
            stride = max(TOKEN_BYTES, stride // 2 // TOKEN_BYTES * TOKEN_BYTES)
    return equal


def _tokens(one: CachedExtent) -> bytes:
    return one.extent.tokens
