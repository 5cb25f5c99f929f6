"""What an engine tells of itself after every step, for metrics."""

from dataclasses import dataclass, field

from gateway.generation.request import Priority


@dataclass(frozen=True, slots=True)
class EngineState:
    """`running` and `waiting` count rows (choices); totals are since the engine was built.

    A forward pass is expected to take `fixed_seconds`, `seconds_per_token` for each of its tokens, and
    `seconds_per_attended` for each pair of a token and one before it. `memory` is bytes by owner.
    """

    running: int = 0
    waiting: dict[Priority, int] = field(default_factory=dict)
    decode_seconds: float = 0.0
    fixed_seconds: float = 0.0
    seconds_per_token: float = 0.0
    seconds_per_attended: float = 0.0
    chunk_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preempted: int = 0
    memory: dict[str, int] = field(default_factory=dict)

    @property
    def waiting_rows(self) -> int:
        return sum(self.waiting.values())
