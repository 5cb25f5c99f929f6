"""The models this server offers. Belongs to the event loop.

At present it holds the one configured model, loaded at start.
"""

import asyncio

from gateway.config import Config
from gateway.engine.mlx_thread import MlxThread
from gateway.engine.process_memory import ProcessMemory
from gateway.errors import ModelNotFound, ShuttingDown
from gateway.hardware.blas import Blas
from gateway.model_pool.resident_model import ModelState, ResidentModel, TextModel
from gateway.model_store.sources import read_source
from gateway.model_store.store import ModelStore
from gateway.observability.metrics import Metrics
from gateway.prefix_cache.prefix_caches import PrefixCaches


class ModelPool:
    """Finds models by the ids that clients use."""

    def __init__(
        self,
        config: Config,
        store: ModelStore,
        thread: MlxThread,
        memory: ProcessMemory,
        prefixes: PrefixCaches,
        blas: Blas,
        metrics: Metrics,
    ) -> None:
        """Raises `ModelStoreError` when the configured source can be no model."""
        model_id = config.model.id or read_source(config.model.source).model_id
        model = ResidentModel(model_id, config, store, thread, memory, prefixes, blas, metrics)
        self._models = {model_id: model}
        self._loads: list[asyncio.Task[None]] = []
        self._draining = False

    @property
    def ready(self) -> bool:
        """Every model can serve."""
        return not self._draining and all(m.state is ModelState.READY for m in self._models.values())

    @property
    def models(self) -> list[ResidentModel]:
        return list(self._models.values())

    def start(self) -> None:
        """Begins to load."""
        self._loads = [asyncio.create_task(model.run()) for model in self._models.values()]

    def find(self, model_id: str) -> ResidentModel:
        """Raises `ModelNotFound` with the known ids."""
        try:
            return self._models[model_id]
        except KeyError:
            raise ModelNotFound(model_id, sorted(self._models)) from None

    async def text_model(self, model_id: str) -> TextModel:
        """The model, as soon as requests to it can be understood and queued.

        Raises `ModelNotFound`, `ShuttingDown`, or why the model cannot serve.
        """
        if self._draining:
            raise ShuttingDown
        return await self.find(model_id).text_model()

    def refuse_requests(self) -> None:
        """From now on only the requests that are running go on."""
        self._draining = True

    def shut_down(self) -> None:
        """Ends all requests and refuses new ones."""
        self._draining = True
        for load in self._loads:
            load.cancel()
        for model in self._models.values():
            model.shut_down(ShuttingDown())
