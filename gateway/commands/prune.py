"""`mlx-gateway prune MODEL`: makes a model of the store out of another one, without its least important layers."""

import argparse
import sys

from gateway.commands.configuration import Subcommands, add_config_options, configuration
from gateway.commands.optimised_in_words import optimised_in_words
from gateway.commands.progress_lines import ProgressLines
from gateway.model_store.pruning import Pruning
from gateway.model_store.store import ModelStore


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("prune", help="make a model out of another one without its least important layers")
    add_config_options(parser)
    parser.add_argument("model", metavar="MODEL", help="as for `serve --model`; an empty one is the demo model")
    parser.add_argument("--layers", type=int, required=True, help="how many of them go; answers get worse with each")
    parser.add_argument(
        "--id", default="", help="what the new model is to be called (default: MODEL-pruned2 and the like)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    store, progress = ModelStore(configuration(options).store_directory), ProgressLines(sys.stderr)
    original = store.locate(options.model, progress)
    print(optimised_in_words(store.optimised(original, Pruning(options.layers), progress, options.id)))  # noqa: T201
    return 0
