"""Extents of made-up sequences, cut anywhere."""

from collections.abc import Iterator, Sequence
from itertools import chain

from hypothesis import strategies as st

from gateway.prefix_cache.extent import BLOCK_TOKENS, EXTENT_TOKENS, Extent, chain_digests
from gateway.prefix_cache.extent import chain as chain_digest
from gateway.prefix_cache.token_tree import token_bytes

NAMESPACE = b"a model's digest"

CHUNKS = tuple([token] * length for token in (7, 8, 70_000) for length in (1, 5, BLOCK_TOKENS, 40))

ANY_SEQUENCE = st.lists(st.sampled_from(CHUNKS), min_size=1, max_size=6).map(lambda chunks: list(chain(*chunks)))
"""Few kinds of chunks, so that many begin alike and part within a block or at its end."""


def extent(sequence: Sequence[int], start: int, end: int) -> Extent:
    """Tokens `start` to `end`; its key, like its parent, is an identity of the place that it stands for."""
    parent = [NAMESPACE, *chain_digests(NAMESPACE, token_bytes(sequence[:start]))][-1]
    tokens = token_bytes(sequence[start:end])
    return Extent(NAMESPACE, parent, start, tokens, chain_digest(parent, tokens))


def extents(sequence: Sequence[int], start: int = 0) -> Iterator[Extent]:
    """Cuts a sequence from a block boundary on, as it is when it was computed from there."""
    parent = [NAMESPACE, *chain_digests(NAMESPACE, token_bytes(sequence[:start]))][-1]
    for first in range(start, len(sequence), EXTENT_TOKENS):
        tokens = token_bytes(sequence[first : first + EXTENT_TOKENS])
        yield Extent(NAMESPACE, parent, first, tokens, chain_digest(parent, tokens))
        parent = [parent, *chain_digests(parent, tokens)][-1]
