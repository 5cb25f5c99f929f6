"""What a request could take from the prefix cache, and where that ended. Plain values, no mlx."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a prompt left what had been kept: some token ids before that place, and what follows on either side.

    `own`: what was kept there is of the same session.
    """

    before: tuple[int, ...]
    prompt: tuple[int, ...]
    kept: tuple[int, ...]
    own: bool


@dataclass(frozen=True, slots=True)
class Reuse:
    """Of a prompt's `prompt_tokens`, how many were taken: from memory, from disk, and from a prompt that was computed
    meanwhile for somebody else.

    `matched` tokens are those that were known, of which not all can always be used. `evicted`: what follows them had
    been kept once. `empty`: nothing was kept of this model. `previous` are the tokens of the session's last request
    with its answer, None if there was none.
    """

    prompt_tokens: int
    ram: int = 0
    disk: int = 0
    shared: int = 0
    matched: int = 0
    divergence: Divergence | None = None
    evicted: bool = False
    empty: bool = False
    previous: int | None = None

    @property
    def tokens(self) -> int:
        return self.ram + self.disk + self.shared
