"""`mlx-gateway quantize MODEL`: makes a smaller model of the store out of another one."""

import argparse
import sys

from gateway.commands.configuration import Subcommands, add_config_options, configuration
from gateway.commands.optimised_in_words import optimised_in_words
from gateway.commands.progress_lines import ProgressLines
from gateway.model_store.quantization_recipe import BITS, GROUP_SIZES, MIXED, read_recipe
from gateway.model_store.store import ModelStore


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("quantize", help="make a smaller model out of another one")
    add_config_options(parser)
    parser.add_argument("model", metavar="MODEL", help="as for `serve --model`; an empty one is the demo model")
    parser.add_argument("--group-size", type=int, default=64, choices=GROUP_SIZES, help="default: 64")
    parser.add_argument(
        "--id", default="", help="what the new model is to be called (default: MODEL-4bit and the like)"
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--bits", type=int, choices=BITS, help="of each weight")
    how.add_argument("--recipe", choices=tuple(MIXED), help="more bits for the layers that suffer most")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    store, progress = ModelStore(configuration(options).store_directory), ProgressLines(sys.stderr)
    original = store.locate(options.model, progress)
    recipe = read_recipe(f"{options.recipe or options.bits}:{options.group_size}")
    print(optimised_in_words(store.optimised(original, recipe, progress, options.id)))  # noqa: T201
    return 0
