"""`mlx-gateway usage`: how much was asked of which model by whom. No server is needed."""

import argparse
import time

from gateway.commands.configuration import Subcommands, add_config_options, configuration
from gateway.commands.output import say, say_table
from gateway.observability.moment import moment
from gateway.observability.usage_database import FILE_NAME
from gateway.observability.usage_query import GROUPS, UsageQuery, group_names, usage_rows


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("usage", help="tell how much was asked of which model by whom")
    add_config_options(parser)
    parser.add_argument("--since", default="7d", metavar="TIME", help="such as 24h, 7d or 2026-01-31 (default: 7d)")
    parser.add_argument("--until", metavar="TIME", help="(default: now)")
    parser.add_argument("--by", default="model", metavar="WHAT", help=f"some of {','.join(GROUPS)} (default: model)")
    for name in ("key", "model", "client"):
        parser.add_argument(f"--{name}", default="", help=f"of this {name} only")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    now = time.time()
    query = UsageQuery(
        since=moment(options.since, now, "--since"),
        until=moment(options.until, now, "--until") if options.until else 0.0,
        key=options.key,
        model=options.model,
        client=options.client,
        group_by=group_names(options.by),
    )
    rows = usage_rows(configuration(options).store_directory / FILE_NAME, query)
    if not rows:
        say("Nothing was asked in that time.")
        return 0
    heading = [name.replace("_", " ").upper() for name in query.columns]
    say_table([heading, *([_cell(value) for value in row] for row in rows)])
    return 0


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else str(value)
