"""What a row proposes for its next pass."""

from typing import Any

import numpy as np

from gateway.engine.prompt_lookup import LONGEST_DRAFT_TOKENS, PromptIndex, PromptLookup
from gateway.engine.row import Row
from gateway.engine.sampling import RowSampling
from gateway.generation.request import Sampling


class Counted:
    """Counts how often it is asked; a `Constraint` that forces `coming`."""

    def __init__(self, coming: list[int]) -> None:
        self.coming = coming
        self.asked = 0

    def mask(self) -> Any:
        return np.full(4, 0xFFFFFFFF, np.uint32)

    def forced(self, limit: int) -> list[int]:
        self.asked += 1
        return self.coming[:limit]

    def advance(self, token: int) -> None:
        self.coming = self.coming[1:]


def row_with(grammar: Any = None, lookup: PromptLookup | None = None, **fields: Any) -> Row:
    tokens = [1, 2, 3, 1, 2]
    settings = {"tokens_left": 100} | fields
    top_logprobs = settings.pop("top_logprobs", None)
    sampling = RowSampling(Sampling(), 1, tokens, top_logprobs)
    return Row(tokens, settings["tokens_left"], frozenset(), sampling, grammar, lookup)


def test_a_proposal_is_made_once_for_a_place() -> None:
    grammar = Counted([5, 6, 7])
    row = row_with(grammar)
    first = row.proposal
    assert row.proposal is first
    assert (list(first.tokens), first.forced, first.chance) == ([5, 6, 7], 3, 1.0)
    assert grammar.asked == 1
    row.accept(5)
    assert list(row.proposal.tokens) == [6, 7]
    assert grammar.asked == 2


def test_it_is_no_longer_than_a_pass_or_the_answer() -> None:
    coming = list(range(100))
    assert len(row_with(Counted(coming)).proposal.tokens) == LONGEST_DRAFT_TOKENS
    assert len(row_with(Counted(coming), tokens_left=5).proposal.tokens) == 4
    assert not row_with(Counted(coming), tokens_left=1).proposal.tokens
    assert not row_with(Counted(coming), top_logprobs=2).proposal.tokens


def test_what_repeats_the_prompt_is_proposed_where_nothing_is_forced() -> None:
    lookup = PromptLookup(PromptIndex([9, 1, 2, 3, 4, 9, 1, 2]))
    proposal = row_with(Counted([]), lookup).proposal
    assert (list(proposal.tokens), proposal.forced, proposal.chance) == (lookup.propose(3), 0, lookup.acceptance)
    assert proposal.tokens
    assert row_with(Counted([5]), lookup).proposal.forced == 1
    assert not row_with().proposal.tokens
