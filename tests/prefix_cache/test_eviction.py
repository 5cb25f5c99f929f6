"""What leaves a full tier: single decisions, which checkpoints stay, and thousands of requests of many sessions."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.prefix_cache.cached_extent import Tier
from gateway.prefix_cache.eviction import Candidate, Claim, candidates, victims
from gateway.prefix_cache.extent import BLOCK_TOKENS, BlobKey, Extent, Part
from gateway.prefix_cache.restore import Needs, restorable
from gateway.prefix_cache.sessions import LIVE_SECONDS, NOBODY, Live, SessionTracker
from gateway.prefix_cache.thinning import Link, spare_checkpoints
from gateway.prefix_cache.token_tree import TokenTree, token_bytes
from tests.prefix_cache.sequences import ANY_SEQUENCE, NAMESPACE, extent, extents

FULL, WINDOW, STATE = Part
RAM, SSD = Tier
HYBRID = Needs(state=True)


def blob(name: str, part: Part = FULL) -> BlobKey:
    return BlobKey(name.encode(), part)


def candidate(
    name: str, idle: float = 0, start: int = 0, claim: Claim = Claim.ORDINARY, part: Part = FULL, nbytes: int = 10
) -> Candidate:
    return Candidate(blob(name, part), nbytes, start, claim, idle)


def names(keys: Sequence[BlobKey]) -> str:
    return " ".join(key.extent.decode() for key in keys)


# --- victims


def test_the_order_in_which_blobs_leave() -> None:
    crowd = [
        candidate("recent", idle=1),
        candidate("old", idle=9),
        candidate("old-leaf", idle=9, start=256),
        candidate("expected", idle=99, claim=Claim.EXPECTED),
        candidate("spare", idle=0, claim=Claim.SPARE, part=STATE),
        candidate("old-leaf", idle=9, start=256, part=STATE),
    ]
    assert names(victims(crowd, 1000)) == "spare old-leaf old-leaf old recent expected"
    assert victims(crowd, 25)[1].part is STATE


def test_no_more_leave_than_needed_and_a_little() -> None:
    crowd = [candidate(f"{number:02}", idle=-number) for number in range(20)]
    assert victims(crowd, 0, slack_bytes=50) == []
    assert len(victims(crowd, 1)) == 1
    assert len(victims(crowd, 31, slack_bytes=20)) == 6
    assert len(victims(crowd, 10_000)) == 20


def test_nothing_that_is_expected_leaves_just_to_have_some_room() -> None:
    crowd = [candidate("a"), candidate("b", claim=Claim.EXPECTED), candidate("c", claim=Claim.EXPECTED)]
    assert names(victims(crowd, 10, slack_bytes=100)) == "a"
    assert names(victims(crowd, 11, slack_bytes=100)) == "a b"


def test_what_is_expected_leaves_a_share_to_newcomers() -> None:
    crowd = [candidate(f"{idle}", idle, claim=Claim.EXPECTED) for idle in range(10, 18)]
    assert names(victims([*crowd, candidate("new"), candidate("newer")], 30)) == "17 new newer"
    assert names(victims([*crowd, *(candidate(f"{idle}", idle) for idle in (8, 18))], 30)) == "18 17 8"


def test_the_pinned_stay() -> None:
    crowd = [candidate("a", 3), candidate("b", 2), candidate("c", 1)]
    assert names(victims(crowd, 15, pinned={blob("a")})) == "b c"
    assert names(victims(crowd, 1000, pinned={blob("b")})) == "a c"


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from(Claim)), max_size=20), st.integers(0, 400), st.data())
def test_enough_is_freed_if_there_is_enough(sizes: list[tuple[int, Claim]], needed: int, data: st.DataObject) -> None:
    crowd = [candidate(str(place), place % 3, place % 5, claim, nbytes=n) for place, (n, claim) in enumerate(sizes)]
    pinned = {one.key for one in crowd if data.draw(st.booleans())}
    by_key = {one.key: one for one in crowd}
    going = victims(crowd, needed, data.draw(st.integers(0, 50)), pinned)
    assert not pinned & set(going)
    assert len(set(going)) == len(going)
    freed = sum(by_key[key].nbytes for key in going)
    assert freed >= min(needed, sum(one.nbytes for one in crowd if one.key not in pinned))


# --- candidates


def tree_of_two_branches() -> tuple[TokenTree, dict[str, bytes]]:
    """A root that two tails build on, one of them in two parts."""
    tree = TokenTree(NAMESPACE)
    system = list(range(256))
    ours, theirs = [*system, *range(1000, 1400)], [*system, *range(2000, 2100)]
    cut = {
        "root": extent(system, 0, 256),
        "middle": extent(ours, 256, 512),
        "end": extent(ours, 512, 656),
        "other": extent(theirs, 256, 356),
    }
    for one in cut.values():
        tree.hold(one, FULL, RAM, 10)
    return tree, {name: one.key for name, one in cut.items()}


def by_name(tree: TokenTree, keys: dict[str, bytes], live: Live = NOBODY, now: float = 100) -> dict[str, Candidate]:
    named = {key: name for name, key in keys.items()}
    return {named[one.key.extent]: one for one in candidates(tree, RAM, Needs(), live, now)}


def test_idle_time_counts_less_for_what_many_share_and_who_is_live() -> None:
    tree, keys = tree_of_two_branches()
    for session in ("a", "b"):
        tree.touch([keys["root"]], session, 20)
    tree.touch([keys["other"]], "b", 20)
    tree.touch([keys["middle"], keys["end"]], "a", 20)
    found = by_name(tree, keys)
    assert [found[name].idle_seconds for name in keys] == [40, 80, 80, 80]
    found = by_name(tree, keys, Live({"b"}, ()))
    assert [found[name].idle_seconds for name in keys] == [10, 80, 80, 20]


def test_what_others_build_on_is_never_older_than_they_are() -> None:
    """Whatever times came with what was found on disk, and whoever had used it."""
    tree, keys = tree_of_two_branches()
    tree.touch([keys["end"]], "a", 90)
    tree.touch([keys["other"]], "b", 50)
    found = by_name(tree, keys)
    assert [found[name].idle_seconds for name in keys] == [5, 10, 10, 50]


def test_a_live_tail_is_expected_and_all_before_it() -> None:
    tree, keys = tree_of_two_branches()
    found = by_name(tree, keys, Live({"a"}, {keys["middle"], b"long gone"}))
    assert {name for name, one in found.items() if one.claim is Claim.EXPECTED} == {"root", "middle"}


def test_only_blobs_of_the_tier_are_candidates() -> None:
    tree, keys = tree_of_two_branches()
    tree.drop(BlobKey(keys["end"], FULL), RAM)
    for one in list(tree):
        tree.hold(one.extent, FULL, SSD, 10)
    assert set(by_name(tree, keys)) == {"root", "middle", "other"}


@settings(max_examples=60)
@given(st.data())
def test_no_root_leaves_before_its_leaf(data: st.DataObject) -> None:
    """Whatever was used, in whatever order, by whomever, and however little room there is."""
    tree = TokenTree(NAMESPACE)
    for sequence in data.draw(st.lists(ANY_SEQUENCE, min_size=1, max_size=4)):
        at = 0
        while at < len(sequence):
            end = data.draw(st.sampled_from([at + BLOCK_TOKENS, at + 50, at + 100]))
            tree.hold(extent(sequence, at, min(end, len(sequence))), FULL, RAM, data.draw(st.integers(1, 9)))
            at = min(end, len(sequence)) // BLOCK_TOKENS * BLOCK_TOKENS if end < len(sequence) else end
    keys = [one.key for one in tree]
    for now in range(data.draw(st.integers(0, 6))):
        tree.touch(data.draw(st.sets(st.sampled_from(keys))), data.draw(st.sampled_from("abc")), now)
    live = Live(data.draw(st.sets(st.sampled_from("abc"))), data.draw(st.sets(st.sampled_from(keys), max_size=3)))
    crowd = candidates(tree, RAM, Needs(), live, now=10)
    for needed in range(1, tree.nbytes(RAM) + 1):
        going = {key.extent for key in victims(crowd, needed)}
        for one in tree:
            assert one.key in going or not going & {before.key for before in tree.extents_before(one)}


# --- checkpoints

ANY_STEPS = st.lists(st.integers(1, 400), min_size=1, max_size=60)


def chain_of(ends: Sequence[int]) -> dict[bytes, Link]:
    links: dict[bytes, Link] = {}
    start, before = 0, None
    for end in ends:
        key = f"{end}".encode()
        links[key] = Link(start, end, before, [before] if before else [], has_state=True)
        start, before = end - end % BLOCK_TOKENS, key
    return links


def places(links: dict[bytes, Link], spare: set[BlobKey]) -> list[int]:
    return [link.end for key, link in links.items() if BlobKey(key, STATE) not in spare]


@given(ANY_STEPS)
def test_going_back_costs_less_than_twice_as_much_without_the_spare_checkpoints(steps: list[int]) -> None:
    ends = [sum(steps[: count + 1]) for count in range(len(steps))]
    links = chain_of(ends)
    kept = places(links, spare_checkpoints(links, HYBRID))
    assert kept[-2:] == ends[-2:]
    assert kept[0] == ends[0]
    assert len(kept) <= 4 + 2 * log2(ends[-1])
    for back_to in range(ends[-1]):
        restored = max((end for end in kept if end <= back_to), default=0)
        best = max((end for end in ends if end <= back_to), default=0)
        assert restored == best or ends[-1] - restored < 2 * (ends[-1] - back_to)


def test_of_a_long_run_few_checkpoints_stay_and_the_same_ones_while_it_grows() -> None:
    ends = [100 * step for step in range(1, 101)]
    links = chain_of(ends)
    kept = places(links, spare_checkpoints(links, HYBRID))
    assert len(kept) <= 12
    longer = chain_of([*kept, 10_100])
    assert set(places(longer, spare_checkpoints(longer, HYBRID))) <= {*kept, 10_100}


def test_where_sequences_part_the_checkpoint_stays() -> None:
    links = chain_of([100 * step for step in range(1, 41)])
    links[b"branch"] = Link(960, 1500, b"1000", [b"1000"], has_state=True)
    assert {900, 1000, 1500, 3900, 4000} <= set(places(links, spare_checkpoints(links, HYBRID)))


def hybrid_tree(window: int | None) -> tuple[TokenTree, list[list[int]]]:
    """A system prompt, and two conversations that it begins, of which one was edited later. Turns end anywhere."""
    tree = TokenTree(NAMESPACE)
    system = list(range(500))
    first = [*system, *range(10_000, 13_000)]
    second = [*system, *range(20_000, 22_000)]
    edited = [*first[:2000], *range(30_000, 31_000)]
    done: list[list[int]] = []
    for sequence in (first, second, edited):
        turns = sorted({500, len(sequence), *range(620, len(sequence), 170)})
        at = max((common(sequence, other) for other in done), default=0)
        for end in (turn for turn in turns if turn > at):
            for one in extents(sequence[:end], at - at % BLOCK_TOKENS):
                tree.hold(one, FULL, RAM, 10)
                if window is not None:
                    tree.hold(one, WINDOW, RAM, 10)
                if one.end == end:
                    tree.hold(one, STATE, RAM, 10)
                for key in tree.superseded(one, RAM):
                    tree.drop(key, RAM)
            at = end
        done.append(sequence)
    return tree, done


def common(some: Sequence[int], others: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(some, others, strict=False)) if a != b), min(len(some), len(others)))


@pytest.mark.parametrize("needs", [HYBRID, Needs(window=300), Needs(window=700, sinks=4, state=True)], ids=str)
def test_without_the_spare_checkpoints_every_sequence_goes_on_from_its_end(needs: Needs) -> None:
    tree, sequences = hybrid_tree(needs.window)
    prompts = [sequence[:end] for sequence in sequences for end in range(1, len(sequence) + 1, 7)] + sequences

    def restored() -> list[int]:
        return [restorable(tree.longest_prefix(token_bytes(prompt)), needs, tree).tokens for prompt in prompts]

    before = restored()
    spare = [one.key for one in candidates(tree, RAM, needs, NOBODY, 0) if one.claim is Claim.SPARE]
    assert len(spare) >= 15
    assert FULL not in {key.part for key in spare}
    for key in spare:
        tree.drop(key, RAM)
    after = restored()
    assert after[-3:] == before[-3:] == [len(sequence) for sequence in sequences]
    system = next(index for index, prompt in enumerate(prompts) if len(prompt) > 500)
    assert after[system] >= 500
    for prompt, best, now in zip(prompts, before, after, strict=True):
        whole = max(len(sequence) for sequence in sequences if sequence[: len(prompt)] == prompt)
        assert now == best or whole - now < 2 * (whole - len(prompt)) + 1


def test_windows_that_several_kept_checkpoints_need_stay() -> None:
    links: dict[bytes, Link] = {}
    for number in range(40):
        key, before = f"{number}".encode(), [f"{number - 1}".encode()] if number else []
        links[key] = Link(
            number * 256, number * 256 + 256, before[0] if before else None, before, number == 39, number * 256
        )
    spare = spare_checkpoints(links, Needs(window=600, sinks=4, state=True))
    kept = [int(key) for key in links if BlobKey(key, WINDOW) not in spare]
    assert kept == [0, 37, 38, 39]


# --- sessions


def test_who_comes_back_is_live_for_a_while() -> None:
    tracker = SessionTracker()
    tracker.note("a", [], 0, [b"1", b"2"], 100, now=0)
    assert tracker.live(0) == Live(set(), set())
    tracker.note("a", [b"1", b"2"], 95, [b"3"], 200, now=10)
    assert tracker.live(10) == Live({"a"}, {b"3"})
    assert tracker.live(11 + LIVE_SECONDS) == Live(set(), set())
    assert tracker.previous_tokens("a", [b"3"], 200) == 200
    assert tracker.previous_tokens("b", [b"3"], 200) is None


def test_a_title_request_is_another_conversation() -> None:
    tracker = SessionTracker()
    tracker.note("a", [], 0, [b"system", b"task"], 8000, now=0)
    tracker.note("a", [b"system"], 300, [b"title"], 600, now=1)
    assert not tracker.live(1).sessions
    tracker.note("a", [b"system", b"task"], 8000, [b"next"], 9000, now=2)
    assert tracker.live(2) == Live({"a"}, {b"next"})
    assert tracker.previous_tokens("a", [b"system", b"task", b"next"], 9000) == 9000
    assert tracker.previous_tokens("a", [b"system", b"title"], 590) == 600
    assert tracker.previous_tokens("a", [b"system"], 310) == 9000  # it continues none: the latest


def test_only_the_latest_sessions_are_remembered() -> None:
    tracker = SessionTracker(most_sessions=3)
    for session in "abcad":
        tracker.note(session, [], 0, [session.encode()], 10, now=0)
    assert [session in tracker for session in "abcd"] == [True, False, True, True]
    for number in range(100):
        tracker.note("a", [], 0, [b"%d" % number], 10, now=0)
    assert len(tracker) == 3


# --- thousands of requests


@dataclass
class Conversation:
    session: str
    system: int  # tokens of its system prompt
    tokens: list[int]
    edited: bool = False


class Machine:
    """A memory tier under load: every request restores what it can, keeps what it computes, and makes room for it."""

    def __init__(self, needs: Needs, limit_extents: int) -> None:
        self.needs = needs
        self.limit = 10 * limit_extents
        self.tree = TokenTree(NAMESPACE)
        self.tracker = SessionTracker(live_seconds=300)
        self.now = 0.0
        self.evicted = dict.fromkeys(Claim, 0)

    def request(self, conversation: Conversation) -> int:
        """Tokens that were restored."""
        tokens = conversation.tokens
        path = self.tree.longest_prefix(token_bytes(tokens[:-1]))
        restored = restorable(path, self.needs, self.tree, {RAM}).tokens
        left = []
        at = restored
        for end in (conversation.system, len(tokens) - 40, len(tokens)):  # system prompt, prompt, answer
            if end > at:
                left += [one.key for one in self.keep(tokens[:end], at - at % BLOCK_TOKENS)]
                at = end
        self.tree.touch([*path.keys, *left], conversation.session, self.now)
        self.tracker.note(conversation.session, path.keys, path.tokens, left, len(tokens), self.now)
        if self.tree.nbytes(RAM) > self.limit:
            self.make_room()
        return restored

    def keep(self, tokens: list[int], start: int) -> Iterator[Extent]:
        for one in extents(tokens, start):
            self.tree.hold(one, FULL, RAM, 10)
            if self.needs.state and one.end == len(tokens):
                self.tree.hold(one, STATE, RAM, 30)
            for key in self.tree.superseded(one, RAM):
                self.tree.drop(key, RAM)
            yield one

    def make_room(self) -> None:
        crowd = candidates(self.tree, RAM, self.needs, self.tracker.live(self.now), self.now)
        going = set(victims(crowd, self.tree.nbytes(RAM) - self.limit, self.limit // 20))
        for one in crowd:
            if one.key in going:
                self.evicted[one.claim] += 1
                self.tree.drop(one.key, RAM)
        assert self.tree.nbytes(RAM) <= self.limit
        for cached in self.tree:  # no leaf without its root
            if cached.start and (FULL, RAM) in cached.held:
                assert any((FULL, RAM) in before.held for before in self.tree.extents_before(cached))


def arrivals(draw: random.Random, requests: int) -> Iterator[Conversation]:
    """Requests that come once, with and without an agent's system prompt, and conversations that go on for a while."""
    fresh = iter(range(1_000, 2**32))

    def some(least: int, most: int) -> list[int]:
        return [next(fresh) for _ in range(draw.randint(least, most))]

    agents = [some(700, 900), some(300, 400), []]
    going_on: list[tuple[Conversation, int]] = []
    for number in range(requests):
        if going_on and draw.random() < 0.4:
            conversation, left = going_on.pop(draw.randrange(len(going_on)))
            conversation.edited = draw.random() < 0.1
            if conversation.edited:
                del conversation.tokens[-draw.randint(1, 40) :]
            conversation.tokens += some(60, 600)
        else:
            system = draw.choice(agents)
            left = draw.randint(3, 20) if draw.random() < 0.05 else 0
            conversation = Conversation(f"session {number}", len(system), [*system, *some(60, 600)])
        if left:
            going_on.append((conversation, left - 1))
        yield conversation


@pytest.mark.parametrize(("needs", "limit_extents"), [(Needs(), 700), (HYBRID, 1600)], ids=["full", "hybrid"])
def test_thousands_of_requests(needs: Needs, limit_extents: int) -> None:
    draw = random.Random(5)
    machine = Machine(needs, limit_extents)
    agents_seen: set[int] = set()
    ends: dict[str, int] = {}
    returns = 0
    for conversation in arrivals(draw, 2000):
        machine.now += draw.expovariate(1)
        expected = conversation.session in machine.tracker.live(machine.now).sessions
        restored = machine.request(conversation)
        if conversation.session not in ends:  # a system prompt outlives all that came once
            assert restored >= (conversation.system if conversation.system in agents_seen else 0)
            agents_seen.add(conversation.system)
        elif expected and not conversation.edited:  # and so does all of a live session's sequence
            assert restored == ends[conversation.session]
            returns += 1
        ends[conversation.session] = len(conversation.tokens)
    assert returns > 250
    assert machine.evicted[Claim.ORDINARY] > 2000
    assert machine.evicted[Claim.EXPECTED] == 0
    assert (machine.evicted[Claim.SPARE] > 100) is needs.state


def test_a_newcomer_settles_among_more_live_sessions_than_fit() -> None:
    machine = Machine(Needs(), limit_extents=60)

    def say_more(conversation: Conversation) -> int:
        machine.now += 1
        first = len(conversation.tokens) + 10_000 * int(conversation.session)
        conversation.tokens += range(first, first + 250)
        return machine.request(conversation)

    regulars = [
        Conversation(str(number), 0, list(range(10_000 * number, 10_000 * number + 250))) for number in range(12)
    ]
    for _ in range(6):
        for conversation in regulars:
            say_more(conversation)
    assert machine.evicted[Claim.EXPECTED] > 0
    newcomer = Conversation("99", 0, [])
    restored = []
    for conversation in regulars[:6]:
        say_more(conversation)
        restored.append(say_more(newcomer))
    assert restored == [0, 250, 500, 750, 1000, 1250]
    assert len(machine.tracker.live(machine.now).sessions) > 3
