"""`mlx-gateway models`, `load`, `evict`, `pin`, `unpin`: what a running server has in memory."""

import argparse
from typing import Any

from gateway.commands.configuration import Subcommands
from gateway.commands.server_client import add_server_options, server

ACTIONS = {
    "load": "bring a model into memory, and wait until it is there",
    "evict": "give up a model's memory until somebody asks for it",
    "pin": "keep a model in memory whatever others need",
    "unpin": "let a model make room for others",
}


def add_to(commands: Subcommands) -> None:
    listing = commands.add_parser("models", help="list the models of a running server")
    add_server_options(listing)
    listing.set_defaults(run=show)
    for action, says in ACTIONS.items():
        parser = commands.add_parser(action, help=says)
        parser.add_argument("model", metavar="ID")
        add_server_options(parser)
        parser.set_defaults(run=act, action=action)


def show(options: argparse.Namespace) -> int:
    with server(options) as client:
        told = client.ask("GET", "/admin/models")
    memory = told["memory"]
    print(f"{_size(memory['budget_bytes'] - memory['free_bytes'])} of {_size(memory['budget_bytes'])} in use")  # noqa: T201
    for model in told["models"]:
        print(_line(model))  # noqa: T201
    return 0


def act(options: argparse.Namespace) -> int:
    wait = "?wait=true" if options.action == "load" else ""
    with server(options) as client:
        print(_line(client.ask("POST", f"/admin/models/{options.model}/{options.action}{wait}")))  # noqa: T201
    return 0


def _line(model: dict[str, Any]) -> str:
    taken = model["weight_bytes"] or model["loaded_bytes"] or model["predicted_bytes"]
    notes = ["pinned"] * model["pinned"]
    if model["leases"] or model["waiting"]:
        notes.append(f"{model['leases']} running, {model['waiting']} waiting")
    if model["state"] in ("locating", "loading", "failed"):
        notes.append(model["doing"] + (f" ({100 * model['fraction']:.0f} %)" if model["fraction"] else ""))
    return f"{model['id']:40} {model['state']:9} {_size(taken):>9}  {'; '.join(notes)}".rstrip()


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
