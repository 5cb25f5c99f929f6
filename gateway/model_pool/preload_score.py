"""How often a model that was loaded ahead was wanted. Belongs to the event loop."""

from dataclasses import dataclass, field

from gateway.model_pool.preload import HORIZON


@dataclass(slots=True)
class PreloadScore:
    """Times are Unix seconds. A model that is wanted within `HORIZON` of its preload is a hit, else a miss."""

    hits: int = 0
    misses: int = 0
    _until: dict[str, float] = field(default_factory=dict)

    @property
    def hit_rate(self) -> float | None:
        """None before anything can be said."""
        decided = self.hits + self.misses
        return self.hits / decided if decided else None

    def loaded_ahead(self, model_id: str, when: float) -> None:
        self._until.setdefault(model_id, when + HORIZON.total_seconds())

    def used(self, model_id: str, when: float) -> None:
        """A request came for the model."""
        self.look(when)
        if self._until.pop(model_id, None) is not None:
            self.hits += 1

    def evicted(self, model_id: str) -> None:
        """Before anybody wanted it."""
        if self._until.pop(model_id, None) is not None:
            self.misses += 1

    def look(self, now: float) -> None:
        """Counts what nobody wanted in time."""
        for model_id in [known for known, until in self._until.items() if until < now]:
            del self._until[model_id]
            self.misses += 1
