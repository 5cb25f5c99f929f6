"""`mlx-gateway pull`: downloads a model into the store. No server is needed, and one that runs may go on."""

import argparse

from gateway.commands.configuration import Subcommands, add_config_options, configuration
from gateway.commands.output import progress_bar, say
from gateway.commands.stored_models import hub_source
from gateway.model_store.store import ModelStore

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended."""


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("pull", help="download a model, or its newest version, and make that the current one")
    add_config_options(parser)
    parser.add_argument("model", metavar="ID[@REVISION]", help="a Hugging Face id, and a commit, tag or branch")
    parser.add_argument("--trusted", action="store_true", help="fetch the code that the model brings, too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    config = configuration(options)
    source = hub_source(options.model)
    trusted = options.trusted or any(
        offered.trusted and offered.source == source.model_id for offered in config.offered_models
    )
    store = ModelStore(config.store_directory, config.downloads)
    try:
        with progress_bar() as report:
            folder = store.pull(source, report, trusted=trusted)
    except KeyboardInterrupt:
        say("Stopped. What has arrived is kept: run the same command to go on.")
        return INTERRUPTED
    say(f"{source.repo_id} is stored; version {folder.name} is the current one.\n{folder}")
    return 0
