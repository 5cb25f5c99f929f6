"""`mlx-gateway import PATH`: makes a model of the store out of files on this disk."""

import argparse
import sys

from gateway.commands.configuration import Subcommands, add_config_options, configuration
from gateway.commands.output import say
from gateway.commands.progress_lines import ProgressLines
from gateway.model_store.sources import read_import
from gateway.model_store.store import ModelStore


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("import", help="import a model from files on this disk")
    add_config_options(parser)
    parser.add_argument(
        "path",
        metavar="PATH",
        help="a model folder, *.safetensors, PyTorch's *.bin, *.pt or *.pth, *.gguf, or a zip or tar archive of these",
    )
    parser.add_argument(
        "--id", default="", help="what the model is to be called (default: the file's or folder's name)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    store = ModelStore(configuration(options).store_directory)
    source = read_import(options.path, options.id)
    model = store.import_model(source, ProgressLines(sys.stderr))
    checked = f"; tried: {', '.join(model.manifest.checked)}" if model.manifest else ""
    say(f"{model.model_id} is in {model.folder}{checked}")
    return 0
