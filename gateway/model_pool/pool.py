"""The models this server offers. Belongs to the event loop."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import msgspec

from gateway.config import CHANGEABLE, Config, ModelConfig
from gateway.errors import ConfigError, InvalidRequest, ModelNotFound, ModelReplaced, ShuttingDown
from gateway.generation.adapter import BASE, adapter_id
from gateway.model_pool.background import in_background
from gateway.model_pool.lease import Lease
from gateway.model_pool.model_adapters import ModelAdapters
from gateway.model_pool.model_progress import ModelState
from gateway.model_pool.preloading import Preloading
from gateway.model_pool.preparation import Workshop
from gateway.model_pool.residency import Residency
from gateway.model_pool.residency_record import ResidencyRecord
from gateway.model_pool.resident_model import ResidentModel
from gateway.model_pool.served_model import EncoderModel, TextModel
from gateway.model_pool.upstream_model import UpstreamModel
from gateway.observability.metrics import Metrics
from gateway.observability.pool_events import PoolEvents

log = logging.getLogger(__name__)

DISCOVER_SECONDS = 1.0

REMEMBER_SECONDS = 60.0
"""How often it is noted which models were used, though nothing else about them changes."""


class ModelPool:
    """Finds models by the ids that clients use, and leases them."""

    def __init__(self, config: Config, workshop: Workshop, metrics: Metrics, events: PoolEvents) -> None:
        """Raises `ModelStoreError` when a configured source can be no model, `ConfigError` for two of one name."""
        self._config = config
        self._workshop = workshop
        self._metrics = metrics
        self._events = events
        self._models: dict[str, ResidentModel | UpstreamModel] = {}
        self._names: dict[str, tuple[str, str]] = {}  # of models and adapters, aliases too: what is meant
        self.residency = Residency(workshop.thread, workshop.memory, config.pool, config.engine.max_waiting)
        self._record = ResidencyRecord(config.store_directory) if config.pool.restore else None
        wish = self.residency.wish
        self._preloading = Preloading(config.store_directory, metrics, wish) if config.pool.preload else None
        self._draining = False
        self._remembered_at = -math.inf
        self._discovering: asyncio.Task[None] | None = None
        self._discovered_at = -math.inf
        self._tasks: list[asyncio.Task[None]] = []
        for offered in config.offered_models:
            self._add(offered)

    def _add(self, offered: ModelConfig) -> None:
        model_id = offered.id or self._workshop.store.model_id_of(offered.source)
        adapters = ModelAdapters(model_id, offered.adapters)
        for name in (model_id, *offered.aliases):
            for adapter in (BASE, *adapters.names):
                own = adapter_id(name, adapter)
                if own in self._names:
                    raise ConfigError(f"Two models are called {own!r}. Give one of them another `id` in the file.")
                self._names[own] = model_id, adapter
        if offered.upstreams:
            limit = self._config.engine.max_waiting
            self._models[model_id] = UpstreamModel(model_id, offered, limit, self._metrics)
            return
        remembered = self._record.of(model_id) if self._record else None
        options = remembered.options_over(offered) if remembered else offered
        model = ResidentModel(
            model_id, offered, options, adapters, self._workshop, self._metrics, self._events, self._changed
        )
        if remembered:
            model.loaded_bytes, model.load_seconds = remembered.weight_bytes, remembered.load_seconds
        self._models[model_id] = model

    @property
    def ready(self) -> bool:
        """Every model can serve, though one that is not in memory must be loaded first; servers elsewhere may be up or
        down."""
        able = (ModelState.READY, ModelState.ON_DISK, ModelState.LOADING, ModelState.EVICTING)
        here = all(m.state in able and not self.residency.is_wished(m) for m in self.models_here)
        return (
            not self._draining and self.residency.works and here and all(model.asked for model in self.upstream_models)
        )

    @property
    def models(self) -> Sequence[ResidentModel | UpstreamModel]:
        return list(self._models.values())

    @property
    def models_here(self) -> list[ResidentModel]:
        """Those that run in this process."""
        return [model for model in self._models.values() if isinstance(model, ResidentModel)]

    @property
    def upstream_models(self) -> list[UpstreamModel]:
        """Those that run on other servers."""
        return [model for model in self._models.values() if isinstance(model, UpstreamModel)]

    def start(self) -> None:
        """Begins to look for files and to load: what was in memory when the server ended, most wanted first, and
        what is new and is to be loaded at start."""
        self._tasks = [asyncio.create_task(self.residency.run())]
        self._tasks += [asyncio.create_task(model.run()) for model in self.upstream_models]
        for model in self._in_order_of_want():
            self.residency.wish(model)
        for model in self.models_here:
            model.start()
        self._tasks.append(asyncio.create_task(self.discover()))
        if self._preloading:
            self._tasks.append(asyncio.create_task(self._preloading.run(lambda: self.models_here)))

    def _in_order_of_want(self) -> list[ResidentModel]:
        here = {model.model_id: model for model in self.models_here}
        known = self._record.most_wanted_first() if self._record else []
        back = [here[entry.model_id] for entry in known if entry.resident and entry.model_id in here]
        new = [
            model
            for model in here.values()
            if model.options.load == "start" and not (self._record and self._record.of(model.model_id))
        ]
        pinned = [model for model in here.values() if model.options.pinned]
        return list(dict.fromkeys([*pinned, *back, *new]))

    async def discover(self, *, unknown: bool = False) -> None:
        """Offers what the store holds by now beside what is configured; it is loaded when it is asked for.

        A look that is not a second old need not be taken again, unless for an `unknown` id: that waits for a new one.
        """
        fresh = time.monotonic() - self._discovered_at < DISCOVER_SECONDS
        if not self._config.pool.serve_stored or (fresh and not unknown):
            return
        if self._discovering is None or self._discovering.done():
            self._discovering = asyncio.create_task(self._discover())
        await asyncio.shield(self._discovering)

    async def _discover(self) -> None:
        """At most once a second: any client can ask for what there is not."""
        await asyncio.sleep(self._discovered_at + DISCOVER_SECONDS - time.monotonic())
        stored = await in_background(self._workshop.store.list_models, "model-store")
        self._discovered_at = time.monotonic()
        for found in stored:
            if found.model_id not in self._names:
                log.info("%s is in the store, and offered", found.model_id)
                self._add(ModelConfig(source=found.model_id, id=found.model_id, load="demand"))
                model = self.find_here(found.model_id)
                remembered = self._record.of(found.model_id) if self._record else None
                if model.options.pinned or (remembered and remembered.resident):
                    self.residency.wish(model)
                model.start()

    @property
    def offers(self) -> list[tuple[ResidentModel | UpstreamModel, str]]:
        """Every model as it is, and with each of its adapters."""
        return [
            (model, adapter)
            for model in self.models
            for adapter in (BASE, *(model.adapters.names if isinstance(model, ResidentModel) else ()))
        ]

    def find(self, model_id: str) -> ResidentModel | UpstreamModel:
        """The model, also by the id of one of its adapters. Raises `ModelNotFound` with the known ids."""
        return self.find_offer(model_id)[0]

    def find_offer(self, model_id: str) -> tuple[ResidentModel | UpstreamModel, str]:
        """A model, and which of its adapters is meant. Raises `ModelNotFound` with the known ids."""
        try:
            base_id, adapter = self._names[model_id]
        except KeyError:
            known = sorted(adapter_id(model.model_id, adapter) for model, adapter in self.offers)
            raise ModelNotFound(model_id, known) from None
        return self._models[base_id], adapter

    def find_here(self, model_id: str) -> ResidentModel:
        """As `find`, of a model that runs in this process. Raises `InvalidRequest` for one that does not."""
        model = self.find(model_id)
        if isinstance(model, UpstreamModel):
            raise InvalidRequest(
                f"{model_id} runs on other servers, which are reached by OpenAI's and Anthropic's paths only: "
                "/v1/chat/completions, /v1/completions, /v1/responses, /v1/messages, /v1/embeddings, /v1/rerank.",
                "model",
            )
        return model

    def upstream_model(self, model_id: str) -> UpstreamModel | None:
        """The model if it runs on other servers. Raises `ShuttingDown`."""
        model = self._models.get(self._names.get(model_id, ("", BASE))[0])
        if not isinstance(model, UpstreamModel):
            return None
        if self._draining:
            raise ShuttingDown
        return model

    async def text_model(self, model_id: str) -> TextModel:
        """The model, as soon as requests to it can be understood; take a lease to have them computed.

        Raises `ModelNotFound`, `ShuttingDown`, `InvalidRequest` for a model that generates no text, or why the model
        cannot serve.
        """
        model = await self._understood(model_id)
        if isinstance(model, TextModel):
            return replace(model, adapter=self.find_offer(model_id)[1])
        raise InvalidRequest(f"{model_id} generates no text: it is for {model.purpose}.", "model")

    async def encoder_model(self, model_id: str) -> EncoderModel:
        """As `text_model`, of a model that embeds or ranks texts."""
        model = await self._understood(model_id)
        if isinstance(model, EncoderModel):
            return model
        encoders = [known.model_id for known in self._models.values() if known.purpose != TextModel.purpose]
        known = f"Those that have: {', '.join(encoders)}." if encoders else "No model of this server has any."
        raise InvalidRequest(f"{model_id} generates text and has no embeddings. {known}", "model")

    def lease(self, model_id: str) -> Lease:
        """Wait for it, then the model computes what it is given until the lease is given back."""
        if self._draining:
            raise ShuttingDown
        model = self.find_here(model_id)
        lease = self.residency.ask(model)
        if self._preloading:
            self._preloading.used(model)
        if time.monotonic() - self._remembered_at > REMEMBER_SECONDS:
            self._remember()
        return lease

    async def news(self, model_id: str) -> AsyncIterator[str]:
        """What a request to the model waits for until it can be understood. An unknown id has none."""
        if model_id in self._names and isinstance(model := self.find(model_id), ResidentModel):
            async for words in model.news():
                yield words

    def check_same(self, model_id: str, model: TextModel | EncoderModel) -> None:
        """Raises `ModelReplaced` if the model has come of other files since `model` was got."""
        now = self.find_here(model_id).serving
        if now is None or now.engine is not model.engine:
            raise ModelReplaced(model_id)

    async def _understood(self, model_id: str) -> TextModel | EncoderModel:
        if self._draining:
            raise ShuttingDown
        if model_id not in self._names:
            await self.discover(unknown=True)
        model, adapter = self.find_here(model_id), self.find_offer(model_id)[1]
        if refusal := model.refusal:
            raise refusal.with_traceback(None)
        understood = await model.understood()
        model.adapters.check(adapter)
        return understood

    def change(self, model: ResidentModel, options: ModelConfig) -> None:
        """Other options for a model, from now on and over restarts."""
        model.change(options)
        self._changed()

    def reconfigure(self, before: Config, after: Config) -> None:
        """Changes the options that a new configuration changes and that may be; what an operator set beside stays."""
        old = {(offered.id, offered.source): offered for offered in before.offered_models}
        for offered in after.offered_models:
            known = old.get((offered.id, offered.source))
            if known is None or offered.upstreams:
                continue
            values = {name: (getattr(known, name), getattr(offered, name)) for name in CHANGEABLE}
            changed = {name: now for name, (was, now) in values.items() if was != now}
            if changed:
                model = self.find_here(offered.id or self._workshop.store.model_id_of(offered.source))
                model.configure_anew(offered)
                self.change(model, msgspec.structs.replace(model.options, **changed))

    def refuse_requests(self) -> None:
        """From now on only the requests that are running go on."""
        self._remember()
        if self._preloading:
            self._preloading.save()
        self._draining = True

    def shut_down(self) -> None:
        """Ends all requests and refuses new ones."""
        if not self._draining:
            self.refuse_requests()
        for task in [*self._tasks, *([self._discovering] if self._discovering else [])]:
            task.cancel()
        self.residency.close(ShuttingDown())
        for model in self._models.values():
            model.shut_down(ShuttingDown())

    def _changed(self) -> None:
        self.residency.look()
        self._remember()

    def _remember(self) -> None:
        """Nothing is remembered of a server that is being stopped: that is no eviction."""
        if self._record and not self._draining:
            self._remembered_at = time.monotonic()
            self._record.note((model, self.residency.is_wished(model)) for model in self.models_here)
