"""How much of a prompt can be restored, against trying every length token by token."""

from collections.abc import Collection, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.prefix_cache.cached_extent import Tier
from gateway.prefix_cache.extent import BLOCK_TOKENS, BlobKey, Extent, Part
from gateway.prefix_cache.restore import Needs, Read, Restore, restorable
from gateway.prefix_cache.token_tree import Path, TokenTree, token_bytes
from tests.prefix_cache.sequences import ANY_SEQUENCE, NAMESPACE, extent

FULL, WINDOW, STATE = Part
RAM, SSD = Tier
FULL_ONLY = Needs()

Blobs = dict[tuple[BlobKey, Tier], tuple[Extent, int]]


def restore(
    tree: TokenTree, prompt: Sequence[int], needs: Needs = FULL_ONLY, tiers: Collection[Tier] = frozenset(Tier)
) -> Restore:
    return restorable(tree.longest_prefix(token_bytes(prompt)), needs, tree, tiers)


# --- token by token


def has(blobs: Blobs, path: Path, part: Part, token: int, tier: Tier) -> bool:
    """Whether a blob of the tier has the keys and values of this token."""
    return any(
        held and held[1] + match.start <= token < match.end
        for match in path.matches
        if (held := blobs.get((BlobKey(match.key, part), tier)))
    )


def is_enough(blobs: Blobs, path: Path, needs: Needs, tiers: Collection[Tier], tokens: int) -> bool:
    def any_has(part: Part, token: int) -> bool:
        return any(has(blobs, path, part, token, tier) for tier in tiers)

    if not tokens:
        return True
    if needs.state and not any(
        match.whole and match.end == tokens and (BlobKey(match.key, STATE), tier) in blobs
        for match in path.matches
        for tier in tiers
    ):
        return False
    in_window = set(range(tokens)[-needs.window :]) | set(range(tokens)[: needs.sinks]) if needs.window else set()
    return all(any_has(WINDOW, token) for token in in_window) and (
        not needs.full or all(any_has(FULL, token) for token in range(tokens))
    )


ANY_NEEDS = st.builds(
    Needs,
    full=st.booleans(),
    window=st.none() | st.integers(1, 100),
    sinks=st.integers(0, 40),
    state=st.booleans(),
)


@settings(max_examples=250)
@given(st.data(), ANY_NEEDS, st.sampled_from([{RAM}, {SSD}, {RAM, SSD}]))
def test_it_is_the_most_that_every_token_can_be_had_for(
    data: st.DataObject, needs: Needs, tiers: Collection[Tier]
) -> None:
    tree = TokenTree(NAMESPACE)
    sequences = data.draw(st.lists(ANY_SEQUENCE, min_size=1, max_size=3))
    held: Blobs = {}
    lost: Blobs = {}
    for _ in range(data.draw(st.integers(1, 8))):
        sequence = data.draw(st.sampled_from(sequences))
        start = data.draw(st.integers(0, (len(sequence) - 1) // BLOCK_TOKENS)) * BLOCK_TOKENS
        one = extent(sequence, start, data.draw(st.sampled_from([len(sequence), start + 1, start + 32, start + 50])))
        blobs = data.draw(st.sets(st.tuples(st.sampled_from(Part), st.sampled_from(Tier))))
        for part, tier in {(FULL, SSD), *blobs}:  # the first is never dropped, so that the extent stays known
            key = BlobKey(one.key, part)
            first = data.draw(st.integers(0, one.end - one.start)) if part is WINDOW else 0
            tree.hold(one, part, tier, 1, first)
            held[key, tier] = one, first
            for everywhere in Tier:
                lost.pop((key, everywhere), None)
            if (part, tier) != (FULL, SSD) and data.draw(st.integers(0, 3)) == 0:
                tree.drop(key, tier)
                dropped = held.pop((key, tier))
                if not any((key, other) in held for other in Tier):
                    lost[key, tier] = dropped
    prompt = data.draw(st.sampled_from(sequences) | ANY_SEQUENCE)
    path = tree.longest_prefix(token_bytes(prompt))

    found = restorable(path, needs, tree, tiers)

    assert found.tokens == max(n for n in range(path.tokens + 1) if is_enough(held, path, needs, tiers, n))
    check_reads(found, held, path, needs, tiers)
    if set(tiers) == set(Tier):
        best = max(n for n in range(path.tokens + 1) if is_enough(held | lost, path, needs, tiers, n))
        assert found.evicted is (best > found.tokens)


def check_reads(found: Restore, held: Blobs, path: Path, needs: Needs, tiers: Collection[Tier]) -> None:
    given_tokens: dict[Part, list[int]] = {part: [] for part in Part}
    for read in found.reads:
        one, first = held[read.key, read.tier]
        assert read.tier in tiers
        if read.key.part is STATE:
            assert read.start == read.end == one.end == found.tokens
            better = {tier for tier in tiers if (read.key, tier) in held}
            assert read.tier is RAM or RAM not in better
            continue
        assert one.start + first + read.skip == read.start
        assert read.start < read.end <= one.end
        assert read.tier is RAM or RAM not in tiers or not has(held, path, read.key.part, read.start, RAM)
        given_tokens[read.key.part].extend(range(read.start, read.end))
    all_tokens = range(found.tokens)
    assert given_tokens[FULL] == (list(all_tokens) if needs.full else [])
    window = {*all_tokens[-needs.window :], *all_tokens[: needs.sinks]} if needs.window and found.tokens else set()
    assert given_tokens[WINDOW] == sorted(window)
    assert sum(read.key.part is STATE for read in found.reads) == (needs.state and found.tokens > 0)


# --- by example

SEQUENCE = list(range(1000, 1400))


def held_in(tree: TokenTree, one: Extent, *parts: Part, tier: Tier = RAM, first: int = 0) -> Extent:
    for part in parts:
        tree.hold(one, part, tier, 1, first if part is WINDOW else 0)
    return one


def test_memory_alone_or_with_the_disk() -> None:
    tree = TokenTree(NAMESPACE)
    root = held_in(tree, extent(SEQUENCE, 0, 128), FULL)
    held_in(tree, root, FULL, tier=SSD)
    tail = held_in(tree, extent(SEQUENCE, 128, 200), FULL, tier=SSD)
    assert restore(tree, SEQUENCE, tiers={RAM}) == Restore(128, (Read(BlobKey(root.key, FULL), RAM, 0, 128, 0),), False)
    assert restore(tree, SEQUENCE).reads == (
        Read(BlobKey(root.key, FULL), RAM, 0, 128, 0),
        Read(BlobKey(tail.key, FULL), SSD, 128, 200, 0),
    )


def test_a_state_cannot_be_cut_back() -> None:
    tree = TokenTree(NAMESPACE)
    needs = Needs(state=True)
    root = held_in(tree, extent(SEQUENCE, 0, 100), FULL, STATE)
    held_in(tree, extent(SEQUENCE, 96, 200), FULL, STATE)
    assert restore(tree, SEQUENCE, needs).tokens == 200
    assert restore(tree, SEQUENCE[:199], needs).tokens == 100
    assert restore(tree, SEQUENCE[:99], needs).tokens == 0
    edited = restore(tree, [*SEQUENCE[:150], 1, *SEQUENCE[151:]], needs)
    assert edited.tokens == 100
    assert not edited.evicted
    tree.drop(BlobKey(root.key, STATE), RAM)
    assert restore(tree, [*SEQUENCE[:150], 1, *SEQUENCE[151:]], needs) == Restore(0, (), evicted=True)


def test_the_state_of_a_superseded_extent_is_of_use() -> None:
    """An answer's thoughts are not sent back: the prompt goes on from where it ended before, within an extent."""
    tree = TokenTree(NAMESPACE)
    prompt_end = held_in(tree, extent(SEQUENCE, 0, 100), FULL, STATE)
    answered = held_in(tree, extent(SEQUENCE, 0, 230), FULL, STATE)
    assert tree.superseded(answered, RAM) == [BlobKey(prompt_end.key, FULL)]
    tree.drop(BlobKey(prompt_end.key, FULL), RAM)
    assert restore(tree, [*SEQUENCE[:100], 1, 2, 3], Needs(state=True)).reads == (
        Read(BlobKey(answered.key, FULL), RAM, 0, 100, 0),
        Read(BlobKey(prompt_end.key, STATE), RAM, 100, 100, 0),
    )


def test_a_window_may_lie_in_several_extents() -> None:
    tree = TokenTree(NAMESPACE)
    needs = Needs(window=100)
    held_in(tree, extent(SEQUENCE, 0, 128), FULL, WINDOW, first=60)
    held_in(tree, extent(SEQUENCE, 128, 160), FULL, WINDOW)
    assert restore(tree, SEQUENCE, needs).tokens == 160
    assert [read[2:] for read in restore(tree, SEQUENCE, needs).reads if read.key.part is WINDOW] == [
        (60, 128, 0),
        (128, 160, 0),
    ]
    assert restore(tree, SEQUENCE[:159], needs).tokens == 0  # token 59 would be needed
    assert restore(tree, SEQUENCE, Needs(window=101)).tokens == 0
    assert restore(tree, SEQUENCE, Needs(window=100, sinks=4)).tokens == 0


def test_windows_with_sinks() -> None:
    tree = TokenTree(NAMESPACE)
    root = held_in(tree, extent(SEQUENCE, 0, 128), FULL, WINDOW)
    held_in(tree, extent(SEQUENCE, 128, 256), FULL)
    tail = held_in(tree, extent(SEQUENCE, 256, 400), FULL, WINDOW, first=20)
    found = restore(tree, SEQUENCE, Needs(window=124, sinks=4))
    assert [read for read in found.reads if read.key.part is WINDOW] == [
        Read(BlobKey(root.key, WINDOW), RAM, 0, 4, 0),
        Read(BlobKey(tail.key, WINDOW), RAM, 276, 400, 0),
    ]


@pytest.mark.parametrize("needs", [Needs(), Needs(window=10), Needs(state=True), Needs(full=False, state=True)])
def test_of_nothing_nothing(needs: Needs) -> None:
    assert restore(TokenTree(NAMESPACE), SEQUENCE, needs) == Restore(0, (), False)
