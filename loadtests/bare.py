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
from loadtests.streaming_client import Message


class Hello(Struct, frozen=True):
    blas: str


class Work(Struct, frozen=True):
    """Greedy. `batched` is mlx-lm's `BatchGenerator`, else its `generate_step`, which knows one prompt only."""

    prompts: list[list[Message]]
    max_tokens: int
    prefill_step_size: int = 2048
    batched: bool = True


class Generated(Struct, frozen=True):
    """`token_times`: of each prompt, when each token was there, in seconds after all prompts were handed in."""

    prompt_tokens: list[int]
    token_times: list[list[float]]


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
        generate = _batched if work.batched else _alone
        token_times = generate(model, prompts, work, list(tokenizer.eos_token_ids))
        mx.clear_cache()
        _answer(Generated([len(prompt) for prompt in prompts], token_times))
    mx.clear_streams()


def _token_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    chat = [{"role": message.role, "content": message.content} for message in messages]
    return list(tokenizer.apply_chat_template(chat, add_generation_prompt=True))


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


def _alone(model: Any, prompts: list[list[int]], work: Work, stop_ids: list[int]) -> list[list[float]]:
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    (prompt,) = prompts
    began = time.perf_counter()
    times = []
    tokens = generate_step(
        mx.array(prompt), model, max_tokens=work.max_tokens, prefill_step_size=work.prefill_step_size
    )
    for token, _ in tokens:
        times.append(time.perf_counter() - began)
        if token in stop_ids:
            break
    return [times]


def _answer(line: Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
