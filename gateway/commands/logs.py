"""`mlx-gateway logs`: what a running server logged, and logs from now on."""

import argparse
import json
import time
from contextlib import suppress
from typing import Any

from gateway.commands.configuration import Subcommands
from gateway.commands.output import say
from gateway.commands.server_client import add_server_options, server
from gateway.observability.log_line import CONTROL, LEVELS

FIRST_FIELDS = ("time", "level", "logger", "message")


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("logs", help="show what a running server logged")
    add_server_options(parser)
    parser.add_argument("--follow", action="store_true", help="go on with what is logged from now on")
    parser.add_argument("--level", default="", choices=list(LEVELS), help="this and above")
    parser.add_argument("--search", default="", metavar="TEXT", help="lines that hold this text")
    parser.add_argument("--request", default="", metavar="ID", help="of one request")
    parser.add_argument("--since", default="", metavar="TIME", help="such as 10m, 24h or 2026-01-31T12:00")
    parser.add_argument("--lines", type=int, default=50, metavar="N", help="the latest so many (default: 50)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    wanted = {name: getattr(options, name) for name in ("level", "search", "request", "since")}
    asked = {name: value for name, value in wanted.items() if value} | {"limit": str(options.lines)}
    with server(options) as client:
        if not options.follow:
            for entry in client.ask("GET", "/admin/logs", params=asked)["data"]:
                say(_readable(entry))
            return 0
        with suppress(KeyboardInterrupt):
            for event in client.events("/admin/logs", asked | {"follow": "true"}):
                say(_readable(json.loads(event)))
    return 0


def _readable(entry: dict[str, Any]) -> str:
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["time"]))
    fields = "".join(f" {name}={value}" for name, value in entry.items() if name not in FIRST_FIELDS)
    return f"{clock} {entry['level']:<7} {entry['message']}{fields}".translate(CONTROL)
