"""mlx-lm without any server: what is asked on stdin is generated and timed, one JSON line each way.

    python -m loadtests.bare FOLDER

The first line on stdout says which BLAS it uses: the gateway's, found by the same code from the same settings. It ends
when stdin does. `loadtests.bare_process` is the other side.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from gateway.config import load_config
from gateway.hardware.blas import load_blas
from loadtests.prompt_tokens import common_length
from loadtests.streaming_client import Message


class Hello(Struct, frozen=True):
    blas: str


class Work(Struct, frozen=True):
    """Greedy. `batched` is mlx-lm's `BatchGenerator`, else its `generate_step`, which knows one prompt only.

    For the latter, the tokens that the prompt begins with as `history` does are computed before the time is taken: they
    are a conversation that the prompt continues.
    """

    prompts: list[list[Message]]
    max_tokens: int
    prefill_step_size: int = 2048
    batched: bool = True
    history: list[Message] = []


class Generated(Struct, frozen=True):
    """`token_times`: of each prompt, when each token was there, in seconds after all prompts were handed in.

    `history_tokens` of the prompt were computed before that.
    """

    prompt_tokens: list[int]
    token_times: list[list[float]]
    history_tokens: int = 0


def main() -> None:
    config = load_config()
    blas = load_blas(config.hardware.blas, config.hardware.blas_threads)
    import mlx.core as mx  # only now: mlx takes the BLAS it finds
    import mlx_lm

    model, tokenizer, *_ = mlx_lm.load(sys.argv[1])
    _answer(Hello(str(blas)))
    for line in sys.stdin.buffer:
        work = msgspec.json.decode(line, type=Work)
        prompts = [_token_ids(tokenizer, messages) for messages in work.prompts]
        stop_ids = list(tokenizer.eos_token_ids)
        history = 0
        if work.batched:
            token_times = _batched(model, prompts, work, stop_ids)
        else:
            (prompt,) = prompts
            if work.history:
                history = common_length(_token_ids(tokenizer, work.history, answer_follows=False), prompt[:-1])
            token_times = [_alone(model, prompt, history, work, stop_ids)]
        mx.clear_cache()
        _answer(Generated([len(prompt) for prompt in prompts], token_times, history))
    mx.clear_streams()


def _token_ids(tokenizer: Any, messages: Sequence[Message], *, answer_follows: bool = True) -> list[int]:
    chat = [{"role": message.role, "content": message.content} for message in messages]
    return list(tokenizer.apply_chat_template(chat, add_generation_prompt=answer_follows))


def _batched(model: Any, prompts: list[list[int]], work: Work, stop_ids: list[int]) -> list[list[float]]:
    from mlx_lm.generate import BatchGenerator

    generator = BatchGenerator(
        model,
        max_tokens=work.max_tokens,
        stop_tokens=[[token] for token in stop_ids],
        prefill_step_size=work.prefill_step_size,
    )
    began = time.perf_counter()
    rows = {uid: list[float]() for uid in generator.insert(prompts)}
    while responses := generator.next_generated():
        seconds = time.perf_counter() - began
        for response in responses:
            rows[response.uid].append(seconds)
    generator.close()
    return list(rows.values())


def _alone(model: Any, prompt: list[int], history: int, work: Work, stop_ids: list[int]) -> list[float]:
    """`history` tokens of the prompt are computed before the time is taken."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    for first in range(0, history, work.prefill_step_size):
        model(mx.array([prompt[first : min(history, first + work.prefill_step_size)]]), cache=cache)
        mx.eval([layer.state for layer in cache])
    began = time.perf_counter()
    times = []
    tokens = generate_step(
        mx.array(prompt[history:]),
        model,
        max_tokens=work.max_tokens,
        prefill_step_size=work.prefill_step_size,
        prompt_cache=cache,
    )
    for token, _ in tokens:
        times.append(time.perf_counter() - began)
        if token in stop_ids:
            break
    return times


def _answer(line: Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
