"""Texts to tokens and back, with a model's own tokenizer; the weights may still be on their way."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from tokenizers import Tokenizer

from gateway.chat.detokenizer import decoded
from gateway.chat.prompt import PromptBuilder
from gateway.errors import InvalidRequest
from gateway.generation.request import Conversation
from gateway.model_pool.pool import ModelPool


@dataclass(frozen=True, slots=True)
class Tokens:
    """`pieces` are the tokens as the vocabulary writes them, if they were asked for. A prompt and its answer have
    `context_tokens`."""

    ids: list[int]
    pieces: list[str] | None
    context_tokens: int


class TokenServing:
    """Belongs to the event loop."""

    def __init__(self, pool: ModelPool, tokenizing: Executor) -> None:
        """`tokenizing` are the threads that do the work."""
        self._pool = pool
        self._tokenizing = tokenizing

    async def tokenize(self, model_id: str, prompt: Conversation | str, *, special: bool, pieces: bool) -> Tokens:
        """A text, with the tokens that the model's texts begin with if `special`; or a conversation's whole prompt."""
        model = await self._pool.text_model(model_id)
        builder = PromptBuilder(model.tokenizer, model.text_limit, self._tokenizing)
        if isinstance(prompt, str):
            composed = await builder.encode(prompt, special=special)
        else:
            composed = await builder.compose(prompt)
        if not pieces:
            return Tokens(composed.ids, None, model.context_tokens)
        written = partial(_written, model.tokenizer.backend_tokenizer, composed.ids)
        of_ids = await asyncio.get_running_loop().run_in_executor(self._tokenizing, written)
        return Tokens(composed.ids, of_ids, model.context_tokens)

    async def detokenize(self, model_id: str, ids: Sequence[int]) -> str:
        """Raises `InvalidRequest` for what is no token."""
        model = await self._pool.text_model(model_id)
        tokenizer = model.tokenizer.backend_tokenizer
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        if (largest := max(ids, default=0)) >= size:
            raise InvalidRequest(f"tokens holds {largest}, but this model's tokens are 0 to {size - 1}.", "tokens")
        return await decoded(tokenizer, ids)


def _written(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    return [tokenizer.id_to_token(token) or "" for token in ids]
