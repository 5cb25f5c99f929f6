"""`mlx-gateway gc`: removes the versions of models that nobody needs any more."""

import argparse

from gateway.commands.configuration import Subcommands, add_config_options
from gateway.commands.output import megabytes, say
from gateway.commands.stored_models import hub_source, opened_store
from gateway.model_store.sources import read_hub_id
from gateway.model_store.upkeep import Upkeep


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser(
        "gc", help="remove old versions of models, but none that is current, in use or named in the configuration"
    )
    add_config_options(parser)
    parser.add_argument("--keep", type=int, default=1, metavar="N", help="earlier versions to keep (default: 1)")
    parser.add_argument("--pin", action="append", default=[], metavar="ID@REVISION", help="keep this version, too")
    parser.add_argument("--downloads", action="store_true", help="remove what unfinished downloads left, too")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    with opened_store(options) as (config, folders):
        configured = (read_hub_id(offered.source) for offered in config.offered_models)
        pinned = [hub_source(named) for named in options.pin] + [source for source in configured if source]
        removed = Upkeep(folders, say).collect_garbage(
            keep=max(0, options.keep), pinned=pinned, downloads=options.downloads, dry_run=options.dry_run
        )
    for one in removed:
        say(f"{'would remove' if options.dry_run else 'removed'} {one.model} {one.what}, {megabytes(one.size_bytes)}")
    say(
        f"{len(removed)} removed, {megabytes(sum(one.size_bytes for one in removed))}"
        if removed
        else "nothing to remove"
    )
    return 0
