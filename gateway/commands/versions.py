"""`mlx-gateway versions`: which versions of models are stored."""

import argparse

from gateway.commands.configuration import Subcommands, add_config_options
from gateway.commands.output import megabytes, say, say_table
from gateway.commands.stored_models import opened_store
from gateway.model_store.upkeep import Upkeep, Version


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("versions", help="list the stored versions of a model, or of all")
    add_config_options(parser)
    parser.add_argument("model", nargs="?", metavar="ID")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    with opened_store(options) as (_config, folders):
        upkeep = Upkeep(folders, say)
        models = [options.model] if options.model else upkeep.models()
        versions = [version for model in models for version in upkeep.versions(model)]
    say_table([("MODEL", "VERSION", "STATE", "SIZE", "STORED AT", "LICENCE"), *(_row(version) for version in versions)])
    return 0


def _row(version: Version) -> tuple[str, ...]:
    state = [word for word, holds in (("current", version.current), ("in use", version.in_use)) if holds]
    size = megabytes(version.size_bytes)
    return (version.model, version.name, ", ".join(state), size, version.created_at, version.licence)
