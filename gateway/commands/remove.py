"""`mlx-gateway remove`: removes a model, or one version of it, from the store."""

import argparse

from gateway.commands.configuration import Subcommands, add_config_options
from gateway.commands.output import megabytes, say
from gateway.commands.stored_models import opened_store
from gateway.model_store.upkeep import Upkeep


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("remove", help="remove a stored model, or one version of it")
    add_config_options(parser)
    parser.add_argument("model", metavar="ID")
    parser.add_argument("--version", metavar="VERSION", help="only this one: its name or commit, or their beginning")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    with opened_store(options) as (_config, folders):
        for removed in Upkeep(folders, say).remove(options.model, options.version):
            say(f"removed {removed.model} {removed.what}, {megabytes(removed.size_bytes)}")
    return 0
