"""The index of cached prefixes, against a list of plain sequences, and its speed."""

import random
import time
from collections.abc import Sequence
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.prefix_cache.cached_extent import MOST_SESSIONS, Held, Tier
from gateway.prefix_cache.extent import BLOCK_TOKENS, EXTENT_TOKENS, BlobKey, Extent, Part
from gateway.prefix_cache.siblings import shared_bytes
from gateway.prefix_cache.token_tree import Match, Path, TokenTree, token_bytes
from tests.prefix_cache.sequences import ANY_SEQUENCE, NAMESPACE, extent, extents


def tree_of(*held: Extent, tier: Tier = Tier.RAM) -> TokenTree:
    tree = TokenTree(NAMESPACE)
    for one in held:
        tree.hold(one, Part.FULL, tier, 100)
    return tree


def look_up(tree: TokenTree, prompt: Sequence[int]) -> Path:
    return tree.longest_prefix(token_bytes(prompt))


def full(one: Extent) -> BlobKey:
    return BlobKey(one.key, Part.FULL)


# --- against plain lists


def common_tokens(some: Sequence[int], others: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(some, others, strict=False)) if a != b), min(len(some), len(others)))


class PlainIndex:
    """What the tree promises, said as simply as possible."""

    def __init__(self) -> None:
        self.sequences: dict[bytes, tuple[list[int], int]] = {}  # up to the extent's end, and its start
        self.held: dict[tuple[BlobKey, Tier], Held] = {}

    def hold(self, sequence: list[int], one: Extent, part: Part, tier: Tier, held: Held) -> None:
        self.sequences[one.key] = sequence[: one.end], one.start
        self.held[BlobKey(one.key, part), tier] = held

    def drop(self, key: BlobKey, tier: Tier) -> None:
        self.held.pop((key, tier), None)
        self.sequences = {k: v for k, v in self.sequences.items() if any(blob.extent == k for blob, _ in self.held)}

    def path(self, prompt: list[int]) -> tuple[int, set[Match]]:
        on_chain = [(k, s, start) for k, (s, start) in self.sequences.items() if s[:start] == prompt[:start]]
        reach = -1
        further = 0
        while further > reach:
            reach = further
            known = [(k, s, start, common_tokens(s, prompt)) for k, s, start in on_chain if start <= reach]
            further = max([reach, *(shared for *_, shared in known)])
        last = reach - reach % BLOCK_TOKENS
        return reach, {
            Match(key, start, shared, shared == len(sequence))
            for key, sequence, start, shared in known
            if shared > start and (shared == len(sequence) or shared - start >= BLOCK_TOKENS or start == last)
        }


@settings(max_examples=150)
@given(st.data())
def test_it_knows_what_a_list_of_sequences_knows(data: st.DataObject) -> None:
    tree, plain = TokenTree(NAMESPACE), PlainIndex()
    sequences = data.draw(st.lists(ANY_SEQUENCE, min_size=2, max_size=5))
    known: list[Extent] = []
    for _ in range(data.draw(st.integers(5, 14))):
        if known and data.draw(st.integers(0, 3)) == 0:
            key = BlobKey(data.draw(st.sampled_from(known)).key, data.draw(st.sampled_from(Part)))
            tier = data.draw(st.sampled_from(Tier))
            tree.drop(key, tier)
            plain.drop(key, tier)
        else:
            sequence = data.draw(st.sampled_from(sequences))
            start = data.draw(st.integers(0, (len(sequence) - 1) // BLOCK_TOKENS)) * BLOCK_TOKENS
            one = extent(sequence, start, data.draw(st.integers(start + 1, len(sequence))))
            part, tier = data.draw(st.sampled_from(Part)), data.draw(st.sampled_from(Tier))
            held = Held(data.draw(st.integers(0, 9)), data.draw(st.integers(0, one.end - start)))
            tree.hold(one, part, tier, *held)
            plain.hold(sequence, one, part, tier, held)
            known.append(one)
        assert {one.key for one in tree} == set(plain.sequences)
        assert len(tree) == len(plain.sequences)
        for tier in Tier:
            assert tree.nbytes(tier) == sum(held.nbytes for (_, where), held in plain.held.items() if where is tier)
        for (blob, tier), held in plain.held.items():
            assert tree.held(blob, tier) == held
        for prompt in (*sequences, data.draw(ANY_SEQUENCE)):
            tokens, matches = plain.path(prompt)
            path = look_up(tree, prompt)
            assert path.tokens == tokens
            assert set(path.matches) == matches
            assert [match.start for match in path.matches] == sorted(match.start for match in path.matches)
    for one in known:
        for part in Part:
            for tier in Tier:
                tree.drop(BlobKey(one.key, part), tier)
    assert_empty(tree)


def assert_empty(tree: TokenTree) -> None:
    assert not len(tree)
    assert not tree._starting
    assert not tree._blocks
    assert not any(tree.nbytes(tier) for tier in Tier)


@given(ANY_SEQUENCE, ANY_SEQUENCE, st.integers(0, 40))
def test_shared_bytes(some: list[int], others: list[int], at: int) -> None:
    at = min(at, len(others))
    shared = shared_bytes(token_bytes(some), token_bytes(others), at * 4)
    assert shared == 4 * common_tokens(some, others[at:])


# --- looking up


def test_a_prompt_is_followed_token_by_token_into_a_block() -> None:
    sequence = list(range(100))
    tree = tree_of(extent(sequence, 0, 70))
    assert look_up(tree, sequence).tokens == 70
    assert look_up(tree, sequence[:50]).tokens == 50
    assert look_up(tree, [*sequence[:40], 999, *sequence[41:]]).tokens == 40
    assert look_up(tree, [999]).tokens == 0
    assert look_up(tree, []).tokens == 0


def test_an_extent_is_found_only_behind_those_before_it() -> None:
    sequence = list(range(96))
    first, second = extent(sequence, 0, 64), extent(sequence, 64, 96)
    tree = tree_of(second)
    assert look_up(tree, sequence).tokens == 0
    tree.hold(first, Part.FULL, Tier.SSD, 1)
    assert look_up(tree, sequence).tokens == 96


def test_blocks_of_two_extents_stay_known_when_one_goes() -> None:
    sequence = list(range(200))
    wide, early, late = extent(sequence, 0, 160), extent(sequence, 0, 96), extent(sequence, 96, 200)
    for going, left in ((wide, 200), (early, 200), (late, 160)):
        tree = tree_of(wide, early, late)
        tree.drop(full(going), Tier.RAM)
        assert look_up(tree, sequence).tokens == left
        assert look_up(tree, sequence).evicted is (going is late)


def test_among_thousands_that_start_alike_the_longest_is_found() -> None:
    draw = random.Random(1)
    sequences = [[1, 2, *(draw.randrange(3) for _ in range(60))] for _ in range(3000)]
    tree = tree_of(*(extent(sequence, 0, 62) for sequence in sequences))
    for _ in range(100):
        prompt = [1, 2, *(draw.randrange(3) for _ in range(30))]
        path = look_up(tree, prompt)
        assert path.tokens == max(common_tokens(sequence, prompt) for sequence in sequences)
        assert len(path.matches) <= 16


def test_keys_leave_out_what_a_prompt_shares_only_the_template_with() -> None:
    system = list(range(64))
    own, others = [*system, 5, 6, 7], [*system, 5, 9, *range(60)]
    root, tail, other = extent(system, 0, 64), extent(own, 64, 67), extent(others, 64, 120)
    tree = tree_of(root, tail, other)
    assert set(look_up(tree, [*own, 8]).keys) == {root.key, tail.key}
    assert len(look_up(tree, [*own, 8]).matches) == 3


def test_what_was_evicted_is_remembered_until_it_is_back() -> None:
    sequence = list(range(300))
    root, tail = extents(sequence)
    tree = tree_of(root, tail)
    tree.drop(full(tail), Tier.RAM)
    assert look_up(tree, sequence).evicted
    assert not look_up(tree, [*sequence[:256], *[999] * 40]).evicted
    tree.drop(full(root), Tier.RAM)
    assert look_up(tree, sequence).evicted
    assert look_up(tree, [*sequence[:200], *[999] * 40]).evicted
    tree.hold(root, Part.FULL, Tier.RAM, 1)
    tree.hold(tail, Part.FULL, Tier.RAM, 1)
    assert not look_up(tree, sequence).evicted


def test_a_shorter_extent_leaves_the_place_where_it_ended_to_eviction() -> None:
    """Another conversation brings back the shared part only: what follows is still known to have been evicted."""
    sequence = list(range(200))
    tree = tree_of(extent(sequence, 0, 200))
    tree.drop(full(extent(sequence, 0, 200)), Tier.RAM)
    tree.hold(extent(sequence, 0, 96), Part.FULL, Tier.RAM, 1)
    path = look_up(tree, sequence)
    assert path.tokens == 96
    assert path.evicted


# --- explaining a miss


def test_the_continuation_is_rather_the_sessions_own() -> None:
    system = list(range(50))
    mine, others = [*system, 1, 2, 3, *range(100, 200)], [*system, 1, 2, 4, *range(300, 400)]
    one, two = extent(mine, 32, 150), extent(others, 32, 150)
    tree = tree_of(extent(system, 0, 32), one, two)
    tree.touch([one.key], "me", 1)
    tree.touch([two.key], "them", 2)
    path = look_up(tree, [*system, 1, 2, 5])
    assert path.tokens == 52
    for session, tokens in (("me", mine), ("them", others)):
        found = tree.continuation(path, session)
        assert found is not None
        assert found.own
        assert list(found.tokens) == tokens[52 : 52 + 64]
    anybody = tree.continuation(path, "new")
    assert anybody is not None
    assert not anybody.own
    assert list(anybody.tokens) == others[52 : 52 + 64]  # the latest


def test_the_continuation_at_the_end_of_a_block() -> None:
    sequence = list(range(100))
    tree = tree_of(extent(sequence, 0, 64), extent(sequence, 64, 100))
    found = tree.continuation(look_up(tree, [*sequence[:64], 999]), "")
    assert found is not None
    assert list(found.tokens) == sequence[64:]
    assert tree.continuation(look_up(tree, [*sequence, 999]), "") is None


# --- what is held


def test_an_extent_superseded_by_a_longer_one_keeps_its_state() -> None:
    sequence = list(range(120))
    short, shorter, long, fork = (
        extent(sequence, 32, 90),
        extent(sequence, 32, 70),
        extent(sequence, 32, 120),
        extent([*sequence[:60], 999], 32, 61),
    )
    tree = tree_of(extent(sequence, 0, 32))
    for one in (short, shorter, fork, long):
        tree.hold(one, Part.FULL, Tier.RAM, 1)
        tree.hold(one, Part.STATE, Tier.RAM, 1)
    tree.hold(short, Part.WINDOW, Tier.RAM, 1, first=20)
    tree.hold(shorter, Part.WINDOW, Tier.RAM, 1, first=40)
    tree.hold(long, Part.WINDOW, Tier.RAM, 1, first=30)
    useless = [full(short), full(shorter), BlobKey(shorter.key, Part.WINDOW)]
    assert sorted(tree.superseded(long, Tier.RAM)) == sorted(useless)
    assert tree.superseded(long, Tier.SSD) == []
    for key in useless:
        tree.drop(key, Tier.RAM)
    assert Match(short.key, 32, 90, whole=True) in look_up(tree, sequence).matches  # for its state


def test_two_extents_are_never_taken_for_each_other() -> None:
    sequence = list(range(64))
    one = extent(sequence, 0, 64)
    other = extent(sequence, 32, 64)
    tree = tree_of(one)
    with pytest.raises(ValueError, match="tokens 0 to 64 and 32 to 64"):
        tree.hold(Extent(NAMESPACE, other.parent, 32, other.tokens, one.key), Part.FULL, Tier.RAM, 1)
    assert tree.nbytes(Tier.RAM) == 100


def test_use_is_noted() -> None:
    sequence = list(range(300))
    root, tail = extents(sequence)
    tree = tree_of(root, tail)
    for number in range(MOST_SESSIONS + 3):
        tree.touch([root.key, b"unknown"], f"session {number}", number)
    tree.touch([root.key, tail.key], "late", 5)
    cached = tree.get(root.key)
    assert cached is not None
    assert len(cached.sessions) == MOST_SESSIONS
    assert cached.used == MOST_SESSIONS + 2  # time does not go back
    assert tree.bytes_by_session(Tier.RAM) == {"late": 200}
    assert not tree.bytes_by_session(Tier.SSD)["late"]


# --- speed


def test_a_long_prompt_is_found_quickly_among_thousands_of_extents() -> None:
    """100,000 tokens, all of them known, and 3,000 extents of others: to be found in 5 ms, tokens to bytes included."""
    draw = random.Random(2)
    prompt = [draw.randrange(150_000) for _ in range(100_000)]
    tree = tree_of(*extents(prompt))
    others = 0
    while len(tree) < 3000 + 100_000 / EXTENT_TOKENS:
        shared = draw.randrange(0, 90_000, BLOCK_TOKENS) if others % 2 else 0
        sequence = [*prompt[:shared], *(draw.randrange(150_000) for _ in range(5000))]
        for one in extents(sequence, shared):
            tree.hold(one, Part.FULL, Tier.RAM, 100)
        others += 1
    seconds = []
    for _ in range(9):
        began = time.perf_counter()
        path = tree.longest_prefix(token_bytes(prompt))
        seconds.append(time.perf_counter() - began)
        assert path.tokens == len(prompt)
    assert median(seconds) < 0.025  # 2.4 ms where hashing all of the prompt's blocks takes 3.2
