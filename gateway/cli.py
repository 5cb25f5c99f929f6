"""The command line: `mlx-gateway COMMAND`. Each command is a file in `commands/`, listed here."""

import argparse
import sys
from importlib.metadata import version

from gateway.commands import (
    completion,
    doctor,
    gc,
    import_model,
    keys,
    list_models,
    logs,
    models,
    outdated,
    prune,
    pull,
    quantize,
    remove,
    rollback,
    serve,
    service,
    tune,
    usage,
    verify,
    versions,
)
from gateway.errors import GatewayError

COMMANDS = (
    serve,
    service,
    keys,
    models,
    list_models,
    logs,
    usage,
    pull,
    import_model,
    prune,
    quantize,
    versions,
    rollback,
    remove,
    doctor,
    gc,
    verify,
    outdated,
    tune,
    completion,
)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the `mlx-gateway` command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except GatewayError as error:
        print(f"mlx-gateway: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-gateway", description="An OpenAI-compatible inference gateway for IDE agents, on mlx."
    )
    parser.add_argument("--version", action="version", version=f"mlx-gateway {version('mlx-gateway')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser
