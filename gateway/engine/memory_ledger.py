"""Who holds how much of the memory budget, and whether a request would still fit. Plain arithmetic, no mlx.

Belongs to the MLX thread. Bytes that are promised count like bytes that are used: what was admitted can always run to
its end.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import RequestTooLarge
from gateway.prefix_cache.prefix_caches import OWNER as PREFIX_CACHE

if TYPE_CHECKING:  # it imports mlx
    from gateway.engine.kv_layout import KvLayout

DECAY = 255 / 256
"""Of a learned maximum at every pass of its size that needs less: halved after 177 of them."""

FIRST_GUESS_SHARE = 20
"""Before any pass was seen, its work space is taken as one part in this many of the budget."""


class WorkSpace:
    """What passes need for a moment, beyond the weights and caches: learned from peaks, per size of the pass.

    A decaying maximum for each (tokens, context), both rounded up to powers of two. Work space grows at most
    linearly with each (measured: SmolLM2-135M in float32 on the CPU; attention scores are tokens x context), so a
    longer context than was seen is extrapolated. More tokens than were seen are not: `first_guess_bytes` stands for
    them, unless less has needed more.
    """

    def __init__(self, first_guess_bytes: int) -> None:
        self._first_guess_bytes = first_guess_bytes
        self._most: dict[tuple[int, int], float] = {}

    def observe(self, tokens: int, context: int, needed_bytes: int) -> None:
        """A pass of `tokens` in all rows together, the longest of which then had `context` tokens."""
        size = _power_of_two(tokens), _power_of_two(context)
        # as much as a pass that fills this size would have needed
        needed = needed_bytes * (size[0] / max(1, tokens)) * (size[1] / max(1, context))
        self._most[size] = max(needed, self._most.get(size, 0) * DECAY)

    def bytes_for(self, tokens: int, context: int) -> int:
        """Enough for any pass of at most `tokens` at a context of at most `context`."""
        wanted = _power_of_two(tokens), _power_of_two(context)
        seen = self._most.items()
        least = max((most for size, most in seen if size[0] <= wanted[0] and size[1] <= wanted[1]), default=0)
        enough = (most * max(1, wanted[1] / size[1]) for size, most in seen if size[0] >= wanted[0])
        return round(max(least, min(enough, default=self._first_guess_bytes)))


class MemoryLedger:
    """The budget of the process. Owners are named by whoever holds: weights, caches, prefix cache.

    `lasting` holds (weights) stay; others end by themselves or can be given up.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._passing: dict[str, int] = {}
        self._lasting: dict[str, int] = {}
        self._work_spaces: dict[str, int] = {}
        self._give_up: dict[str, Callable[[int], None]] = {}

    @property
    def work_space_bytes(self) -> int:
        """Of whichever model needs most: one pass runs at a time."""
        return max(self._work_spaces.values(), default=0)

    @property
    def free_bytes(self) -> int:
        """Negative when facts (weights, a work space larger than expected) have overrun the budget."""
        return self.budget_bytes - self.lasting_bytes - self.passing_bytes - self.work_space_bytes

    @property
    def lasting_bytes(self) -> int:
        """All models' weights."""
        return sum(self._lasting.values())

    @property
    def passing_bytes(self) -> int:
        return sum(self._passing.values())

    @property
    def yielding_bytes(self) -> int:
        """What those hold who give it up when others need it."""
        return sum(map(self.held_by, self._give_up))

    def held_by(self, owner: str) -> int:
        return self._lasting.get(owner, 0) + self._passing.get(owner, 0)

    def hold(self, owner: str, held_bytes: int, *, lasting: bool = False) -> None:
        """What `owner` holds from now on, all told. A statement, not a question: it is not refused."""
        self.release(owner)
        (self._lasting if lasting else self._passing)[owner] = held_bytes

    def release(self, owner: str) -> None:
        self._lasting.pop(owner, None)
        self._passing.pop(owner, None)

    def set_work_space(self, model: str, needed_bytes: int) -> None:
        """0 when the model has gone."""
        self._work_spaces[model] = needed_bytes

    def shortfall_bytes(self, owner: str, wanted_bytes: int, work_space_bytes: int = 0) -> int:
        """How much others would have to give up for `owner` to hold `wanted_bytes` in place of what it holds.

        `work_space_bytes` is what passes would need then.
        """
        extra_work = max(0, work_space_bytes - self.work_space_bytes)
        return max(0, wanted_bytes - self.held_by(owner) + extra_work - self.free_bytes)

    def let_give_up(self, owner: str, give_up: Callable[[int], None]) -> None:
        """From now on `owner` is asked to hold so many bytes less when others need them; it says what it holds then."""
        self._give_up[owner] = give_up

    def fits_now(self, owner: str, wanted_bytes: int, work_space_bytes: int = 0) -> bool:
        """Whether `owner` may hold so much. Those who can give something up are asked to, if that is enough."""
        lacking = self.shortfall_bytes(owner, wanted_bytes, work_space_bytes)
        if 0 < lacking <= self.yielding_bytes:
            for give_up in self._give_up.values():
                give_up(self.shortfall_bytes(owner, wanted_bytes, work_space_bytes))
            lacking = self.shortfall_bytes(owner, wanted_bytes, work_space_bytes)
        return lacking == 0

    def most_bytes(self, work_space_bytes: int, beside: str | None = None) -> int:
        """What one owner could have beside this work space if all that does not last had gone: and if all weights had
        but those of `beside`, where that is given."""
        lasting = self.lasting_bytes if beside is None else self._lasting.get(beside, 0)
        return self.budget_bytes - lasting - work_space_bytes

    def all_of(self, *owners: str) -> bool:
        """Whether nobody else holds anything that is not given up when asked."""
        others = {*self._lasting, *self._passing} - {*owners, *self._give_up}
        return not any(map(self.held_by, others))


def weights_owner(model_id: str) -> str:
    """Who holds a model's weights in the ledger."""
    return f"weights of {model_id}"


class ModelMemory:
    """One model's part of the ledger, in the generation loop's terms: rows, tokens and passes.

    `pass_tokens` is the most that one pass computes, all rows together. `rows` always counts rows whose prompts are
    still computed, `longest` is prompt + max_tokens of the longest row (and drafts computed beyond it), and `prompts`
    what `KvLayout.needed_bytes` says. A buffer that is larger than its rows need counts as it is: pass its shape.
    """

    def __init__(
        self, ledger: MemoryLedger, model_id: str, layout: "KvLayout", weight_bytes: int, pass_tokens: int
    ) -> None:
        self._ledger = ledger
        self._weights = weights_owner(model_id)
        self._caches = f"caches of {model_id}"
        self._layout = layout
        self._pass_tokens = pass_tokens
        self._work_space = WorkSpace(ledger.budget_bytes // FIRST_GUESS_SHARE)
        self._longest = 0
        ledger.hold(self._weights, weight_bytes, lasting=True)

    def fits_now(self, rows: int, longest: int, prompts: Iterable[int] = ()) -> bool:
        """Whether the whole batch may become this: what it is now is replaced."""
        wanted = self._layout.needed_bytes(rows, longest, prompts)
        return self._ledger.fits_now(self._caches, wanted, self._work_bytes(longest))

    def hold(self, rows: int, longest: int, prompts: Iterable[int] = ()) -> None:
        """The whole batch is this now; call it when rows are admitted, join or leave."""
        self._longest = longest if rows else 0
        self._ledger.hold(self._caches, self._layout.needed_bytes(rows, longest, prompts))
        self._ledger.set_work_space(self._caches, self._work_bytes(self._longest))

    @property
    def is_alone(self) -> bool:
        """No other model holds memory: nobody could make more room."""
        return self._ledger.all_of(self._weights, self._caches)

    def wanted_bytes(self, rows: int, longest: int, prompts: Iterable[int] = ()) -> int:
        """What must be free for the whole batch to become this, beside what it holds now."""
        wanted = self._layout.needed_bytes(rows, longest, prompts) - self._ledger.held_by(self._caches)
        return wanted + max(0, self._work_bytes(longest) - self._ledger.work_space_bytes)

    @property
    def admission(self) -> "Admission":
        """What a request must fit if it were alone in memory with its model, as it is known now."""
        return Admission(
            self._layout, self._ledger.most_bytes(work_space_bytes=0, beside=self._weights), self._work_bytes
        )

    def owners(self) -> dict[str, int]:
        """Bytes by owner, of all models together, for metrics."""
        prefixes = self._ledger.held_by(PREFIX_CACHE)
        return {
            "budget": self._ledger.budget_bytes,
            "weights": self._ledger.lasting_bytes,
            "kv_cache": self._ledger.passing_bytes - prefixes,
            PREFIX_CACHE: prefixes,
            "work_space": self._ledger.work_space_bytes,
            "free": max(0, self._ledger.free_bytes),
        }

    def observe_pass(
        self, tokens: int, context: int, peak_bytes: int, active_bytes_before: int, cache_bytes_grown: int
    ) -> None:
        """Learns from a pass: `peak_bytes` since before it, and what its caches hold more by their shapes."""
        self._work_space.observe(tokens, context, max(0, peak_bytes - active_bytes_before - max(0, cache_bytes_grown)))
        self._ledger.set_work_space(self._caches, self._work_bytes(self._longest))

    def release(self) -> None:
        """The model has gone."""
        self._ledger.release(self._weights)
        self._ledger.release(self._caches)
        self._ledger.set_work_space(self._caches, 0)

    def _work_bytes(self, longest: int) -> int:
        return self._work_space.bytes_for(self._pass_tokens, longest)


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a request can ever be served. `available_bytes` are for caches and work space together."""

    layout: "KvLayout"
    available_bytes: int
    work_bytes: Callable[[int], int]  # by tokens of the longest row

    def fits(self, prompt_tokens: int, max_tokens: int, choices: int) -> bool:
        """Whether a request would fit if it were alone."""
        return self._needed_bytes(prompt_tokens, max_tokens, choices) <= self.available_bytes

    def check(
        self,
        prompt_tokens: int,
        max_tokens: int,
        choices: int,
        prompt_field: str = "messages",
        answer_field: str = "max_tokens",
    ) -> None:
        """Raises `RequestTooLarge` for a request that would not fit if it were alone.

        `prompt_field` is what the client calls the prompt, `answer_field` the length of an answer.
        """
        if not self.fits(prompt_tokens, max_tokens, choices):
            longest = prompt_tokens + max_tokens
            needed = self._needed_bytes(prompt_tokens, max_tokens, choices)
            fitting = self.layout.tokens_that_fit(
                self.available_bytes, choices, at_most=longest, beside=self.work_bytes
            )
            raise RequestTooLarge(
                prompt_tokens, max_tokens, choices, needed, self.available_bytes, fitting, prompt_field, answer_field
            )

    def _needed_bytes(self, prompt_tokens: int, max_tokens: int, choices: int) -> int:
        longest = prompt_tokens + max_tokens
        return self.layout.needed_bytes(choices, longest, [prompt_tokens]) + self.work_bytes(longest)

    def with_fixed_work_space(self, longest: int) -> "Admission":
        """A copy that other threads may use: what is learned later does not show in it."""
        work_bytes = self.work_bytes(longest)
        return Admission(self.layout, self.available_bytes, lambda _: work_bytes)


def _power_of_two(count: int) -> int:
    """The smallest that is not less."""
    return 1 << max(0, count - 1).bit_length()
