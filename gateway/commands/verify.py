"""`mlx-gateway verify`: compares stored files with the digests that their source declared."""

import argparse

from gateway.commands.configuration import Subcommands, add_config_options
from gateway.commands.output import progress_bar, say
from gateway.commands.stored_models import opened_store
from gateway.model_store.upkeep import Upkeep
from gateway.model_store.verification import Verified, verify_model


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("verify", help="read every byte of a stored model, or of all, and compare digests")
    add_config_options(parser)
    parser.add_argument("model", nargs="?", metavar="ID")
    parser.add_argument(
        "--repair", action="store_true", help="remove damaged files; `pull` or the next start fetches them again"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    with opened_store(options) as (config, folders), progress_bar() as report:
        models = [options.model] if options.model else Upkeep(folders, say).models()
        verified = [
            one
            for model in models
            for one in verify_model(folders, config.downloads, model, report, repair=options.repair)
        ]
    for one in verified:
        say(_line(one))
    return 0 if all(one.sound for one in verified) else 1


def _line(one: Verified) -> str:
    found = [
        f"{kind}: {', '.join(names)}"
        for kind, names in (("damaged", one.damaged), ("missing", one.missing), ("not in the manifest", one.foreign))
        if names
    ]
    state = "; ".join(found) or f"{one.files} files are sound, {one.declared} with a digest that the source declared"
    return f"{one.model} {one.version}: {state}; {one.signature}"
