"""`mlx-gateway list`: the models in the store."""

import argparse

import msgspec

from gateway.commands.configuration import Subcommands, add_config_options, configuration
from gateway.commands.output import say, say_table
from gateway.model_store.store import ModelStore, StoredModel


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("list", help="list the models in the store")
    add_config_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a line, manifest and all")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    models = ModelStore(configuration(options).store_directory).list_models()
    if options.json:
        for model in models:
            say(msgspec.json.encode(model.manifest).decode())
        return 0
    rows = [("ID", "SIZE", "LICENCE", "MADE", "SOURCE"), *map(_row, models)]
    say_table(rows)
    return 0


def _row(model: StoredModel) -> tuple[str, str, str, str, str]:
    assert model.manifest is not None, "the store lists what has a manifest"
    size_bytes = sum(file.size_bytes for file in model.manifest.files.values())
    size = f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
    return model.model_id, size, model.manifest.licence or "-", model.manifest.created_at[:16], model.origin
