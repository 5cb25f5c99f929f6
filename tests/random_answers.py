"""Answers that a grammar allows, at random."""

import random
from collections.abc import Collection
from typing import Any

import numpy as np

from gateway.engine.constraint import Constraint, allows

END = 2  # <|im_end|>
SECOND_END = 0  # <|endoftext|>
MOST_TOKENS = 400
CLOSING = ('"', '"}', "}", "]", '",', '"]')


def tokens_of(mask: np.ndarray) -> list[int]:
    found: list[int] = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
    return found


def random_answer(side: Any, constraint: Constraint, seed: int, special: set[int], hasten: Collection[str] = ()) -> str:
    """Text of a random walk along the masks, which prefers to close what is open, and ends with an end token.

    `hasten` are other beginnings of texts that bring the end nearer.
    """
    choose = random.Random(seed)
    closing = [side.tokenizer.encode(text, add_special_tokens=False)[0] for text in (*CLOSING, *hasten)]
    answer: list[int] = []
    while True:
        mask = constraint.mask()
        allowed = tokens_of(mask)
        assert mask.dtype == np.uint32
        assert mask.size == -(-side.vocabulary // 32)
        assert max(allowed) < side.vocabulary
        may_end = END in allowed
        assert (SECOND_END in allowed) == may_end
        must_end = set(allowed) == {END, SECOND_END}
        if may_end and (must_end or choose.random() < 0.3):
            constraint.advance(choose.choice([END, SECOND_END]))
            assert set(tokens_of(constraint.mask())) == {END, SECOND_END}
            text: str = side.tokenizer.decode(answer)
            return text
        assert not special.intersection(allowed) - {END, SECOND_END}
        usable = [token for token in allowed if token not in (END, SECOND_END)]
        preferred = [token for token in closing if allows(mask, token)]
        hurry = len(answer) / MOST_TOKENS
        token = choose.choice(preferred if preferred and choose.random() < 0.2 + hurry else usable)
        constraint.advance(token)
        answer.append(token)
        assert len(answer) < 4 * MOST_TOKENS
