"""`mlx-gateway rollback`: makes an earlier version of a model the current one."""

import argparse

from gateway.commands.configuration import Subcommands, add_config_options
from gateway.commands.output import say
from gateway.commands.stored_models import opened_store
from gateway.model_store.upkeep import Upkeep


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("rollback", help="go back to the version of a model that was current before")
    add_config_options(parser)
    parser.add_argument("model", metavar="ID")
    parser.add_argument("--to", metavar="VERSION", help="make this one current: its name or commit, or their beginning")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    with opened_store(options) as (_config, folders):
        version = Upkeep(folders, say).roll_back(options.model, options.to)
    say(
        f"{version.model}: version {version.name} is the current one. A server that has the model in memory"
        " takes it when it loads the model again."
    )
    return 0
