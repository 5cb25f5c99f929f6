"""Choosing the next token of every slot of a batch, all slots in one go. Runs on the MLX thread.

A slot is one position of one row; a row has several when drafted tokens are verified. A slot's choice depends on
its own logits and on its row's settings, seed and history, never on its neighbours: a random slot takes the token
whose scaled logit plus Gumbel noise is largest (which draws from the softmax), and the noise of a token is a hash
of seed, position and token. Rounding that differs with the size of the batch then matters no more than for a
greedy slot: in a near tie only.

Min-p, top-k and top-p are floors under the logits, so tokens of equal logit stay or go together: those that equal
the k-th stay, and a token is in the nucleus if those of larger logit hold less than top-p of the mass. Sorting a
vocabulary costs ten times more than all else, so it is avoided: a top-k is found among the largest logits, the
*head*, and a large top-p by asking only of the few tokens that would win without it whether they are in the nucleus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from math import ceil, inf, log
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from gateway.engine.token_stream import TokenScores
from gateway.generation.request import Sampling

# Dividing logits by less than this overflows float32; the largest logit would win anyway.
SMALLEST_TEMPERATURE = 1e-5

SCORED_TOGETHER = 32
"""Tokens of a prompt, so that what is computed for their log-probabilities takes little memory."""

HEAD = 1024
SMALL_HEAD = 256
"""Largest logits that are put in order to find floors; the small head is for a top-k of at most half of it."""

LARGE_TOP_P = 0.5
"""From here on nuclei may exceed the head: on prose half of SmolLM2-135M's at top-p 0.95 have over 1,024 tokens."""

MOST_UNSURE = 1e-3
"""Share of the draws with a large top-p that may stay undecided."""

GROUP = 16
"""Logits of which one maximum is taken to find the head; see `_head`."""

LOG2_E = 1 / log(2)

Bits = TypeVar("Bits", mx.array, NDArray[np.uint32])
"""Unsigned 32-bit integers, for which mlx and numpy share their operators."""


class RowSampling:
    """One row's settings and history. Owned by the MLX thread.

    The history is kept as what each token in it does to its own logit: `shift` is added (bias and OpenAI's
    penalties), then the logit is moved away from or towards zero by `factor` (the repetition penalty).
    """

    def __init__(self, sampling: Sampling, seed: int, prompt: Sequence[int], top_logprobs: int | None) -> None:
        self.sampling = sampling
        self.top_logprobs = top_logprobs
        self.position = 0
        self._seed = seed
        self._penalises = bool(
            sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty != 1.0
        )
        seen = set(prompt) if sampling.repetition_penalty != 1.0 else set()
        tokens = [*sampling.logit_bias, *(seen - sampling.logit_bias.keys())]
        self._entries = {token: entry for entry, token in enumerate(tokens)}
        self._tokens = np.array(tokens, np.int64)
        self._counts = np.zeros(len(tokens), np.int64)
        self._shifts = np.array([sampling.logit_bias.get(token, 0.0) for token in tokens], np.float32)
        self._factors = np.array([sampling.repetition_penalty if t in seen else 1.0 for t in tokens], np.float32)

    @property
    def is_greedy(self) -> bool:
        return self.sampling.temperature < SMALLEST_TEMPERATURE

    @property
    def adjusts_logits(self) -> bool:
        return self._penalises or bool(self.sampling.logit_bias)

    def advance(self, token: int) -> None:
        """Notes that `token` is the answer's next one."""
        self.position += 1
        if not self._penalises:
            return
        entry = self._entries.setdefault(token, len(self._entries))
        if entry == self._tokens.size:
            self._grow()
        self._tokens[entry] = token
        self._counts[entry] += 1
        self._shifts[entry], self._factors[entry] = self._effect(token, int(self._counts[entry]))

    def effects(
        self, drafted: Sequence[int] = ()
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Tokens, each once, with the shift and the factor of their logits once the `drafted` ones follow."""
        size = len(self._entries)
        tokens, shifts, factors = self._tokens[:size], self._shifts[:size], self._factors[:size]
        if not (drafted and self._penalises):
            return tokens, shifts, factors
        changed = sorted(set(drafted))
        known = [self._entries[token] for token in changed if token in self._entries]
        counts = {token: drafted.count(token) + self._count(token) for token in changed}
        effects = np.array([self._effect(token, counts[token]) for token in changed], np.float32)
        return (
            np.concatenate([np.delete(tokens, known), changed]),
            np.concatenate([np.delete(shifts, known), effects[:, 0]]),
            np.concatenate([np.delete(factors, known), effects[:, 1]]),
        )

    def noise_keys(self, ahead: int) -> NDArray[np.uint32]:
        """Two numbers from which the noise `ahead` tokens after the history is made."""
        digest = blake2b(f"{self._seed}:{self.position + ahead}".encode(), digest_size=8).digest()
        return np.frombuffer(digest, "<u4").astype(np.uint32)

    def _count(self, token: int) -> int:
        entry = self._entries.get(token)
        return 0 if entry is None else int(self._counts[entry])

    def _effect(self, token: int, count: int) -> tuple[float, float]:
        """Shift and factor of a token that was generated `count` times, at least once."""
        settings = self.sampling
        bias = settings.logit_bias.get(token, 0.0)
        return bias - settings.frequency_penalty * count - settings.presence_penalty, settings.repetition_penalty

    def _grow(self) -> None:
        room = max(64, self._tokens.size)
        self._tokens, self._counts = np.pad(self._tokens, (0, room)), np.pad(self._counts, (0, room))
        self._shifts, self._factors = np.pad(self._shifts, (0, room)), np.pad(self._factors, (0, room))


@dataclass(frozen=True, slots=True)
class Slot:
    """One position to sample: the one after the row's history and the `drafted` tokens assumed to follow it."""

    row: RowSampling
    drafted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Draw:
    """What `sample` chose, not yet computed; every array has one entry for each slot.

    `unsure` marks slots whose restrictions could not be followed the short way: their tokens mean nothing, and
    `sample_exactly` must choose them. None when no slot can be. `largest` is each slot's largest logit: where it is no
    finite number the token means nothing. The model gave NaN or infinity, or (minus infinity) every token is ruled out.
    """

    tokens: mx.array
    unsure: mx.array | None
    largest: mx.array

    @property
    def arrays(self) -> list[mx.array]:
        """Everything to be computed."""
        return [self.tokens, self.largest] + ([] if self.unsure is None else [self.unsure])


class _Kind(Enum):
    """How a slot is drawn; slots of one kind are drawn together."""

    GREEDY = "the largest logit"
    PLAIN = "the largest noisy logit, perhaps over a min-p floor"
    NUCLEUS = "of the largest noisy logits the first that is in the nucleus"
    HEAD = "the largest noisy logit of those that floors leave in the head"
    SORTED = "the same, with the whole vocabulary for a head"


def sample(logits: mx.array, slots: Sequence[Slot]) -> Draw:
    """Chooses a token for each slot from `logits` (slots, vocabulary).

    Only slots with a `top_p` can be unsure, or those where more than a hundred tokens tie with the k-th largest; none
    in a vocabulary no larger than `HEAD`.
    """
    return _sample(logits, [_kind(slot.row, logits.shape[-1]) for slot in slots], slots)


def sample_exactly(logits: mx.array, slots: Sequence[Slot]) -> mx.array:
    """The tokens that `sample` would choose if it were never unsure; sorts the vocabulary of every slot."""
    vocabulary = logits.shape[-1]
    kinds = [_kind(slot.row, vocabulary) for slot in slots]
    exact = [_Kind.SORTED if kind in (_Kind.NUCLEUS, _Kind.HEAD) else kind for kind in kinds]
    return _sample(logits, exact, slots).tokens


def adjusted(logits: mx.array, slots: Sequence[Slot]) -> mx.array:
    """`logits` (slots, vocabulary) with each row's bias added and its penalties applied."""
    if not any(slot.row.adjusts_logits for slot in slots):
        return logits
    vocabulary = logits.shape[-1]
    effects = [slot.row.effects(slot.drafted) for slot in slots]
    places = mx.array(np.concatenate([tokens + i * vocabulary for i, (tokens, _, _) in enumerate(effects)]))
    shifts, factors = (mx.array(np.concatenate([effect[which] for effect in effects])) for which in (1, 2))
    if not places.size:
        return logits
    flat = logits.astype(mx.float32).reshape(-1)
    values = flat[places] + shifts
    flat[places] = mx.where(values > 0, values / factors, values * factors)
    return flat.reshape(logits.shape)


def score(logits: mx.array, token: mx.array, top: int) -> tuple[mx.array, ...]:
    """One row's log-probabilities, not yet computed: the chosen token's, then ids and values of the `top` likeliest.

    `logits` (vocabulary,) are the model's own, before bias, penalties and temperature.
    """
    logprobs = logits.astype(mx.float32) - mx.logsumexp(logits.astype(mx.float32))
    if not top:
        return (logprobs[token],)
    best = mx.argpartition(-logprobs, kth=top - 1)[:top]
    return logprobs[token], best, logprobs[best]


def score_tokens(logits: mx.array, tokens: Sequence[int], top: int) -> list[TokenScores]:
    """Of each of `tokens`, given the `logits` (at least as many, vocabulary) that the model had for its place."""
    scores: list[TokenScores] = []
    for start in range(0, len(tokens), SCORED_TOGETHER):
        some = tokens[start : start + SCORED_TOGETHER]
        arrays = [score(logits[start + i], mx.array(token), top) for i, token in enumerate(some)]
        mx.eval(arrays)
        scores += map(read_scores, arrays)
    return scores


def read_scores(arrays: tuple[mx.array, ...]) -> TokenScores:
    """The computed result of `score` as plain numbers."""
    numbers: list[Any] = [array.tolist() for array in arrays]
    chosen, *best = numbers
    pairs = zip(*best, strict=True) if best else ()
    return TokenScores(chosen, tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))))


def _kind(row: RowSampling, vocabulary: int) -> _Kind:
    settings = row.sampling
    if row.is_greedy:
        return _Kind.GREEDY
    if 0 < settings.top_k < vocabulary:
        return _Kind.HEAD if settings.top_k < HEAD else _Kind.SORTED
    if settings.top_p < 1:
        return _Kind.NUCLEUS if settings.top_p >= LARGE_TOP_P and vocabulary > HEAD else _Kind.HEAD
    return _Kind.PLAIN


def _sample(logits: mx.array, kinds: Sequence[_Kind], slots: Sequence[Slot]) -> Draw:
    logits = adjusted(logits, slots)
    order: list[int] = []
    draws: list[Draw] = []
    for kind in _Kind:
        members = [i for i, other in enumerate(kinds) if other is kind]
        if members:
            order += members
            draws.append(_draw(kind, _rows(logits, members), [slots[i] for i in members]))
    back = np.argsort(order).tolist()

    def gathered(arrays: list[mx.array]) -> mx.array:
        return _rows(mx.concatenate(arrays), back)

    unsure = None
    if any(draw.unsure is not None for draw in draws):
        sure = [mx.zeros(draw.tokens.shape, dtype=mx.bool_) for draw in draws]
        unsure = gathered([no if draw.unsure is None else draw.unsure for draw, no in zip(draws, sure, strict=True)])
    tokens = gathered([draw.tokens for draw in draws])
    return Draw(tokens, unsure, gathered([draw.largest for draw in draws]))


def _draw(kind: _Kind, logits: mx.array, slots: Sequence[Slot]) -> Draw:
    """The tokens of slots of one kind. NaN counts as the largest logit."""
    unsure = None
    if kind is _Kind.GREEDY:
        tokens = mx.argmax(logits, axis=-1)
        best = mx.take_along_axis(logits, tokens[:, None], axis=-1)
    elif kind in (_Kind.HEAD, _Kind.SORTED):
        small = all(0 < slot.row.sampling.top_k <= SMALL_HEAD // 2 for slot in slots)
        size = logits.shape[-1] if kind is _Kind.SORTED else SMALL_HEAD if small else HEAD
        tokens, unsure, best = _draw_from_head(logits.astype(mx.float32), slots, size)
    else:
        best = mx.max(logits, axis=-1, keepdims=True).astype(mx.float32)
        scaled = (logits.astype(mx.float32) - best) / _column(slots, "temperature")
        if kind is _Kind.PLAIN:
            tokens = mx.argmax(_noisy(scaled, slots), axis=-1)
        else:
            tokens, unsure = _draw_from_nucleus(scaled, slots)
    return Draw(tokens.astype(mx.uint32), unsure, best[:, 0].astype(mx.float32))


def _draw_from_nucleus(scaled: mx.array, slots: Sequence[Slot]) -> tuple[mx.array, mx.array]:
    """The tokens of slots with a large top-p and perhaps a min-p; unsure are those with no candidate in the nucleus.

    A candidate is outside with a chance of 1 - top-p.
    """
    smallest = min(slot.row.sampling.top_p for slot in slots)
    candidates = max(1, ceil(log(MOST_UNSURE) / log(1 - smallest)))
    _, ids = _head(_noisy(scaled, slots), candidates)
    mass = _exp(scaled)
    if any(slot.row.sampling.min_p > 0 for slot in slots):
        mass = mass * (scaled >= _min_p_floor(slots))
    wanted = _column(slots, "top_p") * mx.sum(mass, axis=-1, keepdims=True)
    values = mx.take_along_axis(scaled, ids[:, :candidates], axis=-1)
    larger = [mx.sum(mass * (scaled > values[:, i : i + 1]), axis=-1, keepdims=True) for i in range(candidates)]
    outside = mx.concatenate(larger, axis=-1) >= wanted
    first = mx.argmin(outside, axis=-1, keepdims=True)
    return mx.take_along_axis(ids, first, axis=-1)[:, 0], mx.all(outside, axis=-1)


def _draw_from_head(logits: mx.array, slots: Sequence[Slot], size: int) -> tuple[mx.array, mx.array | None, mx.array]:
    """The tokens of slots with a top-k or a small top-p, which are unsure, and the largest logits (slots, 1).

    Unsure are those whose floor is not above the head's end.
    """
    head, ids = _head(logits, size)
    whole = head.shape[-1] == logits.shape[-1]
    best, temperature = head[:, :1], _column(slots, "temperature")
    head = (head - best) / temperature
    limits = (slot.row.sampling.top_k for slot in slots)
    top_k = [k if k < logits.shape[-1] else 0 for k in limits]
    floor = mx.maximum(_min_p_floor(slots), _top_k_floor(head, top_k))
    if any(slot.row.sampling.top_p < 1 for slot in slots):
        mass = mx.where(head >= floor, _exp(head), 0.0)
        mass_up_to = mx.cumsum(mass, axis=-1)
        total = mass_up_to[:, -1:]
        endless = [i for i, k in enumerate(top_k) if k == 0]
        if endless and not whole:
            scaled = (_rows(logits, endless) - _rows(best, endless)) / _rows(temperature, endless)
            left = _exp(scaled) * (scaled >= _rows(floor, endless))
            total[mx.array(endless)] = mx.sum(left, axis=-1, keepdims=True)
        floor = mx.maximum(floor, _top_p_floor(head, mass_up_to - mass, total, slots))

    noisy = head + _gumbel_noise(ids, mx.array(_noise_keys(slots)), mx)
    picked = mx.argmax(mx.where(head >= floor, noisy, -mx.inf), axis=-1, keepdims=True)
    tokens = mx.take_along_axis(ids, picked, axis=-1)[:, 0]
    # If even the smallest of the head is ruled out (by a grammar, say), so is everything below it.
    edge = head[:, -1:]
    return tokens, None if whole else ((floor <= edge) & (edge > -mx.inf))[:, 0], best


def _noisy(scaled: mx.array, slots: Sequence[Slot]) -> mx.array:
    """`scaled` with every token's noise added, and nothing left under a min-p floor."""
    tokens = np.arange(scaled.shape[-1], dtype=np.uint32)[None]
    # Slot by slot, which keeps the work in the processor's cache: half the time.
    noise = [_gumbel_noise(tokens, keys[None], np) for keys in _noise_keys(slots)]
    noisy = scaled + mx.array(np.concatenate(noise))
    if any(slot.row.sampling.min_p > 0 for slot in slots):
        noisy = mx.where(scaled >= _min_p_floor(slots), noisy, -mx.inf)
    return noisy


def _min_p_floor(slots: Sequence[Slot]) -> mx.array:
    """(slots, 1) under scaled logits, the largest of which is 0."""
    settings = (slot.row.sampling for slot in slots)
    return mx.array([[log(each.min_p) if each.min_p > 0 else -inf] for each in settings])


def _top_k_floor(head: mx.array, top_k: Sequence[int]) -> mx.array:
    """(slots, 1) under the ordered `head`, which holds at least each slot's k logits; k is 0 for no limit."""
    kth = mx.take_along_axis(head, mx.array([[max(k, 1) - 1] for k in top_k]), axis=-1)
    return mx.where(mx.array([[k > 0] for k in top_k]), kth, -mx.inf)


def _top_p_floor(head: mx.array, mass_before: mx.array, total: mx.array, slots: Sequence[Slot]) -> mx.array:
    """(slots, 1) under the smallest set that holds top-p of the `total` mass, at least the likeliest token."""
    share = mx.array([[slot.row.sampling.top_p if slot.row.sampling.top_p < 1 else inf] for slot in slots])
    held = mx.sum(mass_before < share * total, axis=-1, keepdims=True)
    return mx.take_along_axis(head, mx.maximum(held, 1) - 1, axis=-1)


def _head(logits: mx.array, size: int) -> tuple[mx.array, mx.array]:
    """The `size` largest logits of each slot, or all of a small vocabulary, largest first, and their tokens.

    The largest logits lie in the groups of the largest maxima, as many groups as logits are wanted. Finding those
    and looking in them alone takes a half (1,024 logits) to a fifth (256) of the time of `mx.argpartition`. NaN counts
    as the largest.
    """
    slots, vocabulary = logits.shape
    if vocabulary <= size * GROUP:
        ids = mx.argsort(logits, axis=-1)[:, ::-1]
        return mx.take_along_axis(logits, ids, axis=-1), ids
    groups = -(-vocabulary // GROUP)
    if groups * GROUP > vocabulary:
        logits = mx.pad(logits, [(0, 0), (0, groups * GROUP - vocabulary)], constant_values=-inf)
    # Token t is in group t % groups.
    maxima = mx.max(logits.reshape(slots, GROUP, groups), axis=1)
    best_groups = mx.argpartition(maxima, groups - size, axis=-1)[:, None, groups - size :]
    ids = (best_groups + mx.arange(GROUP, dtype=mx.uint32)[:, None] * groups).reshape(slots, GROUP * size)
    values = mx.take_along_axis(logits, ids, axis=-1)
    largest = mx.argpartition(values, GROUP * size - size, axis=-1)[:, GROUP * size - size :]
    values, ids = mx.take_along_axis(values, largest, axis=-1), mx.take_along_axis(ids, largest, axis=-1)
    order = mx.argsort(values, axis=-1)[:, ::-1]
    ids = mx.minimum(mx.take_along_axis(ids, order, axis=-1), vocabulary - 1)  # padding comes last, but may come
    return mx.take_along_axis(values, order, axis=-1), ids


def _noise_keys(slots: Sequence[Slot]) -> NDArray[np.uint32]:
    return np.stack([slot.row.noise_keys(len(slot.drafted)) for slot in slots])


def _gumbel_noise(tokens: Bits, keys: Bits, library: Any) -> Any:
    """Float32 Gumbel noise of `tokens` (slots, n), from each slot's `keys` (slots, 2).

    Made by `library`: mlx for the few tokens of heads; numpy for all tokens, for which mlx takes four times as long
    on a CPU and which does not have to wait for the forward pass. Two keyed rounds of murmur3's finaliser, which is
    a bijection: no two tokens of a slot share their bits. The 23 bits kept, plus a half, are exact in float32 and
    never 0 or 1.
    """
    bits = _mixed(_mixed(tokens ^ keys[:, :1]) + keys[:, 1:])
    uniform = (bits >> 9).astype(library.float32)
    uniform += 0.5
    uniform *= 2.0**-23
    return -library.log(-library.log(uniform))


def _mixed(bits: Any) -> Any:
    bits = bits ^ (bits >> 16)
    bits *= 0x85EBCA6B
    bits ^= bits >> 13
    bits *= 0xC2B2AE35
    bits ^= bits >> 16
    return bits


def _exp(values: mx.array) -> mx.array:
    """On the CPU back end `mx.exp` takes twice as long."""
    return mx.power(2.0, values * LOG2_E)


def _column(slots: Sequence[Slot], setting: str) -> mx.array:
    return mx.array([[float(getattr(slot.row.sampling, setting))] for slot in slots])


def _rows(array: mx.array, indices: Sequence[int]) -> mx.array:
    """The rows of `array` in the order of `indices`, without a copy if these are all, in order."""
    return array if list(indices) == list(range(array.shape[0])) else array[mx.array(list(indices))]
