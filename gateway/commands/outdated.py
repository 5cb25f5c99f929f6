"""`mlx-gateway outdated`: asks the hub whether there are newer versions of what is stored."""

import argparse

from gateway.commands.configuration import Subcommands, add_config_options
from gateway.commands.output import progress_bar, say_table
from gateway.commands.stored_models import opened_store
from gateway.model_store.hub import Hub
from gateway.model_store.updates import Update, look_for_updates


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser(
        "outdated", help="ask the hub for newer versions of a stored model, or of all; only then anything is asked"
    )
    add_config_options(parser)
    parser.add_argument("model", nargs="?", metavar="ID")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    with opened_store(options) as (config, folders), progress_bar() as report:
        updates = look_for_updates(folders, Hub(config.downloads), report, options.model)
    say_table([("MODEL", "FROM", "STORED", "NEWEST"), *(_row(update) for update in updates)])
    return 0


def _row(update: Update) -> tuple[str, ...]:
    newest = update.problem or (f"{update.newest[:12]}: pull it" if update.is_newer else "the same")
    return (update.model, update.branch, update.revision[:12], newest)
