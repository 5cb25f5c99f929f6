"""What each request took from the prefix cache, and why it was no more: in metrics, the log, and for who asks."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tokenizers import Tokenizer

from gateway.generation.request import Origin
from gateway.observability.metrics import ModelMetrics
from gateway.prefix_cache.explain import Explanation, Lookup, explain
from gateway.prefix_cache.reuse import Reuse

log = logging.getLogger(__name__)

Value = TypeVar("Value")

MOST_REQUESTS = 1024
MOST_SESSIONS = 4096


@dataclass(frozen=True, slots=True)
class ExplainedReuse:
    """`before`, `prompt` and `cached` are the texts around the place where the prompt left what was known."""

    model: str
    reuse: Reuse
    explanation: Explanation
    before: str
    prompt: str
    cached: str


class ReuseLog:
    """Keeps the latest requests. Belongs to the event loop."""

    def __init__(self) -> None:
        self._requests: OrderedDict[str, ExplainedReuse] = OrderedDict()
        self._models: OrderedDict[str, str] = OrderedDict()  # by session: the one it used last

    def find(self, request_id: str) -> ExplainedReuse | None:
        return self._requests.get(request_id)

    def note(self, origin: Origin, model: str, reuse: Reuse, tokenizer: Tokenizer, metrics: ModelMetrics) -> None:
        """A request's prompt is being computed. The log line quotes nothing of it."""
        explained = self._explained(origin, model, reuse, tokenizer)
        cause = explained.explanation.cause
        sources = {"memory": reuse.ram, "disk": reuse.disk, "another_request": reuse.shared}
        metrics.prompt_began(reuse.prompt_tokens, sources, cause.value)
        log.info(
            "%d of %d prompt tokens reused (memory %d, disk %d, another request %d): %s",
            reuse.tokens,
            reuse.prompt_tokens,
            reuse.ram,
            reuse.disk,
            reuse.shared,
            cause.value,
        )
        _remember(self._requests, origin.request_id, explained, MOST_REQUESTS)
        _remember(self._models, origin.session, model, MOST_SESSIONS)

    def _explained(self, origin: Origin, model: str, reuse: Reuse, tokenizer: Tokenizer) -> ExplainedReuse:
        def text(ids: Sequence[int]) -> str:
            return tokenizer.decode(list(ids), skip_special_tokens=False)

        before, prompt, cached, own = "", "", "", False
        if apart := reuse.divergence:
            before, prompt, cached, own = text(apart.before), text(apart.prompt), text(apart.kept), apart.own
        explanation = explain(
            Lookup(
                reuse.prompt_tokens,
                reuse.matched,
                reuse.tokens,
                evicted=reuse.evicted,
                empty=reuse.empty,
                other_model=self._models.get(origin.session, model) != model,
                previous=reuse.previous,
                before=before,
                prompt=prompt,
                cached=cached,
                own=own,
            )
        )
        return ExplainedReuse(model, reuse, explanation, before, prompt, cached)


def _remember(kept: OrderedDict[str, Value], key: str, value: Value, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
