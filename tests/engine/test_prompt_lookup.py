"""Speculation from the prompt, with the true continuation standing in for the model that verifies."""

import random
import time
import tracemalloc
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.engine.prompt_lookup import LONGEST_DRAFT_TOKENS, PromptIndex, PromptLookup, draft_lengths

SOURCE_FILE = '''"""Rooms of a hotel and who sleeps in them."""

from dataclasses import dataclass, field
from datetime import date


@dataclass
class Booking:
    guest: str
    first_night: date
    last_night: date

    def covers(self, night: date) -> bool:
        return self.first_night <= night <= self.last_night


@dataclass
class Room:
    number: int
    beds: int
    bookings: list[Booking] = field(default_factory=list)

    def is_free(self, first: date, last: date) -> bool:
        return not any(b.covers(first) or b.covers(last) for b in self.bookings)

    def book(self, guest: str, first: date, last: date) -> Booking:
        if not self.is_free(first, last):
            raise ValueError(f"room {self.number} is taken")
        booking = Booking(guest, first, last)
        self.bookings.append(booking)
        return booking


class Hotel:
    def __init__(self, rooms: list[Room]) -> None:
        self.rooms = rooms

    def find(self, beds: int, first: date, last: date) -> Room | None:
        for room in self.rooms:
            if room.beds >= beds and room.is_free(first, last):
                return room
        return None

    def guests(self, night: date) -> set[str]:
        found = set()
        for room in self.rooms:
            found.update(b.guest for b in room.bookings if b.covers(night))
        return found
'''
CHANGES = {
    "who sleeps in them": "their guests",
    "    beds: int\n": "    beds: int\n    floor: int = 0\n",
    "is taken": "is not free from {first} to {last}",
    "found = set()": "found: set[str] = set()",
    "        return None\n": "        raise LookupError(beds)\n",
    "booking = Booking": "new = Booking",
}


def lookup_of(prompt: list[int]) -> PromptLookup:
    return PromptLookup(PromptIndex(prompt))


@dataclass
class Outcome:
    passes: int = 0
    proposed: int = 0
    accepted: int = 0


def verify_against(lookup: PromptLookup, continuation: list[int], limit: int = LONGEST_DRAFT_TOKENS) -> Outcome:
    """Generates `continuation` with every proposal verified, as an engine would."""
    outcome, done = Outcome(), 0
    while done < len(continuation):
        proposal = lookup.propose(limit)
        left = continuation[done:]
        accepted = next((i for i, token in enumerate(proposal) if left[i : i + 1] != [token]), len(proposal))
        for token in left[: accepted + 1]:
            lookup.advance(token)
        lookup.learn(len(proposal), accepted)
        done += accepted + 1
        outcome.passes += 1
        outcome.proposed += len(proposal)
        outcome.accepted += accepted
    return outcome


def test_a_file_sent_back_with_small_changes_takes_few_passes() -> None:
    assert 1300 < len(SOURCE_FILE) < 1500
    changed = SOURCE_FILE
    for old, new in CHANGES.items():
        assert old in changed
        changed = changed.replace(old, new)
    prompt = f"Here is hotel.py:\n```python\n{SOURCE_FILE}```\nChange the names as agreed.\n"
    answer = list(f"```python\n{changed}```\n".encode())
    outcome = verify_against(lookup_of(list(prompt.encode())), answer)
    assert len(answer) / outcome.passes >= 8
    assert outcome.accepted > 0.75 * outcome.proposed


def test_an_unchanged_copy_is_proposed_in_the_longest_pieces() -> None:
    file = list(SOURCE_FILE.encode())
    outcome = verify_against(lookup_of(file), file)
    assert len(file) / outcome.passes > 0.7 * LONGEST_DRAFT_TOKENS


@pytest.mark.parametrize("symbols", [4, 8, 60, 50_000])
def test_random_text_wastes_little(symbols: int) -> None:
    chance = random.Random(symbols)
    text = [chance.randrange(symbols) for _ in range(4000)]
    outcome = verify_against(lookup_of(text[:2000]), text[2000:])
    assert outcome.proposed - outcome.accepted < 0.05 * 2000


def test_proposals_come_back_when_the_text_turns_predictable() -> None:
    chance = random.Random(5)
    noise = [chance.randrange(6) for _ in range(3000)]
    file = list(SOURCE_FILE.encode())
    lookup = lookup_of(file + noise)
    verify_against(lookup, [chance.randrange(6) for _ in range(1000)])
    outcome = verify_against(lookup, file)
    assert len(file) / outcome.passes >= 4


def test_the_longest_match_wins_and_of_equal_ones_the_latest() -> None:
    prompt = [9, 1, 2, 3, 4, 50, 8, 1, 2, 3, 4, 60, 7, 1, 2, 3, 4, 70]
    longest = lookup_of([*prompt, 9, 1, 2, 3, 4])
    assert longest.propose(1) == [50]
    latest = lookup_of([*prompt, 5, 1, 2, 3, 4])
    assert latest.propose(1) == [70]


def test_an_answer_that_repeats_itself_is_its_own_source() -> None:
    lookup = lookup_of([])
    for token in (1, 2, 3, 4, 5, 6, 7, 1, 2, 3):
        assert lookup.propose(1) == []
        lookup.advance(token)
    assert lookup.propose(2) == [4, 5]


def test_a_copy_goes_on_at_the_same_place_after_a_changed_word() -> None:
    """The two tokens after the change stand elsewhere too, later in the prompt; the copy's own place is taken."""
    prompt = [10, 11, 12, 13, 14, 15, 1, 2, 20, 21, 22, 99, 98, 1, 2, 77, 77, 77]
    lookup = lookup_of(prompt)
    for token in (10, 11, 12, 13, 14, 55, 1, 2):  # 55 for 15
        lookup.advance(token)
    assert lookup.propose(2) == [20, 21]


def test_lengths_grow_when_all_is_accepted_and_shrink_when_not() -> None:
    file = list(SOURCE_FILE.encode())
    lookup = lookup_of([*file, *file[:100]])
    start = len(lookup.propose(100))
    for _ in range(10):
        lookup.learn(5, 5)
    longest = len(lookup.propose(100))
    for _ in range(3):
        lookup.learn(8, 0)
    assert len(lookup.propose(100)) < start < longest == LONGEST_DRAFT_TOKENS
    assert len(lookup.propose(3)) <= 3


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=60), st.lists(st.integers(0, 5), max_size=60))
def test_proposals_really_followed_an_earlier_occurrence_of_the_last_tokens(
    prompt: list[int], answer: list[int]
) -> None:
    lookup = lookup_of(prompt)
    history = list(prompt)
    for token in [*answer, None]:
        proposal = lookup.propose(8)
        if proposal:
            assert any(
                history[end - 2 : end] == history[-2:] and history[end : end + len(proposal)] == proposal
                for end in range(2, len(history))
            )
            assert 0 < lookup.acceptance <= 1
        if token is not None:
            history.append(token)
            lookup.advance(token)


@pytest.mark.parametrize("symbols", [30, 50_000])
def test_long_prompts_cost_little(symbols: int) -> None:
    """A floor of pure Python over as many tokens is the measure, so that a busy machine does not matter."""
    chance = random.Random(1)
    prompt = [chance.randrange(symbols) for _ in range(100_000)]

    def seconds(work: object) -> float:
        assert callable(work)
        started = time.thread_time()
        work()
        return time.thread_time() - started

    floor = min(seconds(lambda: {(token, index): index for index, token in enumerate(prompt)}) for _ in range(3))
    indices: list[PromptIndex] = []
    assert min(seconds(lambda: indices.append(PromptIndex(prompt))) for _ in range(3)) < floor / 3
    lookups: list[PromptLookup] = []
    assert min(seconds(lambda: lookups.append(PromptLookup(indices[0]))) for _ in range(3)) < floor / 30
    unknown = [chance.randrange(symbols) for _ in range(10_000)]

    def advance(tokens: list[int]) -> None:
        for token in tokens:
            lookups[0].advance(token)
            lookups[0].propose(8)

    assert seconds(lambda: advance(prompt[:10_000])) < 10 * floor
    assert seconds(lambda: advance(unknown)) < 30 * floor


def test_long_prompts_take_little_memory() -> None:
    """Bytes a token: of the prompt, and of each choice that is generated from it."""
    chance = random.Random(1)
    prompt = [chance.randrange(50_000) for _ in range(100_000)]
    tracemalloc.start()
    index = PromptIndex(prompt)
    of_prompt, _ = tracemalloc.get_traced_memory()
    lookup = PromptLookup(index)
    of_both, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert of_prompt < 13 * len(prompt)
    assert of_both - of_prompt < 5 * len(prompt)
    assert lookup.propose(8) == []


def test_choices_of_one_prompt_do_not_know_each_other() -> None:
    index = PromptIndex([10, 11, 12, 13, 14, 15, 16])
    first, second = PromptLookup(index), PromptLookup(index)
    for token in (1, 2, 3, 4, 5, 1, 2, 3):
        first.advance(token)
    for token in (10, 11, 12):
        second.advance(token)
    assert first.propose(2) == [4, 5]
    assert second.propose(2) == [13, 14]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=1200), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_the_index_finds_the_latest_places(prompt: list[int], gram: list[int]) -> None:
    ends = [end for end in range(3, len(prompt) + 1) if prompt[end - 3 : end] == gram]
    assert PromptIndex(prompt).latest_ends(9, gram) == ends[::-1][:9]


def test_nothing_is_proposed_from_next_to_nothing() -> None:
    for prompt in ([], [1], [1, 1], [1, 2, 3]):
        lookup = lookup_of(prompt)
        assert lookup.propose(8) == []
        lookup.advance(1)
        lookup.learn(0, 0)


def seconds_of_one_row(tokens: int) -> float:
    """Measured: a pass of one token takes 65 ms, of two to four 78, of eight 81, of sixteen 97."""
    return 0.065 if tokens == 1 else 0.078 if tokens <= 4 else 0.081 if tokens <= 8 else 0.097


def seconds_of_eight_rows(tokens: int) -> float:
    return 0.078 + 0.022 * (tokens - 1)


def test_drafts_are_as_long_as_they_pay() -> None:
    assert draft_lengths([(0, 0.0)], seconds_of_one_row) == 0
    assert draft_lengths([(16, 0.1)], seconds_of_one_row) == 0  # 1.1 tokens do not pay for 78 ms
    assert draft_lengths([(16, 0.6)], seconds_of_one_row) == 7
    assert draft_lengths([(16, 0.99)], seconds_of_one_row) == 16
    assert draft_lengths([(5, 0.99)], seconds_of_one_row) == 5
    assert draft_lengths([], seconds_of_one_row) == 0


def test_a_few_rows_do_not_hold_up_the_rest() -> None:
    alone = [(0, 0.0)] * 7
    assert draft_lengths([*alone, (16, 0.99)], seconds_of_eight_rows) == 0
    assert draft_lengths([(16, 0.9)] * 8, seconds_of_eight_rows) >= 3
    most = draft_lengths([(0, 0.0)] + [(16, 0.99)] * 7, seconds_of_eight_rows)
    assert most == 3  # 0.078 + 3 * 0.022 is less than twice 0.078, 4 * 0.022 is not
    assert draft_lengths([(0, 0.0)] + [(16, 0.99)] * 7, seconds_of_eight_rows, most_slowdown=4) > most
