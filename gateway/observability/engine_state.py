"""What an engine tells of itself after every step, for metrics."""

from dataclasses import dataclass, field

from gateway.generation.request import Priority


@dataclass(frozen=True, slots=True)
class PrefixUse:
    """What is kept of all models' prompts and answers; counts are since the process began."""

    ram_bytes: int = 0
    ram_limit_bytes: int = 0
    ram_evicted: int = 0
    disk_bytes: int = 0
    disk_limit_bytes: int = 0
    disk_evicted: int = 0
    disk_written: int = 0
    disk_dropped: int = 0
    disk_read_seconds: float = 0.0
    disk_write_seconds: float = 0.0
    removed_files: dict[str, int] = field(default_factory=dict)


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
    prefixes: PrefixUse = PrefixUse()

    @property
    def waiting_rows(self) -> int:
        return sum(self.waiting.values())
