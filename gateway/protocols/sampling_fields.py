"""The request fields that choose among a model's next tokens, the same in all of OpenAI's text APIs.

Source: OpenAI API reference; top_k, min_p and repetition_penalty as in vLLM's server.
"""

from typing import Annotated

from msgspec import Meta, Struct

from gateway.errors import InvalidRequest
from gateway.generation.request import Sampling

MAX_STOP_STRINGS = 16


class SamplingFields(Struct, frozen=True, kw_only=True):
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None


def sampling(fields: SamplingFields) -> Sampling:
    """Raises `InvalidRequest` for a `logit_bias` of what is no token id."""
    defaults = Sampling()

    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    return Sampling(
        temperature=given(fields.temperature, defaults.temperature),
        top_p=given(fields.top_p, defaults.top_p),
        top_k=max(0, fields.top_k or 0),
        min_p=given(fields.min_p, defaults.min_p),
        presence_penalty=given(fields.presence_penalty, defaults.presence_penalty),
        frequency_penalty=given(fields.frequency_penalty, defaults.frequency_penalty),
        repetition_penalty=given(fields.repetition_penalty, defaults.repetition_penalty),
        logit_bias=_logit_bias(fields.logit_bias or {}),
        seed=fields.seed,
        stated=frozenset(name for name in fields.__struct_fields__ if getattr(fields, name) is not None),
    )


def stop_strings(stop: str | list[str] | None, param: str = "stop") -> tuple[str, ...]:
    """Raises `InvalidRequest` for `param` when one is empty or they are too many."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in stops:
        raise InvalidRequest("A stop string must not be empty; leave it out.", param=param)
    if len(stops) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"{param} has {len(stops)} strings; at most {MAX_STOP_STRINGS} are allowed.", param=param)
    return stops


def _logit_bias(bias: dict[str, float]) -> dict[int, float]:
    for token in bias:
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise InvalidRequest(
                f"logit_bias maps token ids to numbers, but {token[:20]!r} is not a token id.",
                param="logit_bias",
            )
    return {int(token): value for token, value in bias.items()}
