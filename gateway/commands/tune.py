"""`mlx-gateway tune`: measures what suits this machine and model, and writes it down for `serve`.

Each candidate is the real server in a child process, asked over HTTP, so that what is measured is what
clients would see. Prefixes are not kept meanwhile: every prompt is computed.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx

from gateway.commands.configuration import Subcommands, add_config_options, configuration
from gateway.commands.output import say, say_table
from gateway.config import tuned_file
from gateway.errors import ConfigError, GatewayError

CHUNKS = (64, 128, 256, 512, 2048)
WIDTHS = (1, 2, 4, 8, 16, 32)
WORTH = 1.05
"""Another value than the default, or a wider batch, must be better by this factor: these machines are noisy."""

REQUEST_SECONDS = 600.0
LISTENING = "listening on "


class TuningFailed(GatewayError):
    """A server that was to be measured did not serve."""


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("tune", help="measure what suits this machine, and write it to tuned.toml")
    add_config_options(parser)
    parser.add_argument("--model", default="", metavar="ID_OR_PATH", help="as for serve (default: the demo model)")
    parser.add_argument("--prompt-tokens", type=int, default=1024, metavar="N", help="about so many (default: 1024)")
    parser.add_argument("--answer-tokens", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--chunks", type=int, nargs="+", default=CHUNKS, metavar="N", help="prefill chunks to try")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, metavar="N", help="batch widths to try")
    parser.add_argument("--dry-run", action="store_true", help="only show the figures")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    configuration(options)  # says what is wrong with it before anything is measured
    tuned: dict[str, int | bool] = {}
    chunks = {}
    for chunk in options.chunks:
        with _server(options, ENGINE_PREFILL_CHUNK_TOKENS=chunk) as measured:
            chunks[chunk] = measured.prefill_rate(options.prompt_tokens)
    tuned["prefill_chunk_tokens"] = max(chunks, key=chunks.__getitem__)
    _show("PREFILL CHUNK", chunks)
    with _server(options, ENGINE_MAX_RUNNING=max(options.widths)) as measured:
        widths = {width: measured.decode_rate(width, options.answer_tokens) for width in sorted(options.widths)}
    tuned["max_running"] = narrowest_worthwhile(widths)
    _show("BATCH WIDTH", widths)
    speculation = {}
    for on in (True, False):
        with _server(options, ENGINE_SPECULATION=str(on).lower()) as measured:
            speculation[on] = measured.decode_rate(1, options.answer_tokens)
    tuned["speculation"] = speculation[True] * WORTH >= speculation[False]
    _show("SPECULATION", speculation)
    text = tuned_toml(tuned)
    file = tuned_file(options.config)
    if options.dry_run:
        say(f"would write {file}:\n{text}")
        return 0
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    except OSError as error:
        raise ConfigError(f"Cannot write {file}: {error.strerror}") from error
    say(f"wrote {file}; `mlx-gateway serve` reads it. The configuration file wins over it. Remove it to undo.\n{text}")
    return 0


def narrowest_worthwhile(rates: dict[int, float]) -> int:
    """The narrowest batch than which no wider one is faster by `WORTH`: answers in a narrower one come sooner."""
    best = max(rates.values())
    return min(width for width, rate in rates.items() if rate * WORTH >= best)


def tuned_toml(engine: dict[str, int | bool]) -> str:
    lines = [f"{key} = {str(value).lower()}" for key, value in engine.items()]
    return "\n".join(["# Measured by `mlx-gateway tune`; remove this file to undo.", "[engine]", *lines, ""])


class _Measured:
    """A server that serves one model."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._model = client.get("/v1/models").json()["data"][0]["id"]
        self._ask("warm up", 2)

    def prefill_rate(self, prompt_tokens: int) -> float:
        """Prompt tokens a second."""
        started = time.perf_counter()
        tokens = self._ask(" word" * prompt_tokens, 1)[0]
        return tokens / (time.perf_counter() - started)

    def decode_rate(self, width: int, answer_tokens: int) -> float:
        """Tokens a second of all answers together."""
        prompts = [f"{number} is a number. Write about it." for number in range(width)]
        with ThreadPoolExecutor(width) as clients:
            started = time.perf_counter()
            tokens = sum(answer for _, answer in clients.map(lambda prompt: self._ask(prompt, answer_tokens), prompts))
        return tokens / (time.perf_counter() - started)

    def _ask(self, prompt: str, most_tokens: int) -> tuple[int, int]:
        """How many tokens the prompt had and the answer has."""
        body = {"model": self._model, "prompt": prompt, "max_tokens": most_tokens, "temperature": 0}
        answer = self._client.post("/v1/completions", json=body)
        if not answer.is_success:
            raise TuningFailed(f"The server that was to be measured refused a request: {answer.text[:500]}")
        usage = answer.json()["usage"]
        return usage["prompt_tokens"], usage["completion_tokens"]


@contextmanager
def _server(options: argparse.Namespace, **settings: object) -> Iterator[_Measured]:
    """A child with these settings; it is gone at the end."""
    settings = {"CACHE_ENABLED": "false", "POOL_RESTORE": "false", "POOL_PRELOAD": "false"} | settings
    settings |= {"POOL_SERVE_STORED": "false", "SERVER_HOST": "127.0.0.1", "LOG_LEVEL": "info"}
    environment = os.environ | {f"MLX_GATEWAY_{name}": str(value) for name, value in settings.items()}
    command: list[str] = [sys.executable, "-m", "gateway", "serve", "--port", "0"]
    command += ["--config", str(options.config)] if options.config else []
    command += ["--model", options.model] if options.model else []
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as child:  # noqa: S603
        try:
            with (
                httpx.Client(base_url=_url(child, command), timeout=REQUEST_SECONDS, trust_env=False) as client,
                ThreadPoolExecutor(1) as reader,
            ):
                reader.submit(_read_on, child)  # or the child would wait for a reader of its log
                try:
                    yield _Measured(client)
                finally:
                    child.terminate()
        finally:
            child.kill()


def _url(child: "subprocess.Popen[str]", command: Sequence[str]) -> str:
    last = ""
    for line in child.stderr or ():
        if LISTENING in line:
            return line.split(LISTENING)[1].split("/v1")[0]
        last = line
    raise TuningFailed(f"{' '.join(command)} did not start: {last.strip()}")


def _read_on(child: "subprocess.Popen[str]") -> None:
    for _line in child.stderr or ():
        pass


def _show(what: str, rates: dict[int, float] | dict[bool, float]) -> None:
    say_table([(what, "TOKENS/S"), *((str(value).lower(), f"{rate:.0f}") for value, rate in rates.items())])
