"""Ollama's API, for clients that speak nothing else."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.event_stream import JSON_LINES, stream_events, unless_disconnected
from gateway.api.json_response import json_response
from gateway.api.model_access import visible_offers
from gateway.api.operator_only import operator_only
from gateway.api.request_origin import charge_tokens, request_origin
from gateway.api.warning_header import warning_headers
from gateway.config import ServerConfig
from gateway.generation.events import Event
from gateway.model_pool.pool import ModelPool
from gateway.model_pool.resident_model import ResidentModel
from gateway.protocols.json_body import decode_body, ignored_fields
from gateway.protocols.ollama import (
    OllamaChat,
    OllamaFields,
    OllamaGenerate,
    ShowRequest,
    chat_to_text_request,
    generate_to_text_request,
    ollama_ignored_fields,
)
from gateway.protocols.ollama_answer import Kind, OllamaStream, loaded_line, whole_line
from gateway.protocols.ollama_embeddings import (
    EmbedRequest,
    OldEmbedRequest,
    embed_answer,
    old_embed_answer,
    to_embedding_request,
)
from gateway.protocols.ollama_models import model_tags, ollama_version, running_models, shown_model
from gateway.serving.encoding import EncoderServing
from gateway.serving.model_cards import model_card
from gateway.serving.text import TextServing

Endpoint = Callable[[Request], Awaitable[Response]]


class OllamaEndpoints:
    def __init__(self, text: TextServing, encoders: EncoderServing, pool: ModelPool, config: ServerConfig) -> None:
        self._text = text
        self._encoders = encoders
        self._pool = pool
        self._config = config

    @property
    def routes(self) -> Sequence[tuple[str, str, Endpoint]]:
        return (
            ("GET", "/api/version", self.version),
            ("GET", "/api/tags", self.tags),
            ("GET", "/api/ps", self.running),
            ("POST", "/api/show", self.show),
            ("POST", "/api/chat", self.chat),
            ("POST", "/api/generate", self.generate),
            ("POST", "/api/embed", self.embed),
            ("POST", "/api/embeddings", self.embed_one),
        )

    async def version(self, request: Request) -> Response:
        """GET /api/version"""
        return json_response(ollama_version())

    async def tags(self, request: Request) -> Response:
        """GET /api/tags"""
        offers = [
            (model, adapter)
            for model, adapter in visible_offers(request, self._pool)
            if isinstance(model, ResidentModel)
        ]
        return json_response(model_tags([model_card(*offer) for offer in offers]))

    async def running(self, request: Request) -> Response:
        """GET /api/ps"""
        seen = {model.model_id for model, _ in visible_offers(request, self._pool)}
        shown = [model_card(model) for model in self._pool.models_here if model.model_id in seen]
        return json_response(running_models(shown))

    async def show(self, request: Request) -> Response:
        """POST /api/show: waits until the model's files were read."""
        body = await request.body()
        asked = decode_body(body, ShowRequest)
        model, adapter = self._pool.find_here(asked.model_id), self._pool.find_offer(asked.model_id)[1]
        await model.understood()
        card = model_card(model, adapter)
        return json_response(shown_model(card), headers=warning_headers(ignored_fields(body, ShowRequest)))

    async def chat(self, request: Request) -> Response:
        """POST /api/chat"""
        body = await request.body()
        chat = decode_body(body, OllamaChat)
        if chat.asks_nothing:
            return await self._loaded(request, body, chat, "chat")
        events = self._text.generate(chat_to_text_request(chat, request_origin(request)))
        return await self._answer(request, body, chat, "chat", events)

    async def generate(self, request: Request) -> Response:
        """POST /api/generate"""
        body = await request.body()
        generate = decode_body(body, OllamaGenerate)
        if generate.asks_nothing:
            return await self._loaded(request, body, generate, "generate")
        events = self._text.generate(generate_to_text_request(generate, request_origin(request)))
        return await self._answer(request, body, generate, "generate", events)

    async def embed(self, request: Request) -> Response:
        """POST /api/embed"""
        body = await request.body()
        asked, started = decode_body(body, EmbedRequest), time.perf_counter()
        embeddings = await unless_disconnected(request, self._encoders.embed(to_embedding_request(asked)))
        charge_tokens(request, embeddings.tokens)
        answer = embed_answer(asked, embeddings, time.perf_counter() - started)
        return json_response(answer, headers=warning_headers(ignored_fields(body, EmbedRequest)))

    async def embed_one(self, request: Request) -> Response:
        """POST /api/embeddings, the older way"""
        body = await request.body()
        asked = decode_body(body, OldEmbedRequest)
        embeddings = await unless_disconnected(request, self._encoders.embed(to_embedding_request(asked)))
        charge_tokens(request, embeddings.tokens)
        warnings = warning_headers(ignored_fields(body, OldEmbedRequest))
        return json_response(old_embed_answer(embeddings), headers=warnings)

    async def _loaded(self, request: Request, body: bytes, asked: OllamaFields, kind: Kind) -> Response:
        """Ollama's way to have a model ready, or its memory given up: a request for no answer."""
        warnings = warning_headers(ollama_ignored_fields(body, asked))
        model = self._pool.find_here(asked.model_id)
        if asked.unloads:
            operator_only(request)
            if model.in_memory:
                await self._pool.residency.evict(model)
            return json_response(loaded_line(asked.model, kind, "unload"), headers=warnings)
        await self._pool.text_model(asked.model_id)
        async with self._pool.lease(asked.model_id) as lease:
            await unless_disconnected(request, lease.granted())
        return json_response(loaded_line(asked.model, kind, "load"), headers=warnings)

    async def _answer(
        self, request: Request, body: bytes, asked: OllamaFields, kind: Kind, events: AsyncGenerator[Event, None]
    ) -> Response:
        warnings = warning_headers(ollama_ignored_fields(body, asked))
        if asked.stream is not False:
            stream = OllamaStream(asked.model, kind)
            return await stream_events(events, stream, request, self._config, warnings, JSON_LINES)
        async with aclosing(events):
            answer = whole_line(events, asked.model, kind)
            return json_response(await unless_disconnected(request, answer), headers=warnings)
