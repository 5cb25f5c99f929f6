"""OpenAI's completions and Mistral's fill-in-the-middle, the way in: the request's JSON to `TextRequest`s.

Source: OpenAI API reference, "Completions"; Mistral API reference, "Fill in the middle". `suffix` asks for the text
between it and the prompt.
"""

from dataclasses import replace
from typing import Annotated

from msgspec import Meta

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import ANYONE, FillIn, Origin, PlainText, TextRequest
from gateway.protocols.grammar_fields import GrammarFields, grammar
from gateway.protocols.openai_chat import StreamOptions
from gateway.protocols.sampling_fields import sampling, stop_strings

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""

MOST_PROMPTS = 128

Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class CompletionRequest(GrammarFields, frozen=True, kw_only=True):
    """Fields that mean something here. `prompt` is one text, several, one in token ids, or several of these."""

    model: Annotated[str, Meta(min_length=1)]
    prompt: str | Annotated[list[str | Token | list[Token]], Meta(min_length=1)]
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: int | None = None
    stop: str | list[str] | None = None


class FillInRequest(GrammarFields, frozen=True, kw_only=True):
    """Mistral's: one prompt, and as many tokens as the context leaves unless it says otherwise."""

    model: Annotated[str, Meta(min_length=1)]
    prompt: str
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    random_seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None


def to_text_requests(completion: CompletionRequest, origin: Origin = ANYONE) -> list[TextRequest]:
    """One for each prompt, in their order. Raises `InvalidRequest` or `UnsupportedParameter`."""
    choices = completion.n or 1
    if completion.best_of not in (None, 1, choices):
        raise UnsupportedParameter(
            f"This server returns all the completions it generates; leave out best_of or set it to n ({choices}).",
            param="best_of",
        )
    return [
        TextRequest(
            model=completion.model,
            prompt=prompt,
            sampling=sampling(completion),
            max_tokens=completion.max_tokens or DEFAULT_MAX_TOKENS,
            stop=stop_strings(completion.stop),
            choices=choices,
            top_logprobs=completion.logprobs,
            grammar=grammar(completion),
            origin=origin,
        )
        for prompt in _prompts(completion)
    ]


def to_fill_in_request(fill_in: FillInRequest, origin: Origin = ANYONE) -> TextRequest:
    """Raises `InvalidRequest` or `UnsupportedParameter`."""
    if fill_in.min_tokens:
        raise UnsupportedParameter("This server ends an answer where the model does; remove min_tokens.", "min_tokens")
    chosen = sampling(fill_in)
    return TextRequest(
        model=fill_in.model,
        prompt=FillIn(fill_in.prompt, fill_in.suffix or ""),
        sampling=chosen if fill_in.random_seed is None else replace(chosen, seed=fill_in.random_seed),
        max_tokens=fill_in.max_tokens,
        stop=stop_strings(fill_in.stop),
        grammar=grammar(fill_in),
        origin=origin,
    )


def _prompts(completion: CompletionRequest) -> list[PlainText | FillIn]:
    """Raises `InvalidRequest` for a list of different things, and for a suffix to what is no text."""
    texts = _texts(completion.prompt)
    if len(texts) > MOST_PROMPTS:
        raise InvalidRequest(f"There are {len(texts)} prompts; at most {MOST_PROMPTS} are allowed.", param="prompt")
    if not completion.suffix:
        return [PlainText(text, echo=bool(completion.echo)) for text in texts]
    if completion.echo:
        raise UnsupportedParameter("echo cannot be combined with suffix; send one of them.", param="echo")
    gaps: list[PlainText | FillIn] = []
    for text in texts:
        if not isinstance(text, str):
            raise InvalidRequest("suffix needs a prompt of text, not of token ids.", param="suffix")
        gaps.append(FillIn(text, completion.suffix))
    return gaps


def _texts(prompt: str | list[str | int | list[int]]) -> list[str | tuple[int, ...]]:
    """Each prompt, as text or in token ids. A list of token ids is one prompt."""
    if isinstance(prompt, str):
        return [prompt]
    ids = tuple(entry for entry in prompt if isinstance(entry, int))
    if len(ids) == len(prompt):
        return [ids]
    if ids or len({type(entry) for entry in prompt}) > 1:
        raise InvalidRequest("prompt must be a text, a list of texts, token ids or a list of such lists.", "prompt")
    return [entry if isinstance(entry, str) else tuple(entry) for entry in prompt if not isinstance(entry, int)]
