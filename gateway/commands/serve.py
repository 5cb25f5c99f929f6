"""`mlx-gateway serve`: serves models over HTTP until it is told to stop."""

import argparse
import asyncio
from collections.abc import Callable

import uvloop

from gateway.commands.configuration import Subcommands, add_config_options, configuration
from gateway.config import Config
from gateway.errors import ConfigError, GatewayError
from gateway.hardware.blas import BlasUnavailable, load_blas
from gateway.observability.crash_reports import CrashReports
from gateway.observability.log_book import LogBook
from gateway.observability.log_line import LEVELS
from gateway.observability.log_setup import set_up_logging
from gateway.security.api_keys import ApiKeys
from gateway.security.http_guard import check_network
from gateway.server import GatewayServer, bind


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("serve", help="serve models over HTTP")
    add_config_options(parser)
    parser.add_argument(
        "--model",
        dest="models",
        action="append",
        default=[],
        metavar="ID_OR_PATH",
        help="an mlx-lm or encoder folder, a GGUF file or a Hugging Face id; may be given several times "
        "(default: the demo model)",
    )
    parser.add_argument("--host", dest="server.host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", dest="server.port", type=int, help="port to listen on (default: 8080)")
    parser.add_argument("--log-level", dest="log.level", choices=list(LEVELS), help="default: info")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    config = configuration(options, options.models)
    logs = set_up_logging(config.log, config.log_directory)
    crashes = CrashReports(config.log_directory, logs, config)
    crashes.watch()
    try:
        return _serve(config, logs, lambda: configuration(options, options.models))
    except Exception as error:
        if not isinstance(error, GatewayError):
            crashes.write(error)
        raise
    finally:
        logs.close()


def _serve(config: Config, logs: LogBook, read_config: Callable[[], Config]) -> int:
    try:
        # Before anything imports mlx, which takes the BLAS it finds.
        blas = load_blas(config.hardware.blas, config.hardware.blas_threads)
    except BlasUnavailable as error:
        raise ConfigError(f"hardware.blas: {error}") from error
    check_network(config.server, has_keys=bool(ApiKeys(config.store_directory).records))
    sockets = [bind(config.server.host, config.server.port)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(GatewayServer(config, blas, logs, read_config).run(sockets))
    return 0
