"""The command line: `mlx-gateway serve`."""

import argparse
import asyncio
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from gateway.config import Config, load_config
from gateway.errors import ConfigError, GatewayError
from gateway.hardware.blas import BlasUnavailable, load_blas
from gateway.observability.log_setup import set_up_logging
from gateway.server import GatewayServer, bind


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the `mlx-gateway` command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        config = load_config(options.config, flags=_given_flags(options), model_sources=options.models)
        return _serve(config)
    except GatewayError as error:
        print(f"mlx-gateway: {error}", file=sys.stderr)  # noqa: T201
        return 2


def _serve(config: Config) -> int:
    set_up_logging(config.log.level, config.log.format)
    try:
        # Before anything imports mlx, which takes the BLAS it finds.
        blas = load_blas(config.hardware.blas, config.hardware.blas_threads)
    except BlasUnavailable as error:
        raise ConfigError(f"hardware.blas: {error}") from error
    sockets = [bind(config.server.host, config.server.port)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(GatewayServer(config, blas).run(sockets))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-gateway", description="An OpenAI-compatible inference gateway for IDE agents, on mlx."
    )
    parser.add_argument("--version", action="version", version=f"mlx-gateway {version('mlx-gateway')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve a model over HTTP")
    serve.add_argument("--config", type=Path, metavar="FILE", help="a TOML file; see config.example.toml")
    serve.add_argument(
        "--model",
        dest="models",
        action="append",
        default=[],
        metavar="ID_OR_PATH",
        help="an mlx-lm or encoder folder, a GGUF file or a Hugging Face id; may be given several times "
        "(default: the demo model)",
    )
    serve.add_argument("--host", dest="server.host", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", dest="server.port", type=int, help="port to listen on (default: 8080)")
    serve.add_argument(
        "--log-level", dest="log.level", choices=["debug", "info", "warning", "error"], help="default: info"
    )
    return parser


def _given_flags(options: argparse.Namespace) -> dict[tuple[str, str], Any]:
    """Options named `section.key` that were given."""
    flags = {}
    for name, value in vars(options).items():
        section, dot, key = name.partition(".")
        if dot and value is not None:
            flags[section, key] = value
    return flags
