"""What `Batch` adds to mlx-lm's generator."""

from typing import Any

from gateway.generation.request import Sampling


class CountingModel:
    """Notes the shape of each forward pass's input."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.shapes: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, inputs: Any, cache: Any) -> Any:
        self.shapes.append(inputs.shape)
        return self._model(inputs, cache=cache)


def test_a_chunk_is_shared_by_the_prompts_that_wait(tiny_model: Any) -> None:
    """Alone a prompt gets the whole chunk, beside others its part, and never fewer than the smallest chunk."""
    from gateway.engine.batch import SMALLEST_CHUNK_TOKENS, Batch
    from gateway.engine.sampling import RowSampling

    for prompts, expected in ((1, 128), (2, 64), (8, SMALLEST_CHUNK_TOKENS)):
        model = CountingModel(tiny_model.model)
        batch = Batch(model, max_rows=8, prefill_chunk_tokens=128)
        for _ in range(prompts):
            sampling = RowSampling(Sampling(temperature=0), 1, [1], tiny_model.vocabulary, None)
            batch.insert(list(range(20, 320)), 2, frozenset(), sampling)
        batch.step()
        assert model.shapes == [(prompts, expected)]
        batch.close()
