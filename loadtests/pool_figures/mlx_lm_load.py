"""`mlx_lm.load` and a first token, again and again in a child process.

python -m loadtests.pool_figures.mlx_lm_load FOLDER     for each line of messages on stdin, the seconds on stdout
"""

import asyncio
import gc
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from gateway.config import load_config
from gateway.hardware.blas import load_blas
from loadtests.model_folder import REPOSITORY
from loadtests.servers import ServerFailed
from loadtests.streaming_client import Message


class MlxLmLoads:
    """The child process; one at a time may ask."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def first_token(self, messages: list[Message]) -> float:
        """Seconds that loading the model and answering with one token took."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(msgspec.json.encode(messages) + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise ServerFailed(f"mlx_lm.load ended with status {await self._process.wait()}; see above.")
        return float(line)


@asynccontextmanager
async def mlx_lm_loads(folder: Path, store: Path) -> AsyncIterator[MlxLmLoads]:
    """Of the model in `folder`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loadtests.pool_figures.mlx_lm_load",
        str(folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "MLX_GATEWAY_STORE_DIRECTORY": str(store)},
        cwd=REPOSITORY,
    )
    try:
        yield MlxLmLoads(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def main() -> None:
    config = load_config()
    load_blas(config.hardware.blas, config.hardware.blas_threads)
    import mlx.core as mx  # only now: mlx takes the BLAS it finds

    for line in sys.stdin.buffer:
        seconds = _load_and_answer(Path(sys.argv[1]), msgspec.json.decode(line, type=list[Message]))
        gc.collect()
        mx.clear_cache()
        print(seconds, flush=True)
    mx.clear_streams()


def _load_and_answer(folder: Path, messages: list[Message]) -> float:
    import mlx_lm

    began = time.perf_counter()
    model, tokenizer, *_ = mlx_lm.load(str(folder))
    chat = [{"role": message.role, "content": message.content} for message in messages]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
    next(iter(mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=1)))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
