"""Decode steps of the rows that share forward passes. Runs on the MLX thread.

A step first queues the pass that the present tokens need, and only then reads these tokens (the step before sampled
them): the model computes while the host delivers them, advances grammars and prepares the sampling of that pass. So a
row with a grammar or penalties does not slow its neighbours.

When a row's coming tokens can be told (its grammar leaves no choice, or it repeats an earlier passage), the present
ones are read first, and one pass computes them together with the draft. A token is drawn from its own logits, seed and
position whether it was drafted or not, so drafts change the speed and nothing else.
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Any

import mlx.core as mx
import numpy as np

from gateway.engine.constraint import Words
from gateway.engine.lora import AdaptedModel
from gateway.engine.pace import Pace, Pass
from gateway.engine.prompt_lookup import draft_lengths
from gateway.engine.row import Draft, Row, RowFailure, RowOutcome, RowToken
from gateway.engine.row_caches import RowCaches
from gateway.engine.sampling import Draw, Slot, read_scores, sample, sample_exactly, score
from gateway.engine.token_masks import apply_masks
from gateway.errors import GatewayError, GenerationFailed

log = logging.getLogger(__name__)


class NoToken(Enum):
    """Why nothing could be drawn for a slot."""

    NOT_A_NUMBER = "The model's output is not a number (NaN or infinity); its weights may be broken."
    RULED_OUT = "The model rules out every token that may come next, by the answer's grammar or at all."


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tokens that were sampled for `slots`, perhaps not computed yet. `logits` (slots, vocabulary) are masked."""

    slots: Sequence[Slot]
    logits: mx.array
    draw: Draw
    scores: dict[int, tuple[mx.array, ...]]

    def read(self) -> tuple[list[int | NoToken], bool]:
        """The tokens, or why there is none; and whether any may differ from `draw.tokens`.

        Waits until they are computed. A shortcut that was not exact for a slot is made good here.
        """
        tokens: list[Any] = self.draw.tokens.tolist()  # type: ignore[assignment]
        unsure = [] if self.draw.unsure is None else np.flatnonzero(np.array(self.draw.unsure)).tolist()
        if unsure:
            exact = sample_exactly(self.logits[mx.array(unsure)], [self.slots[i] for i in unsure])
            for index, token in zip(unsure, exact.tolist(), strict=True):  # type: ignore[arg-type]
                tokens[index] = token
        largest = np.array(self.draw.largest)
        for index in np.flatnonzero(~np.isfinite(largest)).tolist():
            tokens[index] = NoToken.RULED_OUT if largest[index] == -inf else NoToken.NOT_A_NUMBER
        return tokens, bool(unsure)


@dataclass(frozen=True, slots=True)
class Unread:
    """What the latest pass gave its rows and nobody has read yet."""

    rows: Sequence[Row]
    drawn: Drawn
    work: Pass
    queued_at: float


class DecodeGroup:
    """Rows, their caches, and the token that each row's next pass takes.

    `leaving` is told each row that is dropped, with the caches and its place in them, while it is still there.
    """

    def __init__(
        self, model: AdaptedModel, caches: RowCaches, pace: Pace, leaving: Callable[[Row, RowCaches, int], None]
    ) -> None:
        self.rows: list[Row] = []
        self.caches = caches
        self.drafted_tokens = 0
        self.accepted_tokens = 0
        self.last_pass: Pass | None = None
        self._model = model
        self._pace = pace
        self._leaving = leaving
        self._inputs = mx.array([], dtype=mx.uint32)
        self._unread: Unread | None = None
        self._queued_at = 0.0
        self._last_read = 0.0

    def join(self, prompt: RowCaches, index: int, rows: Sequence[Row]) -> None:
        """Adds rows whose common prompt is computed up to its last token; a prompt that was alone is of no use then."""
        alone = len(prompt.lengths) == len(rows) == 1
        if not (alone and self.caches.take_over(prompt)):
            self.caches.add(prompt, index, len(rows))
        self.rows += rows
        last = mx.array([row.tokens[-1] for row in rows], dtype=mx.uint32)
        self._inputs = mx.concatenate([self._inputs, last])

    def remove(self, rows: Collection[Row]) -> None:
        """Frees rows at once; what was sampled for them is forgotten."""
        order = self._keep_all_but(rows)
        if order is not None:
            self._inputs = self._inputs[mx.array(order, dtype=mx.uint32)]

    def expected_seconds(self, tokens_per_row: int) -> float:
        """Of a step with so many tokens of every row, or of one if there is none."""
        return self._pace.decode_seconds(max(1, len(self.rows)) * tokens_per_row, self.caches.longest)

    def step(self, most_slowdown: float) -> list[RowOutcome]:
        """Queues or does one pass; returns what became known (nothing yet for rows that have just joined).

        A pass with drafts takes at most `most_slowdown` times as long as one without.
        """
        self.last_pass = None
        if self._draft_length([(len(row.proposal.tokens), row.proposal.chance) for row in self.rows], most_slowdown):
            outcomes = self.settle()
            if not self.rows:
                return outcomes
            drafts = self._drafts(most_slowdown)
            if any(draft.tokens for draft in drafts):
                return outcomes + self._verify(drafts)
            logits = self._queue_pass()
        else:
            if self._unread and self._unread.rows == self.rows and all(row.tokens_left == 1 for row in self.rows):
                return self.settle()  # they all end with the tokens that are there
            logits = self._queue_pass()
            outcomes, corrected = self._read()
            if corrected:
                self._inputs = self._known_inputs()
                logits = self._queue_pass()  # instead of the one with a token that was not to be
        self.caches.commit([1] * len(self.rows))
        order = self._keep_all_but(_ended(outcomes))
        if order is not None:
            logits = logits[mx.array(order, dtype=mx.uint32)]
        if self.rows:
            self._sample(logits)
        return outcomes

    def settle(self) -> list[RowOutcome]:
        """Waits for the tokens that were sampled, and returns them: nothing is queued any more."""
        outcomes, _ = self._read()
        self._keep_all_but(_ended(outcomes))
        self._inputs = self._known_inputs()
        return outcomes

    def _queue_pass(self) -> mx.array:
        """Logits (rows, vocabulary) that follow `_inputs`, not computed yet and not committed to the caches."""
        self._note_pass(1)
        logits = self._compute(self._inputs[:, None])[:, -1, :]
        mx.async_eval(logits)  # type: ignore[no-untyped-call]
        return logits

    def _compute(self, inputs: mx.array) -> mx.array:
        return self._model(inputs, self.caches.layers, [row.adapter for row in self.rows])

    def _sample(self, logits: mx.array) -> None:
        masks = {index: row.mask for index, row in enumerate(self.rows) if row.mask is not None}
        slots = [Slot(row.sampling) for row in self.rows]
        drawn = self._draw(logits, slots, masks, self.rows)
        self._inputs = drawn.draw.tokens
        assert self.last_pass
        self._unread = Unread(list(self.rows), drawn, self.last_pass, self._queued_at)

    def _draw(self, logits: mx.array, slots: Sequence[Slot], masks: dict[int, Words], rows: Sequence[Row]) -> Drawn:
        """Queues the sampling of every slot; `rows` are the slots' rows."""
        scored = {index: top for index, row in enumerate(rows) if (top := row.sampling.top_logprobs) is not None}
        unmasked = logits
        if masks:
            logits = apply_masks(logits, list(masks), list(masks.values()))
        draw = sample(logits, slots)
        if draw.unsure is not None and (scored or not self.caches.rewindable):
            # Scores are of the token that is drawn here, and some caches cannot take another one instead.
            draw = Draw(sample_exactly(logits, slots), None, draw.largest)
        scores = {index: score(unmasked[index], draw.tokens[index], top) for index, top in scored.items()}
        mx.async_eval(draw.arrays, list(scores.values()))  # type: ignore[no-untyped-call]
        return Drawn(slots, logits, draw, scores)

    def _read(self) -> tuple[list[RowOutcome], bool]:
        """Tells the rows their sampled tokens; True if any is not what `_inputs` holds."""
        if self._unread is None:
            return [], False
        unread, self._unread = self._unread, None
        tokens, corrected = unread.drawn.read()
        self._note_done(unread.work, unread.queued_at)
        here = set(map(id, self.rows))
        return [
            _tell(row, token, unread.drawn.scores.get(index))
            for index, (row, token) in enumerate(zip(unread.rows, tokens, strict=True))
            if id(row) in here
        ], corrected

    def _drafts(self, most_slowdown: float) -> list[Draft]:
        """What each row's next pass shall compute beyond its known token; of one length at most."""
        drafts = [_draft(row) for row in self.rows]
        outlooks = [(len(draft.tokens), row.proposal.chance) for row, draft in zip(self.rows, drafts, strict=True)]
        length = self._draft_length(outlooks, most_slowdown)
        return [Draft(draft.tokens[:length], min(draft.forced, length), draft.masks[: length + 1]) for draft in drafts]

    def _draft_length(self, outlooks: Sequence[tuple[int, float]], most_slowdown: float) -> int:
        """How many tokens to draft for every row, given what could be drafted for each; 0 where that does not pay."""
        if not self.caches.rewindable or not any(length for length, _ in outlooks):
            return 0
        most_seconds = most_slowdown * self.expected_seconds(1)

        def seconds(tokens_per_row: int) -> float:
            expected = self.expected_seconds(tokens_per_row)
            return expected if expected <= most_seconds else inf

        return draft_lengths(outlooks, seconds)

    def _verify(self, drafts: Sequence[Draft]) -> list[RowOutcome]:
        """One pass over every row's known token and draft, of which as much is kept as sampling agrees with."""
        width = 1 + max(len(draft.tokens) for draft in drafts)
        inputs = [
            [row.tokens[-1], *draft.tokens, *[0] * (width - 1 - len(draft.tokens))]
            for row, draft in zip(self.rows, drafts, strict=True)
        ]
        work = self._note_pass(width)
        logits = self._compute(mx.array(inputs))
        places = [(i, j) for i, draft in enumerate(drafts) for j in range(len(draft.tokens) + 1)]
        slots = [Slot(self.rows[i].sampling, drafts[i].tokens[:j]) for i, j in places]
        masks = {slot: drafts[i].masks[j] for slot, (i, j) in enumerate(places) if drafts[i].masks}
        flat = logits[mx.array([i for i, _ in places]), mx.array([j for _, j in places])]
        drawn = self._draw(flat, slots, masks, [self.rows[i] for i, _ in places])
        tokens, _ = drawn.read()
        self._note_done(work, self._queued_at)
        outcomes: list[RowOutcome] = []
        counts, slot = [], 0
        for row, draft in zip(self.rows, drafts, strict=True):
            told = _tell_all(row, draft, tokens[slot : slot + len(draft.tokens) + 1], drawn.scores.get(slot))
            slot += len(draft.tokens) + 1
            counts.append(len(told))
            outcomes += told
            self._note_acceptance(row, draft, len(told) - 1)
        self.caches.commit(counts)
        self._keep_all_but(_ended(outcomes))
        self._inputs = self._known_inputs()
        return outcomes

    def _note_pass(self, width: int) -> Pass:
        self.last_pass = Pass(len(self.rows), width, self.caches.longest)
        self._queued_at = time.perf_counter()
        return self.last_pass

    def _note_done(self, work: Pass, queued_at: float) -> None:
        """A pass that was queued behind another one began when that one's result was there."""
        now = time.perf_counter()
        self._pace.step_done(work, now - max(queued_at, self._last_read))
        self._last_read = now

    def _note_acceptance(self, row: Row, draft: Draft, accepted: int) -> None:
        proposed = len(draft.tokens) - draft.forced
        if proposed:
            self.drafted_tokens += proposed
            self.accepted_tokens += accepted
            if row.lookup:
                row.lookup.learn(proposed, accepted)

    def _keep_all_but(self, gone: Collection[Row]) -> list[int] | None:
        """Drops rows from the caches; the former numbers of the others, or None if nothing changed."""
        indices = [index for index, row in enumerate(self.rows) if row in gone]
        if not indices:
            return None
        for index in indices:
            self._leaving(self.rows[index], self.caches, index)
        order = self.caches.remove(indices)
        self.rows = [self.rows[index] for index in order]
        if not self.rows:
            self._inputs, self._unread = self._known_inputs(), None
        return order

    def _known_inputs(self) -> mx.array:
        return mx.array([row.tokens[-1] for row in self.rows], dtype=mx.uint32)


def _tell(row: Row, token: int | NoToken, scores: tuple[mx.array, ...] | None) -> RowOutcome:
    if isinstance(token, NoToken):
        row.broken = token is NoToken.NOT_A_NUMBER
        return RowFailure(row, GenerationFailed(token.value))
    try:
        finish = row.accept(token)
    except GatewayError as error:
        return RowFailure(row, error)
    except Exception as error:
        log.exception("an answer's own state failed; it ends, its neighbours go on")
        return RowFailure(row, GenerationFailed(f"The answer could not be continued: {error}"))
    return RowToken(row, token, read_scores(scores) if scores else None, finish)


def _tell_all(
    row: Row, draft: Draft, sampled: Sequence[int | NoToken], scores: tuple[mx.array, ...] | None
) -> list[RowOutcome]:
    """The draft as far as it holds, and the token that follows it."""
    told: list[RowOutcome] = []
    for place, token in enumerate(sampled):
        token = draft.tokens[place] if place < draft.forced else token
        outcome = _tell(row, token, scores)
        told.append(outcome)
        if isinstance(outcome, RowFailure) or outcome.finish:
            break
        if place < len(draft.tokens) and token != draft.tokens[place]:
            break
    return told


def _draft(row: Row) -> Draft:
    """What the row proposes, as far as its grammar allows it."""
    proposal = row.proposal
    if row.constraint is None:
        return Draft(tuple(proposal.tokens))
    try:
        accepted, masks = row.constraint.masks_along(proposal.tokens)
    except Exception:  # noqa: BLE001  (as in `Row._forced`)
        return Draft() if row.mask is None else Draft(masks=(row.mask,))
    return Draft(tuple(proposal.tokens[:accepted]), min(proposal.forced, accepted), tuple(masks))


def _ended(outcomes: Sequence[RowOutcome]) -> set[Row]:
    return {outcome.row for outcome in outcomes if isinstance(outcome, RowFailure) or outcome.finish}
