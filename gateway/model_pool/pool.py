"""The models this server offers. Belongs to the event loop.

All that are configured are loaded at start.
"""

import asyncio

from gateway.config import Config
from gateway.engine.mlx_thread import MlxThread
from gateway.engine.process_memory import ProcessMemory
from gateway.errors import ConfigError, InvalidRequest, ModelNotFound, ShuttingDown
from gateway.hardware.blas import Blas
from gateway.model_pool.resident_model import ModelState, ResidentModel
from gateway.model_pool.served_model import EncoderModel, TextModel
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
        """Raises `ModelStoreError` when a configured source can be no model, `ConfigError` for two of one name."""
        self._models: dict[str, ResidentModel] = {}
        for offered in config.offered_models:
            model_id = offered.id or read_source(offered.source).model_id
            if model_id in self._models:
                raise ConfigError(f"Two models are called {model_id!r}. Give one of them another `id` in the file.")
            model = ResidentModel(model_id, offered, config, store, thread, memory, prefixes, blas, metrics)
            self._models[model_id] = model
        self._loads: list[asyncio.Task[None]] = []
        self._draining = False

    @property
    def ready(self) -> bool:
        """Every model can serve, though an evicted one must be loaded first."""
        able = (ModelState.READY, ModelState.ON_DISK)
        return not self._draining and all(m.state in able for m in self._models.values())

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

        Raises `ModelNotFound`, `ShuttingDown`, `InvalidRequest` for a model that generates no text, or why the model
        cannot serve.
        """
        model = await self._decided(model_id)
        if isinstance(model, TextModel):
            return model
        raise InvalidRequest(f"{model_id} generates no text: it is for {model.purpose}.", "model")

    async def encoder_model(self, model_id: str) -> EncoderModel:
        """As `text_model`, of a model that embeds or ranks texts."""
        model = await self._decided(model_id)
        if isinstance(model, EncoderModel):
            return model
        encoders = [known.model_id for known in self._models.values() if known.purpose != TextModel.purpose]
        known = f"Those that have: {', '.join(encoders)}." if encoders else "No model of this server has any."
        raise InvalidRequest(f"{model_id} generates text and has no embeddings. {known}", "model")

    async def _decided(self, model_id: str) -> TextModel | EncoderModel:
        if self._draining:
            raise ShuttingDown
        return await self.find(model_id).serving()

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
