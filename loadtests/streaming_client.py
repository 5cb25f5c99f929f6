"""One streamed chat completion and when each piece of it arrived, from any OpenAI-compatible server."""

import asyncio
import time

import httpx
import msgspec
from msgspec import UNSET, Struct, UnsetType

DATA = "data: "
DONE = "[DONE]"


class Message(Struct, frozen=True):
    role: str
    content: str


class StreamOptions(Struct, frozen=True):
    include_usage: bool = True


class ChatRequest(Struct, frozen=True):
    """What is unset is not sent, so that the server's default holds."""

    model: str
    messages: list[Message]
    max_tokens: int
    temperature: float = 0.0
    stream: bool = True
    stream_options: StreamOptions = StreamOptions()
    top_p: float | UnsetType = UNSET
    top_k: int | UnsetType = UNSET
    min_p: float | UnsetType = UNSET
    presence_penalty: float | UnsetType = UNSET
    frequency_penalty: float | UnsetType = UNSET
    repetition_penalty: float | UnsetType = UNSET
    prompt_cache_key: str | UnsetType = UNSET  # names the session, as the header x-session-id does


class _Delta(Struct, frozen=True):
    content: str | None = None


class _Choice(Struct, frozen=True):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _PromptTokensDetails(Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptTokensDetails | None = None


class _Error(Struct, frozen=True):
    code: str | None = None


class _Frame(Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Frame).decode


class ChatStream:
    """Belongs to the task that runs `receive`; others may look on. Times are `time.perf_counter()` seconds."""

    def __init__(self) -> None:
        self.under_way = asyncio.Event()
        """The first content has come, or nothing will come any more."""
        self.started = self.ended = 0.0
        self.content_times: list[float] = []
        self.text = ""
        self.finish_reason: str | None = None
        self.error_code: str | None = None
        self.done = False
        self._usage: _Usage | None = None
        self._news = asyncio.Event()

    async def content(self, pieces: int) -> None:
        """Returns when so many pieces of content have come, or nothing will come any more."""
        while len(self.content_times) < pieces and not self.ended:
            self._news.clear()
            await self._news.wait()

    async def end(self) -> None:
        """Returns when nothing will come any more."""
        while not self.ended:
            self._news.clear()
            await self._news.wait()

    @property
    def tokens(self) -> int:
        """As the server counts them, else the number of content chunks."""
        return self._usage.completion_tokens if self._usage else len(self.content_times)

    @property
    def prompt_tokens(self) -> int:
        """As the server counts them, else 0."""
        return self._usage.prompt_tokens if self._usage else 0

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were not computed again, as the server counts them, else 0."""
        details = self._usage.prompt_tokens_details if self._usage else None
        return (details.cached_tokens or 0) if details else 0

    @property
    def computed_tokens(self) -> int:
        """Tokens of the prompt that were computed for this answer."""
        return self.prompt_tokens - self.cached_tokens

    @property
    def ttft_seconds(self) -> float:
        """Time to first token; there must have been one."""
        return self.content_times[0] - self.started

    async def receive(self, client: httpx.AsyncClient, request: ChatRequest) -> None:
        """Sends the request and reads the stream to its end.

        Raises `httpx.HTTPError` for a refusal and for a connection that is cut.
        """
        self.started = time.perf_counter()
        try:
            async with client.stream(
                "POST",
                "/v1/chat/completions",
                content=msgspec.json.encode(request),
                headers={"content-type": "application/json"},
            ) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    if line.startswith(DATA):
                        self._take(line.removeprefix(DATA))
        finally:
            self.ended = time.perf_counter()
            self.under_way.set()
            self._news.set()

    def _take(self, data: str) -> None:
        if data == DONE:
            self.done = True
            return
        frame = _decode(data)
        if frame.error:
            self.error_code = frame.error.code
        self._usage = frame.usage or self._usage
        for choice in frame.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
            if choice.delta.content:
                self.content_times.append(time.perf_counter())
                self.text += choice.delta.content
                self.under_way.set()
                self._news.set()
